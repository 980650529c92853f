"""``mmsb verify``."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mmsb_jax.cli.common.progress import progress_bar


@pytest.fixture
def closed(recorder):
    """A closed log of six versions in two segments, with a snapshot of version 3."""
    rng = np.random.default_rng(7)
    for i in range(6):
        recorder.commit({"x": rng.random(64)})
        if i == 2:
            recorder.snapshot()
    recorder.close()
    return Path(recorder.path)


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


def test_verify_of_a_whole_log_exits_0(mmsb, closed):
    ran = mmsb("verify", closed)
    assert ran.code == 0
    assert ran.out.startswith("whole: 6 versions replayed, 1 snapshots compared")
    report = mmsb("verify", closed, "--json").json
    assert report["checked_bytes"] > 0
    del report["checked_bytes"]
    assert report == {"whole": True, "versions": 6, "snapshots": 1, "faults": [], "notes": []}


def test_verify_of_a_byte_flipped_in_a_sealed_segment_exits_1_with_the_place(mmsb, closed):
    segment = sorted((closed / "log").glob("*.seg"))[0]
    flip(segment, segment.stat().st_size // 2)
    ran = mmsb("verify", closed)
    assert ran.code == 1
    assert f"fault: log/{segment.name}, byte " in ran.out
    report = mmsb("verify", closed, "--json")
    assert report.code == 1
    assert report.json["whole"] is False
    assert segment.name in report.json["faults"][0]


def test_verify_of_a_byte_flipped_in_the_last_segment_exits_1_with_the_place(mmsb, closed):
    segment = sorted((closed / "log").glob("*.seg"))[-1]
    flip(segment, segment.stat().st_size // 2)
    ran = mmsb("verify", closed)
    assert ran.code == 1
    assert f"log/{segment.name} is damaged at byte " in ran.out
    assert len(mmsb("verify", closed, "--json").json["faults"]) == 1


def test_verify_of_a_byte_flipped_in_a_snapshot_exits_1_with_its_name(mmsb, closed):
    snapshot = next((closed / "snapshots").iterdir())
    flip(snapshot, snapshot.stat().st_size // 2)
    ran = mmsb("verify", closed)
    assert ran.code == 1
    assert f"fault: snapshots/{snapshot.name}: " in ran.out


def test_verify_of_a_damaged_manifest_exits_1(mmsb, closed):
    flip(closed / "manifest", 70)
    ran = mmsb("verify", closed, "--json")
    assert ran.code == 1
    assert "manifest is damaged" in ran.json["faults"][0]
    assert ran.json["versions"] == 0


def test_commands_on_a_damaged_log_read_what_is_whole_when_told_to(mmsb, closed):
    segment = sorted((closed / "log").glob("*.seg"))[-1]
    flip(segment, segment.stat().st_size // 2)
    refused = mmsb("log", closed, "--json")
    assert refused.code == 3
    assert refused.error["error"] == "CorruptionError"
    salvaged = mmsb("log", closed, "--salvage", "--json")
    assert salvaged.code == 0
    versions = [commit["version"] for commit in salvaged.json["commits"]]
    assert versions == list(range(1, len(versions) + 1))
    assert 3 <= len(versions) < 6
    assert "is damaged at byte" in mmsb("log", closed, "--salvage").err


def test_verify_in_a_terminal_reports_its_progress_on_stderr(closed, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar("versions") as progress:
        assert progress is not None
        progress(3, 6)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "50%" in captured.err


def test_verify_elsewhere_shows_no_progress(mmsb, closed):
    assert mmsb("verify", closed).err == ""
