"""``mmsb fork``."""

from pathlib import Path

import numpy as np
import pytest

from mmsb_jax.cli.change import fork as _fork


@pytest.mark.parametrize(
    ("selection", "version"),
    [([], 4), (["--version", 2], 2), (["--version", 0], 0), (["--step", 30], 3)],
)
def test_fork_of_a_selection_holds_the_versions_up_to_it(mmsb, small, tmp_path, selection, version):
    new = tmp_path / "new.mmsb"
    ran = mmsb("fork", small, new, *selection, "--json")
    assert ran.code == 0
    assert ran.json == {"version": version, "path": str(new)}
    commits = mmsb("log", new, "--json").json["commits"]
    assert [commit["version"] for commit in commits] == list(range(1, version + 1))
    assert mmsb("verify", new).code == 0


def test_fork_shows_the_state_of_the_log_it_came_from(mmsb, small, tmp_path):
    mmsb("fork", small, tmp_path / "new.mmsb", "--version", 3)
    there, here = (mmsb("show", p, 3, "--json").json for p in (small, tmp_path / "new.mmsb"))
    assert here["arrays"] == there["arrays"]
    assert here["chain"] == there["chain"]


def test_fork_into_an_empty_directory_is_made_there(mmsb, small, tmp_path):
    (tmp_path / "empty").mkdir()
    assert mmsb("fork", small, tmp_path / "empty").code == 0
    assert mmsb("verify", tmp_path / "empty").code == 0


def test_fork_onto_something_exits_3_and_leaves_it(mmsb, small, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for name in ("file", "full"):
        ran = mmsb("fork", small, tmp_path / name)
        assert ran.code == 3
        assert "exists already" in ran.err
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "file").read_text() == "mine"


def test_fork_behind_a_missing_version_makes_nothing(mmsb, small, tmp_path):
    ran = mmsb("fork", small, tmp_path / "new.mmsb", "--version", 5, "--json")
    assert ran.code == 3
    assert ran.error["error"] == "VersionError"
    assert not (tmp_path / "new.mmsb").exists()


def test_fork_onto_a_failing_disk_exits_3_and_makes_nothing(mmsb, small, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    before = set(tmp_path.iterdir())
    monkeypatch.setattr(_fork, "fork_log", fail)
    ran = mmsb("fork", small, tmp_path / "new.mmsb")
    assert ran.code == 3
    assert "the disk is full" in ran.err
    assert set(tmp_path.iterdir()) == before


def test_fork_of_a_damaged_log_rescues_what_is_whole(mmsb, recorder, tmp_path):
    rng = np.random.default_rng(3)
    for _ in range(5):
        recorder.commit({"x": rng.random(64)})
    recorder.close()
    segment = next(Path(recorder.path, "log").glob("*.seg"))
    raw = bytearray(segment.read_bytes())
    raw[len(raw) // 2] ^= 1
    segment.write_bytes(raw)
    assert mmsb("fork", recorder.path, tmp_path / "no.mmsb").code == 3
    assert mmsb("fork", recorder.path, tmp_path / "rescued.mmsb", "--salvage").code == 0
    report = mmsb("verify", tmp_path / "rescued.mmsb", "--json").json
    assert report["whole"]
    assert 1 <= report["versions"] < 5
