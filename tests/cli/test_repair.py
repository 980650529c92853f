"""``mmsb repair``."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mmsb_jax._store.files.disk import DiskFiles
from tests.store._logs import names_of
from tests.store._wrong import with_wrong_digests


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
        "unproven": [],
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


@pytest.fixture
def doubtful(recorder):
    """Four versions of x, y and z; the digest of y is that of other bytes at 2 and 3."""
    for i in range(1, 5):
        recorder.commit({name: np.full(600, i) for name in "xyz"})
    recorder.close()
    files = DiskFiles(Path(recorder.path))
    forged = with_wrong_digests(files, [(2, 2), (3, 2)])
    for name in names_of(forged):
        files.publish(name, [forged.read(name)])
    files.close()
    return Path(recorder.path)


def test_repair_leaves_out_what_nothing_shows_to_be_right_and_names_it(mmsb, doubtful, tmp_path):
    refused = mmsb("checkout", doubtful, "--version", 3, "--out", tmp_path / "out")
    assert "mmsb repair" in refused.err
    ran = mmsb("repair", doubtful, tmp_path / "new")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == [
        f"{tmp_path / 'new'}: versions 1 to 4",
        "'y' is not shown to be right at versions 2 to 3: its bytes are whole, and the digest that "
        "the commits name is that of others; left out",
    ]
    for version, names in ((1, "xyz"), (2, "xz"), (3, "xz"), (4, "xyz")):
        shown = mmsb("show", tmp_path / "new", version, "--json").json
        assert [array["name"] for array in shown["arrays"]] == list(names)
    assert mmsb("verify", tmp_path / "new", "--deep").code == 0


def test_repair_keeps_what_nothing_shows_to_be_right_when_told_to_and_tags_it(
    mmsb, doubtful, tmp_path
):
    report = mmsb("repair", doubtful, tmp_path / "new", "--keep-unproven", "--json").json
    assert report["unproven"] == [
        {"array": "y", "first": 2, "last": 3, "is_whole": True, "is_kept": True}
    ]
    tag = "unproven-2-3/y"
    shown = mmsb("show", tmp_path / "new", tag, "--json").json
    assert (shown["version"], [array["name"] for array in shown["arrays"]]) == (2, list("xyz"))
    assert mmsb("verify", tmp_path / "new", "--deep").code == 0


@pytest.mark.parametrize("is_late", [False, True])
def test_a_log_that_cannot_be_read_is_not_said_to_be_one_that_cannot_be_written(
    mmsb, doubtful, tmp_path, monkeypatch, is_late
):
    read = DiskFiles.read

    def refusing(self, name, *args):
        is_begun = any(tmp_path.glob(".new.*"))
        if name.endswith(".seg") and self.root == doubtful and is_begun == is_late:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self.root / name))
        return read(self, name, *args)

    monkeypatch.setattr(DiskFiles, "read", refusing)
    ran = mmsb("repair", doubtful, tmp_path / "new")
    assert ran.code == 3
    assert ".seg could not be read: permission is denied" in ran.err
    assert "nothing was written" not in ran.err
    assert not (tmp_path / "new").exists()
