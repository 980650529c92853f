"""Output that nobody takes, disks that take nothing, and Ctrl-C: an exit code, and no traceback."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mmsb_jax.cli import main
from mmsb_jax.cli.common import command as _command
from tests.cli._commands import COMMANDS, MAKING, tree_of, words

MMSB = (sys.executable, "-c", "from mmsb_jax.cli import main; main()")
FAILED, INTERRUPTED, PIPE_CLOSED = 3, 130, 141
DISK_FULL = "error: the output cannot be written: No space left on device. See to where it goes.\n"


@pytest.fixture
def place(mmsb, recorder, small, tmp_path, monkeypatch) -> Path:
    """A directory to work in, with a log ``run.mmsb`` and its ``stream``."""
    recorder.close()
    monkeypatch.chdir(tmp_path)
    assert mmsb("export", "run.mmsb", "stream").code == 0
    return tmp_path


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.fixture
def full_disk() -> Iterator[int]:
    """A file on a disk without room."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


def run(*arguments: str, unbuffered: str = "", **more) -> subprocess.CompletedProcess:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    return subprocess.run([*MMSB, *arguments], text=True, env=env, **streams)


PRINTING = {**{name: words(name, "run.mmsb") for name in COMMANDS}, "help": ["--help"]}
PRINTING |= {"help of log": ["log", "--help"], "version": ["--version"]}


@pytest.mark.parametrize("command", PRINTING)
def test_command_whose_reader_has_gone_ends_as_by_sigpipe(place, closed_pipe, command):
    ran = run(*PRINTING[command], stdout=closed_pipe)
    assert (ran.returncode, ran.stderr) == (PIPE_CLOSED, "")


@pytest.mark.parametrize("command", PRINTING)
def test_command_whose_output_fits_nowhere_says_so(place, full_disk, command):
    ran = run(*PRINTING[command], stdout=full_disk)
    assert (ran.returncode, ran.stderr) == (FAILED, DISK_FULL)


def test_output_fails_alike_where_python_keeps_none_back(place, closed_pipe, full_disk):
    for nowhere, code in ((closed_pipe, PIPE_CLOSED), (full_disk, FAILED)):
        for command in (["log", "run.mmsb"], ["--help"]):
            ran = run(*command, stdout=nowhere, unbuffered="1")
            assert (ran.returncode, ran.stderr) == (code, DISK_FULL if code == FAILED else "")


def test_command_that_cannot_say_why_has_its_code(place, full_disk, closed_pipe):
    for nowhere in (full_disk, closed_pipe):
        assert run("log", "missing", stderr=nowhere).returncode == FAILED


def test_note_that_cannot_be_told_is_no_failure(place, full_disk):
    (segment,) = (place / "run.mmsb" / "log").glob("*.seg")
    with segment.open("ab") as file:
        file.write(b"torn")
    assert "note: " in run("log", "run.mmsb").stderr
    ran = run("log", "run.mmsb", stderr=full_disk)
    assert ran.returncode == 0
    assert ran.stdout.splitlines()[-1].startswith("      4")


def test_command_with_nowhere_to_print_answers_by_its_code(place):
    shell = 'exec "$@" >&-'
    for command, code in ((["verify", "run.mmsb"], 0), (["verify", "missing"], FAILED)):
        ran = subprocess.run(["sh", "-c", shell, "sh", *MMSB, *command], capture_output=True)
        assert ran.returncode == code, ran.stderr


def small_files_only() -> None:
    """From here on a file cannot grow beyond 100 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


@pytest.mark.parametrize("command", [*MAKING, "tag", "compact", "import"])
def test_command_that_the_disk_refuses_says_so_and_leaves_no_part(place, command):
    before = tree_of(place)
    log = "new.mmsb" if command == "import" else "run.mmsb"
    ran = run(*words(command, log), preexec_fn=small_files_only)
    assert ran.returncode == FAILED, ran.stdout
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1
    assert "too large" in ran.stderr
    # A directory is filled file by file; until it is whole it has no manifest.
    left = tree_of(place).keys() - before.keys()
    assert left == ({"out", "out/params"} if command == "checkout" else set())


@pytest.mark.parametrize("command", COMMANDS)
def test_command_interrupted_at_work_exits_130(mmsb, place, monkeypatch, command):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    before = tree_of(place)
    monkeypatch.setattr("mmsb_jax._store.format.manifest.Manifest.read", interrupt)
    ran = mmsb(*words(command, "run.mmsb"))
    assert (ran.code, ran.out, ran.err) == (INTERRUPTED, "", "")
    assert tree_of(place) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_command_interrupted_before_its_work_exits_130(mmsb, place, monkeypatch, command):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_command._PathText, "convert", interrupt)
    assert mmsb(*words(command, "run.mmsb")).code == INTERRUPTED


def test_follow_interrupted_while_it_waits_exits_130(place):
    command = [*MMSB, "follow", "run.mmsb", "--after", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:
        lines = [child.stdout.readline() for _ in range(4)]
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    assert (child.returncode, out, err) == (INTERRUPTED, "", "")


def test_error_of_the_system_in_a_command_is_not_said_to_be_its_output(mmsb, place, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("mmsb_jax._store.format.manifest.Manifest.read", fail)
    ran = mmsb("log", "run.mmsb")
    assert ran.code == FAILED
    assert ran.err == (
        "error: run.mmsb cannot be read: Input/output error. See to the permissions and the disk.\n"
    )


def test_command_with_a_fault_of_its_own_shows_it(mmsb, place, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a fault")

    monkeypatch.setattr("mmsb_jax._store.format.manifest.Manifest.read", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        mmsb("log", "run.mmsb")


def test_exit_codes_are_told_in_the_help():
    told = click.unstyle(main.get_help(click.Context(main)))
    for code in (0, 1, 2, FAILED, INTERRUPTED, PIPE_CLOSED):
        assert str(code) in told
