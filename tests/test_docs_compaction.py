"""The reader that was written from docs/format.md alone reads logs that were compacted."""

from pathlib import Path

import pytest

from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from tests.store._compacted import TAGS, write_story
from tests.store._logs import PLACE, Expected, Scribe
from tools import format_reader as reader


def check_reader(root: Path, history: list[Expected]) -> reader.ReadLog:
    """The independent reader and the library come to the same, and it is what was written."""
    read, log = reader.ReadLog(root), Log(DiskFiles(root), PLACE)
    compaction = read.manifest.compaction
    assert compaction is not None
    assert (compaction.first_version, tuple(compaction.kept)) == (log.kept_since, log.kept)
    assert read.tags() == log.tags()
    archived = read.archived()
    assert [commit.version for commit in archived] == list(range(1, log.kept_since))
    for commit in archived:
        expected, record = history[commit.version], log.record(commit.version)
        assert (commit.step, commit.source, commit.note, commit.time_ns) == (
            expected.step,
            expected.source,
            expected.note,
            expected.time_ns,
        )
        assert commit.chain == log.chain_after(commit.version)
        assert commit.state_digest == record.state_digest
    states = dict(zip(range(log.kept_since, len(history)), read.states(), strict=True))
    states |= {version: read.snapshot(version) for version in log.kept}
    for version, state in states.items():
        assert state is not None
        expected = history[version]
        assert state.by_name() == {name: held.content for name, held in expected.arrays.items()}
        assert state.constants == expected.constants
        assert state.chain == log.chain_after(version)
        for name, held in expected.arrays.items():
            assert state.page_versions[held.id] == held.pages, (version, name)
    for version in log.kept:
        assert read.extra(archived[version - 1]) == history[version].extra
    return read


@pytest.mark.parametrize("keep_since", [2, 3, 5, 8, 9, 13, 16])
def test_reader_of_a_compacted_log_gives_what_is_kept(keep_since: int, tmp_path: Path):
    scribe = write_story(DiskFiles(tmp_path))
    compact(scribe.writer, keep_since)
    read = check_reader(tmp_path, scribe.history)
    assert read.tags() == TAGS
    for place, segment in enumerate(read.segments[:-1]):
        if (tmp_path / "log" / segment.name).with_suffix(".idx").exists():
            index = read.index(place)
            assert index["first_version"] == segment.first_version
            assert index["tags"] == read.walks[place].tags


def test_reader_of_a_log_that_goes_on_after_compactions(tmp_path: Path):
    scribe = write_story(DiskFiles(tmp_path / "log"))
    for keep_since in (4, 9, 16):
        compact(scribe.writer, keep_since)
        scribe.patch("w", {keep_since: 200}).commit()
    scribe.writer.append_tags({"first": None, "newest": 19})
    scribe.close()
    check_reader(tmp_path / "log", scribe.history)
    for version in (5, 15, 17):
        target = tmp_path / f"fork{version}"
        fork_log(Log(DiskFiles(tmp_path / "log"), PLACE), version, DiskFiles(target))
        fork = Scribe(DiskFiles(target), history=scribe.history[: version + 1])
        fork.patch("w", {1: 44}).commit()
        fork.close()
        check_reader(target, fork.history)
