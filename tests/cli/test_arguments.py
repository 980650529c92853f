"""Every command with every bad argument: an exit code and a line that says why, and no damage."""

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mmsb_jax.cli import main
from tests.cli._commands import COMMANDS, MAKING, tree_of, words

USAGE, FAILED, NO, FINE = 2, 3, 1, 0


@pytest.fixture
def place(mmsb, recorder, tmp_path, monkeypatch) -> Path:
    """A directory to work in, with a log ``run.mmsb`` of two versions and its ``stream``."""
    arrays = {"w": np.zeros(100, np.float32), "params/w": np.zeros(2)}
    recorder.commit(arrays, step=1, time_ns=10, note='{"loss": 1}')
    recorder.commit({"w": np.ones(100, np.float32)}, step=2, time_ns=20)
    recorder.close()
    monkeypatch.chdir(tmp_path)
    assert mmsb("export", "run.mmsb", "stream").code == 0
    return tmp_path


def test_commands_are_all_in_the_table():
    assert {words[0] for words in COMMANDS.values()} == main.commands.keys() - {
        "demo", "bench", "completion",
    }  # fmt: skip


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n") and text[:-1].isprintable()


def check(ran, code: int) -> None:
    """The code, and why on stderr; nothing else was said, where nothing was answered."""
    assert ran.code == code, (ran.out, ran.err)
    if code == USAGE:
        assert ran.err.startswith("Usage:")
        assert ran.err.splitlines()[-1].startswith("Error: ")
    if code == FAILED:
        assert one_line(ran.err)
        assert ran.err.startswith("error: ")
        for strange in ("Errno", "None", "Traceback"):
            assert strange not in ran.err
    if code in (USAGE, FAILED):
        assert ran.out == ""


# --- paths of logs ---------------------------------------------------------------------------


def a_file(place: Path) -> str:
    (place / "file").write_text("mine")
    return "file"


def below_a_file(place: Path) -> str:
    return a_file(place) + "/below"


def no_log(place: Path) -> str:
    (place / "folder").mkdir()
    (place / "folder" / "mine").write_text("mine")
    return "folder"


def a_pipe(place: Path) -> str:
    os.mkfifo(place / "pipe")
    return "pipe"


def a_socket(place: Path) -> str:
    """What is no file, as a device is: a command that is at fault must not meet one of those."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    return "socket"


def a_dangling_link(place: Path) -> str:
    (place / "dangling").symlink_to("nowhere")
    return "dangling"


def a_loop(place: Path) -> str:
    (place / "loop").symlink_to("loop")
    return "loop"


def damaged(place: Path) -> str:
    (segment,) = (place / "run.mmsb" / "log").glob("*.seg")
    raw = bytearray(segment.read_bytes())
    raw[200] ^= 1  # in the first commit: of the second, the state cannot be had
    segment.write_bytes(raw)
    return "run.mmsb"


def damaged_manifest(place: Path) -> str:
    manifest = place / "run.mmsb" / "manifest"
    raw = bytearray(manifest.read_bytes())
    raw[40] ^= 1
    manifest.write_bytes(raw)
    return "run.mmsb"


def empty_manifest(place: Path) -> str:
    (place / "run.mmsb" / "manifest").write_bytes(b"")
    return "run.mmsb"


def without_segments(place: Path) -> str:
    shutil.rmtree(place / "run.mmsb" / "log")
    return "run.mmsb"


def segments_in_a_file(place: Path) -> str:
    without_segments(place)
    (place / "run.mmsb" / "log").write_text("mine")
    return "run.mmsb"


def a_folder_for_a_segment(place: Path) -> str:
    (segment,) = (place / "run.mmsb" / "log").glob("*.seg")
    segment.unlink()
    segment.mkdir()
    return "run.mmsb"


def a_folder_for_the_manifest(place: Path) -> str:
    (place / "run.mmsb" / "manifest").unlink()
    (place / "run.mmsb" / "manifest").mkdir()
    return "run.mmsb"


ANYWHERE: dict[str, tuple[Callable[[Path], str], int]] = {
    "empty": (lambda _: "", USAGE),
    "with a zero": (lambda _: "a\0b", USAGE),
    "with half a character": (lambda _: "a\ud800", USAGE),
    "a URL": (lambda _: "s3://bucket/run", FAILED),
    "too long": (lambda _: "x" * 300, FAILED),
    "far too long": (lambda _: "x/" * 3000, FAILED),
    "below a file": (below_a_file, FAILED),
    "a pipe": (a_pipe, FAILED),
    "a dangling link": (a_dangling_link, FAILED),
    "a link to itself": (a_loop, FAILED),
}
"""Paths that serve for nothing, and what each is answered with."""

BAD_LOGS: dict[str, tuple[Callable[[Path], str], int, dict[str, int]]] = {
    **{name: (make, code, {}) for name, (make, code) in ANYWHERE.items()},
    "missing": (lambda _: "missing", FAILED, {"import": FINE}),
    "of no user": (lambda _: "~nobody-here/run", FAILED, {"import": FINE}),
    "in no encoding": (lambda _: os.fsdecode(b"caf\xe9"), FAILED, {"import": FINE}),
    "a file": (a_file, FAILED, {}),
    "a socket": (a_socket, FAILED, {}),
    "a directory that is no log": (no_log, FAILED, {}),
    "where one works": (lambda _: ".", FAILED, {}),
    "damaged": (damaged, FAILED, {"verify": NO}),
    "without a whole manifest": (damaged_manifest, FAILED, {"verify": NO, "repair": FINE}),
    "with an empty manifest": (empty_manifest, FAILED, {"verify": NO, "repair": FINE}),
    "without segments": (without_segments, FAILED, {"verify": NO}),
    "with a file for segments": (segments_in_a_file, FAILED, {}),
    "with a folder for a segment": (a_folder_for_a_segment, FAILED, {}),
    "with a folder for a manifest": (a_folder_for_the_manifest, FAILED, {"repair": FINE}),
}
"""Of each how it is made, what is answered, and what by which commands instead."""


@pytest.mark.parametrize("bad", BAD_LOGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_command_on_a_bad_log_says_why_and_changes_nothing(mmsb, place, command, bad):
    make, code, by_command = BAD_LOGS[bad]
    path = make(place)
    code = by_command.get(command, code)
    before = tree_of(place)
    ran = mmsb(*words(command, path))
    check(ran, code)
    if code != FINE:
        assert tree_of(place) == before
    if code == FAILED:
        told = mmsb(*words(command, path), "--json")
        assert told.out == ""
        assert told.error.keys() == {"error", "message"}
        assert tree_of(place) == before


NONE_YET = dict.fromkeys(("show", "diff", "tag", "compact", "repair", "history", "notes"), FAILED)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_on_an_empty_log_is_answered(mmsb, recorder, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    recorder.close()
    assert mmsb("export", "run.mmsb", "stream", "--since", 0).code == 0
    check(mmsb(*words(command, "run.mmsb")), NONE_YET.get(command, FINE))


# --- places to make something at -------------------------------------------------------------


BAD_TARGETS: dict[str, tuple[Callable[[Path], str], int, dict[str, int]]] = {
    **{name: (make, code, {}) for name, (make, code) in ANYWHERE.items()},
    "a file": (a_file, FAILED, {}),
    "a full directory": (no_log, FAILED, {}),
    "the log": (lambda _: "run.mmsb", FAILED, {}),
    "where one works": (lambda _: ".", FAILED, {}),
    "a socket": (a_socket, FAILED, {}),
    "in a missing folder": (lambda _: "none/out", FAILED, {"fork": FINE, "repair": FINE}),
    "where nothing can be made": (lambda _: "/proc/out", FAILED, {}),
}


@pytest.mark.parametrize("bad", BAD_TARGETS)
@pytest.mark.parametrize("command", [name for name in MAKING if name != "checkout-npz"])
def test_command_to_a_bad_place_says_why_and_changes_nothing(mmsb, place, command, bad):
    make, code, by_command = BAD_TARGETS[bad]
    code = by_command.get(command, code)
    out = make(place)
    before = tree_of(place)
    check(mmsb(*words(command, "run.mmsb", out)), code)
    if code != FINE:
        assert tree_of(place) == before


def test_repair_to_the_root_is_refused(mmsb, place):
    check(mmsb("repair", "run.mmsb", "/"), FAILED)


@pytest.mark.parametrize("command", ["checkout-npz", "export"])
@pytest.mark.parametrize("there", [a_file, a_pipe, a_socket, no_log, a_loop, a_dangling_link])
def test_command_to_a_file_overwrites_none_without_force(mmsb, place, command, there):
    (place / there(place)).rename(place / "out.npz")
    before = tree_of(place)
    arguments = words(command, "run.mmsb", "out" if command == "checkout-npz" else "out.npz")
    check(mmsb(*arguments), FAILED)
    assert tree_of(place) == before
    is_replaced = there in (a_file, a_loop, a_dangling_link)
    check(mmsb(*arguments, "--force"), FINE if is_replaced else FAILED)
    assert (tree_of(place) != before) == is_replaced


@pytest.mark.parametrize("bad", ["missing", "cut", *ANYWHERE, "a file", "a folder", "a socket"])
def test_import_of_a_bad_stream_makes_no_log(mmsb, place, bad):
    stream = (place / "stream").read_bytes()
    (place / "cut").write_bytes(stream[:-100])
    makers = {"a file": (a_file, FAILED), "a folder": (no_log, FAILED), **ANYWHERE}
    makers["a socket"] = (a_socket, FAILED)
    make, code = makers.get(bad, (lambda _: bad, FAILED))
    path = make(place)
    before = tree_of(place)
    for log in ("new.mmsb", "run.mmsb"):
        check(mmsb("import", log, path), code)
        assert tree_of(place) == before


def test_import_of_a_gap_makes_no_log(mmsb, place):
    assert mmsb("export", "run.mmsb", "late", "--since", 1).code == 0
    before = tree_of(place)
    check(mmsb("import", "new.mmsb", "late"), FAILED)
    assert tree_of(place) == before


# --- what a name says ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.safetensors", "x.npy", "x.h5", "x.NPZ", "x.pt", "run.mmsb-2"])
def test_checkout_to_a_file_of_another_kind_is_refused(mmsb, place, name):
    before = tree_of(place)
    ran = mmsb("checkout", "run.mmsb", "--out", name)
    check(ran, FAILED)
    assert f"{name} names a file of a kind that is not written here" in ran.err
    assert f"a directory: {name}/" in ran.err
    assert tree_of(place) == before
    assert mmsb("checkout", "run.mmsb", "--out", f"{name}/").code == 0
    assert (place / name / "mmsb.json").is_file()
    assert mmsb("checkout", "run.mmsb", "--out", name, "--force").code == 0


@pytest.mark.parametrize("name", ["v1.5", "out", ".hidden", "step-10"])
def test_checkout_to_a_name_of_no_kind_makes_a_directory(mmsb, place, name):
    assert mmsb("checkout", "run.mmsb", "--out", name).code == 0
    assert (place / name / "mmsb.json").is_file()


@pytest.mark.parametrize("name", [".npz", "..npz", "a.b.npz"])
def test_checkout_to_a_name_with_the_suffix_makes_a_file(mmsb, place, name):
    assert mmsb("checkout", "run.mmsb", "--out", name).code == 0
    assert np.load(place / name)["w"].tobytes() == np.ones(100, np.float32).tobytes()


@pytest.mark.parametrize("command", COMMANDS)
def test_command_on_a_name_in_no_encoding_works(mmsb, place, command):
    (place / "run.mmsb").rename(place / os.fsdecode(b"caf\xe9.mmsb"))
    assert mmsb(*words(command, os.fsdecode(b"caf\xe9.mmsb"), os.fsdecode(b"\xe9"))).code == 0


def test_path_under_a_home_is_found_without_a_shell(mmsb, place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    assert mmsb("checkout", "~/run.mmsb", "--out", "~/out.npz").code == 0
    assert (place / "out.npz").is_file()


# --- versions, numbers, words ----------------------------------------------------------------

HUGE = 10**30
OPTIONS: dict[str, tuple[tuple[str, ...], dict[object, int]]] = {
    "show": (("show", "LOG", "--"), {"-1": 3, "0": 3, "3": 3, HUGE: 3, "no tag": 3, "": 3}),
    "diff old": (("diff", "LOG", "--exit-code", "2", "--"), {}),  # see below
    "compact": (("compact", "LOG", "--keep-since"), {"-1": 3, "0": 3, "3": 3, HUGE: 3, "x": 3}),
    "tag": (("tag", "LOG", "t", "--version"), {"-1": 3, "0": 3, "3": 3, HUGE: 3, "x": 3}),
    "tag name": (("tag", "LOG", "--"), {"": 2, "7": 2, "a\nb": 2, "\ud800": 2, "x" * 256: 2}),
    "no tag": (("tag", "LOG", "--delete", "--"), {"none": 3, "": 2, "7": 2}),
    "tag step": (("tag", "LOG", "t", "--step"), {"0": 3, "x": 2, HUGE: 2}),
    "fork": (("fork", "LOG", "out", "--version"), {"-1": 3, "3": 3, HUGE: 3, "x": 3, "1.5": 3}),
    "fork step": (("fork", "LOG", "out", "--step"), {"0": 3, "x": 2, "1.5": 2, HUGE: 2}),
    "fork time": (("fork", "LOG", "out", "--time-ns"), {"9": 3, "-1": 3, "nan": 2, HUGE: 2}),
    "checkout": (("checkout", "LOG", "--out", "o", "--version"), {"-1": 3, HUGE: 3, "x": 3}),
    "checkout array": (("checkout", "LOG", "--out", "o", "--arrays"), {"x": 3, "": 3, "\ud800": 3}),
    "diff array": (("diff", "LOG", "1", "2", "--arrays"), {"x": 3, "": 3, "a\0b": 3, "[": 3}),
    "log array": (("log", "LOG", "--array"), {"x": 3, "": 3, "\ud800": 3}),
    "log source": (("log", "LOG", "--source"), {"x": 0, "": 0, "\ud800": 0}),
    "log since": (("log", "LOG", "--since"), {"-1": 0, HUGE: 0, "x": 2, "": 2, "1.5": 2}),
    "log until": (("log", "LOG", "--until"), {"-1": 0, HUGE: 0, "x": 2, "": 2, "1.5": 2}),
    "log limit": (("log", "LOG", "-n"), {"-1": 2, HUGE: 0, "x": 2, "1.5": 2}),
    "export": (("export", "LOG", "out", "--since"), {"-1": 2, "3": 3, HUGE: 3, "x": 2}),
    "follow": (("follow", "LOG", "--timeout", "0", "--after"), {"-1": 2, "3": 3, HUGE: 3, "x": 2}),
    "timeout": (("follow", "LOG", "--timeout"), {"nan": 2, "-1": 2, "-inf": 2, "x": 2, "": 2}),
    "repair": (("repair", "LOG", "out", "--page-bytes"), {"-1": 2, "0": 2, "127": 2, "x": 2}),
    "command": ((), {"": 2, "nonsense": 2, "\ud800": 2, "--nonsense": 2}),
}
OPTIONS["diff old"] = (OPTIONS["diff old"][0], OPTIONS["show"][1] | {"0": 1, "1": 1, "2": 0})


@pytest.mark.parametrize(
    ("option", "value"),
    [(option, value) for option, (_, known) in OPTIONS.items() for value in known],
)
def test_command_with_a_bad_value_says_why_and_makes_nothing(mmsb, place, option, value):
    arguments, known = OPTIONS[option]
    before = tree_of(place)
    ran = mmsb(*("run.mmsb" if word == "LOG" else word for word in arguments), value)
    check(ran, known[value])
    assert tree_of(place) == before


def test_missing_array_is_told_with_each_name_once(mmsb, place):
    for command in (("diff", "run.mmsb", 1, 2, "--arrays"), ("log", "run.mmsb", "--array")):
        ran = mmsb(*command, "x")
        assert ran.err.endswith("matches 'x'. There are 2, among them: params/w, w\n")


def test_missing_array_of_a_log_that_made_it_anew_is_told_with_each_name_once(mmsb, recorder):
    for array in (np.zeros(3), None, np.ones(3)):
        recorder.commit({"x": array})
    ran = mmsb("log", recorder.path, "--array", "y")
    assert ran.err.endswith("There are 1, among them: x\n")


# --- what the system forbids -----------------------------------------------------------------


@pytest.fixture
def elsewhere(place, monkeypatch) -> Iterator[Path]:
    """A copy of `place` where others may come to: pytest lets nobody into its own folders."""
    with tempfile.TemporaryDirectory() as root:
        shutil.copytree(place, root, dirs_exist_ok=True)
        Path(root).chmod(0o755)
        with monkeypatch.context() as patch:
            patch.chdir(root)
            yield Path(root)


@contextlib.contextmanager
def as_another() -> Iterator[None]:
    """What runs within may only do what the modes of files say; root may do anything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("closed", [".", "run.mmsb", "run.mmsb/log", "run.mmsb/manifest"])
@pytest.mark.parametrize("command", COMMANDS)
def test_command_without_permission_to_read_says_so(mmsb, elsewhere, command, closed):
    (elsewhere / closed).chmod(0)
    with as_another():
        ran = mmsb(*words(command, elsewhere / "run.mmsb"))
    (elsewhere / closed).chmod(0o755)
    check(ran, FAILED)
    assert "permission" in ran.err.lower()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["run.mmsb", "stream"]


@pytest.mark.parametrize("command", [*MAKING, "tag", "compact", "import"])
def test_command_without_permission_to_write_says_so(mmsb, elsewhere, command):
    elsewhere.chmod(0o555)
    before = tree_of(elsewhere)
    with as_another():
        ran = mmsb(*words(command, "new.mmsb" if command == "import" else "run.mmsb"))
    check(ran, FAILED)
    assert "permission" in ran.err.lower()
    assert tree_of(elsewhere) == before
