"""What holds for every command: exit codes, errors, escapes, and that nothing is changed."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmsb_jax._store.files.lock import WriterLock
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.table import print_table
from mmsb_jax.cli.inspect import verify

from .conftest import Recorder, strict_json

READING = [("log",), ("show",), ("diff", 0, 1), ("verify",), ("stats",)]
STRANGE = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "line\nfeed\rreturn",
    "[bold]markup[/bold]",
    "[link=file:///etc]link",
    "\u202eesrever",
    "\x7fdel",
    ":smile:",
    "back\\slash",
]


def run_args(command: tuple, path: str, *more: object) -> tuple:
    return command[0], path, *command[1:], *more


@pytest.fixture
def strange(recorder: Recorder) -> str:
    """The path of a log in which every word is hostile."""
    evil = "".join(STRANGE)
    arrays = {name: np.ones(3, np.float32) for name in STRANGE}
    recorder.commit(arrays, kind=evil, source=evil, note=to_json(evil), values={evil: f"s:{evil}"})
    recorder.commit({STRANGE[0]: np.zeros(3, np.float32)}, values={evil: "f:\x1b[2J"})
    return recorder.path


@pytest.mark.parametrize("command", READING)
def test_command_on_a_whole_log_exits_0(mmsb, small, command):
    ran = mmsb(*run_args(command, small))
    assert ran.code == 0
    assert ran.out
    assert ran.err == ""


@pytest.mark.parametrize("command", READING)
def test_command_with_json_prints_one_document(mmsb, small, command):
    ran = mmsb(*run_args(command, small, "--json"))
    assert ran.code == 0
    assert isinstance(ran.json, dict)


@pytest.mark.parametrize("command", [*READING, ("fork", "new.mmsb"), ("checkout", "--out", "x")])
def test_command_on_a_missing_path_exits_3(mmsb, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    ran = mmsb(*run_args(command, "nowhere.mmsb"))
    assert ran.code == 3
    assert ran.out == ""
    assert "nowhere.mmsb is not a directory" in ran.err
    assert "Traceback" not in ran.err
    assert list(tmp_path.iterdir()) == []


def test_command_on_a_missing_path_with_json_explains_in_json(mmsb, tmp_path):
    ran = mmsb("log", tmp_path / "nowhere", "--json")
    assert ran.code == 3
    assert ran.out == ""
    assert ran.error["error"] == "LocationError"
    assert "nowhere is not a directory" in ran.error["message"]


@pytest.mark.parametrize(
    ("path", "message"), [("s3://bucket/run", "is a URL"), (".", "is not a log")]
)
def test_command_on_what_is_no_log_exits_3(mmsb, tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    ran = mmsb("stats", path)
    assert ran.code == 3
    assert message in ran.err


def test_command_on_an_unreadable_file_exits_3(mmsb, recorder, small):
    recorder.close()
    manifest = Path(small, "manifest")
    manifest.unlink()
    manifest.mkdir()
    ran = mmsb("log", small)
    assert ran.code == 3
    assert "manifest is a folder, where a file of the log should be" in ran.err


@pytest.mark.parametrize(
    "command",
    [("show", 9), ("show", 0), ("show", "--step", 7), ("show", "--time-ns", 5), ("diff", 1, 9)],
)
def test_command_on_a_missing_version_exits_3(mmsb, small, command):
    ran = mmsb(*run_args(command, small, "--json"))
    assert ran.code == 3
    assert ran.error["error"] == "VersionError"


def test_command_on_a_negative_version_exits_3(mmsb, small):
    ran = mmsb("show", small, "--", -1)
    assert ran.code == 3
    assert "version -1 does not exist" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["log"],
        ["show", "PATH", "3", "4"],
        ["show", "PATH", "3", "--step", "30"],
        ["show", "PATH", "--step", str(2**63)],
        ["diff", "PATH", "1"],
        ["log", "PATH", "--limit", "-1"],
        ["checkout", "PATH"],
        ["nonsense"],
    ],
)
def test_command_used_wrongly_exits_2(mmsb, small, arguments):
    ran = mmsb(*(small if word == "PATH" else word for word in arguments))
    assert ran.code == 2
    assert "Usage:" in ran.err


def test_command_interrupted_exits_130(mmsb, small, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify_log", interrupt)
    assert mmsb("verify", small).code == 130


@pytest.mark.parametrize("command", READING)
def test_command_on_a_log_being_written_reads_it(mmsb, small, command):
    lock = WriterLock(Path(small))
    try:
        assert mmsb(*run_args(command, small)).code == 0
    finally:
        lock.release()


@pytest.mark.parametrize("command", READING)
def test_command_changes_nothing_on_disk(mmsb, small, command):
    def files() -> dict[str, tuple[bytes, int]]:
        found = (path for path in Path(small).rglob("*") if path.is_file())
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}

    before = files()
    assert mmsb(*run_args(command, small)).code == 0
    assert files() == before


def test_command_on_an_uncertain_tail_notes_it_on_stderr(mmsb, recorder):
    recorder.commit({"x": np.zeros(4)})
    segment = recorder.log.pieces[-1].segment.name
    with Path(recorder.path, segment).open("ab") as file:
        file.write(b"torn")
    ran = mmsb("log", recorder.path)
    assert ran.code == 0
    assert "note: log/" in ran.err
    assert len(mmsb("log", recorder.path, "--json").json["commits"]) == 1


@pytest.mark.parametrize("command", READING)
def test_table_of_strange_names_holds_no_control_character(mmsb, strange, command):
    ran = mmsb(*run_args(command, strange))
    assert ran.code == 0
    assert all(line.isprintable() for line in ran.out.split("\n"))


@pytest.mark.parametrize("command", READING)
def test_json_of_strange_names_is_printable_ascii(mmsb, strange, command):
    ran = mmsb(*run_args(command, strange, "--json"))
    assert ran.code == 0
    assert ran.out.isascii()
    assert all(line.isprintable() for line in ran.out.split("\n"))


def test_json_of_strange_names_gives_them_exactly(mmsb, strange):
    shown = mmsb("show", strange, 1, "--json").json
    assert sorted(array["name"] for array in shown["arrays"]) == sorted(STRANGE)
    assert shown["source"] == shown["note"] == "".join(STRANGE)


def test_error_with_a_strange_name_holds_no_control_character(mmsb, strange, tmp_path):
    evil = STRANGE[1]
    ran = mmsb("log", tmp_path / evil)
    assert ran.code == 3
    assert ran.err.removesuffix("\n").isprintable()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_text(monkeypatch, columns, rows, width=80) -> str:
    """What `print_table` writes in a terminal, without its own colours."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", Terminal())
    print_table(columns, rows)
    return re.sub(r"\x1b\[[0-9;]*m", "", sys.stdout.getvalue())


@pytest.mark.parametrize("name", STRANGE)
def test_table_in_a_terminal_shows_a_strange_name_as_it_is(monkeypatch, name):
    text = terminal_text(monkeypatch, ("array", "bytes"), [(name, 1)])
    assert all(line.isprintable() for line in text.split("\n"))
    plain = "".join(c if c.isprintable() else "?" for c in name)
    for word in re.findall(r"[\w\[\]/=:;]{3,}", plain):
        assert word in text


def test_table_in_a_narrow_terminal_cuts_no_number(monkeypatch):
    row = ("params/layers/0/weight", 1234567890, 9876543210)
    text = terminal_text(monkeypatch, ("array", "bytes", "changed"), [row], width=12)
    assert "1,234,567,890" in text
    assert "9,876,543,210" in text


def test_table_elsewhere_has_one_line_a_row(capsys):
    print_table(("array", "bytes"), [("x" * 300, 1), ("y", None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"array{' ' * 295}  bytes", f"{'x' * 300}      1", f"y{' ' * 299}      –"]


def test_json_of_numbers_without_a_word_is_a_string():
    value = {"a": [float("nan"), float("inf"), (-float("inf"), 1.5)], "b": "\x7f"}
    text = to_json(value)
    assert strict_json(text) == {"a": ["NaN", "Infinity", ["-Infinity", 1.5]], "b": "\x7f"}
    assert "\x7f" not in text


def test_command_where_the_encoding_is_narrow_writes_escapes(recorder):
    recorder.commit({"größe/重": np.zeros(3)})
    script = "from mmsb_jax.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", script, "diff", recorder.path, "0", "1"],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1:strict"},
    )
    assert b"gr\xf6\xdfe/\\u91cd" in ran.stdout


def test_help_of_every_command_is_printed(mmsb):
    overview = mmsb("--help")
    assert overview.code == 0
    commands = ["log", "show", "diff", "verify", "checkout", "fork", "stats", "demo"]
    for command in commands:
        assert f"\n  {command} " in overview.out
        assert mmsb(command, "--help").code == 0
