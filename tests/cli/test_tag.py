"""``mmsb tag``."""

import pytest


@pytest.fixture
def closed(recorder, small: str) -> str:
    """The path of `small`, which nobody writes."""
    recorder.writer.close()
    return small


def test_tag_names_a_version_and_lists(mmsb, closed):
    assert mmsb("tag", closed).out == "no tags\n"
    assert mmsb("tag", closed, "newest").code == 0
    assert mmsb("tag", closed, "best", "--version", 2).code == 0
    assert mmsb("tag", closed, "third", "--step", 30).code == 0
    assert mmsb("tag", closed, "again", "--version", "best").code == 0
    expected = {"again": 2, "best": 2, "newest": 4, "third": 3}
    assert mmsb("tag", closed, "--json").json == {"tags": expected}
    assert mmsb("tag", closed).out.splitlines()[1:] == [
        "      2  again",
        "      2  best",
        "      4  newest",
        "      3  third",
    ]
    assert mmsb("stats", closed, "--json").json["tags"] == expected
    assert mmsb("verify", closed).code == 0


def test_tag_stands_for_its_version_in_other_commands(mmsb, closed, tmp_path):
    mmsb("tag", closed, "best", "--version", 2)
    assert mmsb("show", closed, "best", "--json").json["version"] == 2
    out = tmp_path / "out.npz"
    found = mmsb("checkout", closed, "--version", "best", "--out", out, "--json")
    assert found.json["version"] == 2
    forked = mmsb("fork", closed, tmp_path / "new.mmsb", "--version", "best", "--json")
    assert forked.json["version"] == 2
    assert mmsb("tag", tmp_path / "new.mmsb", "--json").json == {"tags": {"best": 2}}


def test_tag_delete_takes_the_name_away(mmsb, closed):
    mmsb("tag", closed, "best")
    assert mmsb("tag", closed, "best", "--delete", "--json").json == {"tags": {}}
    ran = mmsb("tag", closed, "best", "--delete", "--json")
    assert (ran.code, ran.error["error"]) == (3, "VersionError")
    assert ran.error["message"] == "no version is tagged 'best'. There are 0 tags: none"


@pytest.mark.parametrize("arguments", [["12"], [""], ["x" * 256], ["--delete"], ["--version", 2]])
def test_tag_of_wrong_usage_exits_2(mmsb, closed, arguments):
    assert mmsb("tag", closed, *arguments).code == 2


def test_tag_of_a_version_that_is_not_there_exits_3(mmsb, closed):
    ran = mmsb("tag", closed, "best", "--version", 9)
    assert (ran.code, ran.err) == (
        3,
        "error: version 9 does not exist. The log has versions 1 to 4; the nearest is 4.\n",
    )
    assert mmsb("show", closed, "none").code == 3


def test_tag_while_another_writes_is_refused_and_listing_is_not(mmsb, closed):
    from pathlib import Path

    from mmsb_jax._store.files.lock import WriterLock

    lock = WriterLock(Path(closed))
    ran = mmsb("tag", closed, "best", "--json")
    assert (ran.code, ran.error["error"]) == (3, "LockedError")
    assert mmsb("tag", closed).code == 0
    lock.release()


def test_tag_of_no_log_leaves_no_lock(mmsb, tmp_path):
    assert mmsb("tag", tmp_path, "best").code == 3
    assert list(tmp_path.iterdir()) == []
