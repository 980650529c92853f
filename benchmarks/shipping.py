"""To other processes: streams out and in, following, replicas, patches."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import mmsb_jax as mmsb
from benchmarks.peers import Rows
from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row
from mmsb_jax.bench.states import MB, bf16_state, changes, there_and_back

_COMMITS = 200


def rows(folder: Path, long: bool) -> Rows:
    """Many small commits, then a model of 64 MB."""
    del long
    yield from _small_commits(folder)
    yield from _model(folder)


def _small_commits(folder: Path) -> Iterator[Row]:
    """Each changes 100 words of 256 KB."""
    rng = np.random.default_rng(0)
    state = {"x": np.zeros(64 << 10, np.uint32)}
    with works.bus_in(folder) as bus:
        for _ in range(_COMMITS):
            state["x"][rng.integers(0, 64 << 10, 100)] += 1
            bus.commit(state)
        stream = bus.export(since=0)
        with limits.read_file(folder, len(stream)) as read:
            of_one = read.an_item_of(_COMMITS)
            yield compare(
                "shipping/export", f"export of {_COMMITS} commits of 100 words, a commit",
                Work("export", lambda: bus.export(since=0), items=_COMMITS), of_one,
            )  # fmt: skip
            assert bus.path is not None
            with mmsb.open(bus.path, mode="r") as reader:
                yield compare(
                    "shipping/follow", "following them from a reader, a commit",
                    Work(
                        "follow", lambda: list(reader.follow(after=0, timeout=0)), items=_COMMITS
                    ),
                    of_one,
                )  # fmt: skip
        with limits.append(folder, len(stream)) as raw:
            yield compare(
                "shipping/import", "import of them into a new log in memory, a commit",
                Work("import", lambda: _imported(stream), items=_COMMITS),
                raw.an_item_of(_COMMITS), rounds=5,
            )  # fmt: skip
        yield _latency(bus)


def _imported(stream: bytes) -> None:
    with mmsb.open() as bus:
        assert len(bus.import_(stream)) == _COMMITS


def _latency(bus: mmsb.Bus) -> Row:
    """From before a write to the follower having its commit, in one thread."""
    assert bus.path is not None
    value, turn = np.zeros(64 << 10, np.uint32), itertools.count(1)

    def commit() -> mmsb.Commit:
        number = next(turn)
        value[number % 100] = number
        return bus.commit({"x": value})

    with mmsb.open(bus.path, mode="r") as reader:
        commits = reader.follow(timeout=60)

        def commit_and_see() -> None:
            version = commit().version
            while next(commits).version < version:
                pass

        return compare(
            "shipping/latency", "a commit of a word, until a follower has it",
            Work("commit and follow", commit_and_see, calls=5),
            Work("the commit alone", commit, calls=5), rounds=15,
        )  # fmt: skip


def _model(folder: Path) -> Iterator[Row]:
    state = bf16_state(64 * MB)
    states = there_and_back([state, *changes(state, 0.01, 3)])
    copy = limits.memcpy(64 * MB)
    with works.bus_in(folder) as bus:
        assert bus.path is not None
        bus.commit(next(states))
        replica = mmsb.Replica(bus.path, like=state)
        replica.update()
        bus.commit(next(states))

        def another(_: object) -> None:
            bus.commit(next(states))

        yield compare(
            "shipping/replica", "a replica of 64 MB of bfloat16 brought forward by 1 %, checked",
            Work("update", lambda: jax.block_until_ready(replica.update()), after=another), copy,
        )  # fmt: skip
        replica.close()
        newest = bus.commit(next(states))
        yield compare(
            "shipping/patches", "what such a commit did, as elements of arrays",
            Work("patches", lambda: list(newest.patches())), copy, rounds=5,
        )  # fmt: skip
