"""``mmsb repair``."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def damaged(recorder):
    """Eight versions, a snapshot of version 5, and the data of version 3 damaged."""
    rng = np.random.default_rng(7)
    for i in range(8):
        recorder.commit({"x": rng.random(64)}, step=10 * i)
        if i == 4:
            recorder.snapshot()
    found = recorder.log.find(3)
    recorder.close()
    segment = Path(recorder.path) / found.piece.segment.name
    raw = bytearray(segment.read_bytes())
    raw[found.end_offset - 100] ^= 1
    segment.write_bytes(raw)
    return Path(recorder.path)


def everything(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_repair_makes_a_whole_log_beside_and_touches_nothing_else(mmsb, damaged, tmp_path):
    assert mmsb("verify", damaged).code == 1
    before = everything(damaged)
    ran = mmsb("repair", damaged, tmp_path / "new")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == [
        f"{tmp_path / 'new'}: versions 6 to 8, and the states of 5",
        f"{tmp_path / 'new-versions-1-2'}: versions 1 to 2",
        "only what the commits say is left of versions 3 to 4",
    ]
    assert everything(damaged) == before
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith((".", "new"))) == [
        "new",
        "new-versions-1-2",
    ]
    for place, versions in (("new", 3), ("new-versions-1-2", 2)):
        report = mmsb("verify", tmp_path / place, "--deep", "--json").json
        assert (report["whole"], report["versions"]) == (True, versions)
    commits = mmsb("log", tmp_path / "new", "--json").json["commits"]
    assert [commit["step"] for commit in commits] == list(range(0, 80, 10))


def test_repair_says_in_json_what_it_made(mmsb, damaged, tmp_path):
    report = mmsb("repair", damaged, tmp_path / "new", "--json").json
    assert report == {
        "logs": [
            {"place": str(tmp_path / "new"), "since": 6, "last": 8, "kept": [5], "said": 1},
            {
                "place": str(tmp_path / "new-versions-1-2"),
                "since": 1,
                "last": 2,
                "kept": [],
                "said": 1,
            },
        ],
        "said_only": [[3, 4]],
        "lost": [],
        "notes": [],
    }


def test_a_place_that_is_taken_is_refused_and_nothing_is_left(mmsb, damaged, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("mine")
    ran = mmsb("repair", damaged, tmp_path / "new")
    assert ran.code == 3
    assert "exists already" in ran.err
    assert everything(tmp_path / "new") == {"mine": b"mine"}

    (tmp_path / "other-versions-1-2").write_text("mine")
    ran = mmsb("repair", damaged, tmp_path / "other")
    assert ran.code == 3
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob(".*"))


def test_what_is_no_log_is_refused(mmsb, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = mmsb("repair", tmp_path / "empty", tmp_path / "new")
    assert ran.code == 3
    assert "is not a log" in ran.err
    assert not (tmp_path / "new").exists()
    assert mmsb("repair", tmp_path / "none", tmp_path / "new").code == 3


def test_a_log_of_which_nothing_is_whole_is_refused(mmsb, damaged, tmp_path):
    for path in damaged.rglob("*.s*"):
        path.write_bytes(bytes(path.stat().st_size))
    ran = mmsb("repair", damaged, tmp_path / "new")
    assert ran.code == 3
    assert "no state can be had" in ran.err
    assert not (tmp_path / "new").exists()
