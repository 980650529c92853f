"""``mmsb compact``."""

import numpy as np
import pytest


@pytest.fixture
def long(recorder) -> str:
    """The path of a log of thirty versions, which nobody writes; version 7 is tagged."""
    noise = np.random.default_rng(0)
    for number in range(30):
        x = noise.random(3000, np.float32)
        recorder.commit({"x": x}, step=number, source="train", note=f'{{"i":{number}}}')
        if number % 10 == 5:
            recorder.snapshot()
    recorder.writer.append_tags({"best": 7})
    recorder.writer.close()
    return recorder.path


def test_compact_gives_back_space_and_keeps_what_it_says(mmsb, long):
    commits = mmsb("log", long, "--json").json
    rehearsed = mmsb("compact", long, "--keep-since", 21, "--dry-run", "--json").json
    assert mmsb("log", long, "--json").json == commits
    done = mmsb("compact", long, "--keep-since", 21, "--json").json
    assert done == rehearsed | {"dry_run": False}
    assert (done["keep_since"], done["kept"], done["dropped"]) == (21, [7, 20], 20)
    assert done["bytes_after"] < done["bytes_before"] / 2
    assert mmsb("log", long, "--json").json == commits
    assert mmsb("log", long, "--array", "x", "--json").json == commits
    assert mmsb("verify", long).code == 0
    stats = mmsb("stats", long, "--json").json
    assert (stats["first_version"], stats["kept_since"], stats["snapshots"]) == (1, 21, [7, 20, 26])
    assert stats["archive_bytes"] > 0
    assert "kept       in full from 21 on" in mmsb("stats", long).out


def test_compact_as_text_says_what_it_does(mmsb, long):
    ran = mmsb("compact", long, "--keep-since", "best", "--dry-run")
    assert ran.out.startswith("would drop the data of 6 versions: ")
    assert "kept in full from version 7 on, and of those before the states of 6" in ran.out
    assert mmsb("compact", long, "--keep-since", "best").out.startswith("dropped the data of 6")


def test_dropped_version_exits_3_and_names_the_nearest(mmsb, long, tmp_path):
    mmsb("compact", long, "--keep-since", 21)
    out = tmp_path / "x.npz"
    ran = mmsb("checkout", long, "--version", 18, "--out", out, "--json")
    assert (ran.code, ran.error["error"]) == (3, "VersionError")
    assert "the nearest is 20" in ran.error["message"]
    assert mmsb("tag", long, "late", "--version", 18).code == 3
    assert mmsb("fork", long, tmp_path / "f.mmsb", "--version", 18).code == 3
    for version in (7, 20, 21, 30):
        assert mmsb("checkout", long, "--version", version, "--out", out, "--force").code == 0
    assert mmsb("diff", long, 7, 25).code == 0


def test_compact_to_no_version_exits_3(mmsb, long):
    assert mmsb("compact", long, "--keep-since", 31).code == 3
    assert mmsb("compact", long, "--keep-since", "none").code == 3
    assert mmsb("compact", long).code == 2
