"""A log with much in it to compact, and what must be left of it."""

import numpy as np
import pytest

from mmsb_jax._base.errors import VersionError
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import read_commit
from tests.store._logs import PAGE_BYTES, Expected, Scribe, check_commit, check_state

TAGS = {"best": 5, "first": 2}
VERSIONS = 16


def write_story(files: Files | None = None, versions: int = VERSIONS) -> Scribe:
    """Segments, snapshots, tags, extras; arrays that come, change and go."""
    scribe = Scribe(files)
    scribe.create("w", (90,)).create("gone", (3,)).constant("k", "s:x")
    noise = np.random.default_rng(0)
    for number in range(versions):
        if number % 3:
            scribe.patch("w", {number: number + 1})
        else:
            scribe.write("w", noise.random(90, np.float32))
        if number == 4:
            scribe.delete("gone").constant("k", "s:y")
        if number == 6:
            scribe.create("late", (5,), "int8")
        if number > 8:
            scribe.patch("late", {1: number})
        extra = b"extra %d" % number if number % 4 else None
        scribe.commit(number * 10, "train", f'{{"i": {number}}}', extra)
        if number == 5:
            scribe.writer.append_tags({"best": 4, "first": 2, "moved": 1})
        if number == 7:
            scribe.writer.append_tags({"best": 5, "moved": None})
        if number in (3, 6, 11):
            scribe.snapshot(rotate=number != 3)
    return scribe


def check_compacted(
    log: Log, history: list[Expected], keep_since: int, kept: tuple[int, ...]
) -> None:
    """What is kept is as it was written; of the rest the log knows what its commits said."""
    assert log.version == len(history) - 1
    assert (log.kept_since, log.kept) == (keep_since, kept)
    for version, expected in enumerate(history[1:], 1):
        if version >= keep_since or version in kept:
            check_state(log.state(version, page_bytes=PAGE_BYTES), expected)
            check_commit(log, version, expected)
        else:
            check_dropped(log, version, expected)


def check_dropped(log: Log, version: int, expected: Expected) -> None:
    """The bytes of a version are gone, and what its commit said is not."""
    with pytest.raises(VersionError, match=f"the data of version {version} were dropped"):
        log.state(version)
    with pytest.raises(VersionError, match="were dropped"):
        log.table(version)
    commit = read_commit(log, version, lambda: 0)
    assert (commit.step, commit.source, commit.time_ns, commit.changed) == (
        expected.step,
        expected.source,
        expected.time_ns,
        expected.changed,
    )
    if expected.extra is None:
        assert commit.extra is None
    else:
        with pytest.raises(VersionError, match="were dropped"):
            _ = commit.extra


def total_bytes(files: Files) -> int:
    """Bytes of all files of a log."""
    names = ["manifest", *files.names("log"), *files.names("snapshots")]
    return sum(map(files.size, names))
