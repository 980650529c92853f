"""What durability costs: appends under each, beside raw ones with the same sync, and LMDB."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mmsb_jax as mmsb
from benchmarks.peers import Rows, beside
from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row, ratio_at_most
from mmsb_jax.bench.states import MB, bf16_state, changes


def rows(folder: Path, long: bool) -> Rows:
    """1 KB at a time; then a whole state, and reading all of a log."""
    del long
    yield from _appends(folder)
    yield _sync(folder)
    yield _snapshot(folder)
    yield _verify(folder)


def _write_to(bus: mmsb.Bus) -> Callable[[], Any]:
    """A write of 1 KB of noise that replaces other noise."""
    values = itertools.cycle(np.random.default_rng(0).integers(0, 256, (16, 1024), np.uint8))
    bus.create("x", nbytes=1024)
    return lambda: bus.write("x", next(values))


def _appends(folder: Path) -> Rows:
    for slug, durability in (("os", "os"), ("group", ("group", 50)), ("fsync", "fsync")):
        synced = durability == "fsync"
        calls, rounds = (1, 101) if synced else (50, 41)
        what = f"write of 1 KB of noise, durability {durability!r}"
        with works.bus_in(folder, durability=durability) as bus:
            write = Work("bus.write", _write_to(bus), calls=calls)
            with limits.append(folder, 1400, sync=synced, calls=calls) as raw:
                yield compare(
                    f"persistence/{slug}", what, write, raw, rounds=rounds,
                    aim=ratio_at_most(1.3) if synced else None,
                )  # fmt: skip
            yield from beside("LMDB", _beside_lmdb(folder, f"persistence/{slug}-lmdb", what, write))


def _beside_lmdb(folder: Path, name: str, what: str, write: Work) -> Callable[[], Rows]:
    def rows() -> Rows:
        from benchmarks.peers import lmdb

        with lmdb.put(folder, 1024, sync=write.calls == 1, calls=write.calls) as put:
            yield compare(name, what, write, put, rounds=101 if write.calls == 1 else 41)

    return rows


def _sync(folder: Path) -> Row:
    """One sync for a hundred writes."""
    with (
        works.bus_in(folder) as bus,
        limits.append(folder, 1400, sync=True, writes=100) as raw,
    ):
        write = _write_to(bus)

        def write_and_sync() -> None:
            for _ in range(100):
                write()
            bus.sync()

        return compare(
            "persistence/sync", "100 writes of 1 KB, then sync(); a write",
            Work("writes and sync", write_and_sync, items=100), raw, rounds=15,
        )  # fmt: skip


def _snapshot(folder: Path) -> Row:
    state = bf16_state(64 * MB)
    states = itertools.cycle([*changes(state, 0.01, 2)])
    with works.bus_in(folder) as bus, limits.append(folder, 64 * MB, sync=True) as raw:
        bus.commit(state)

        def another(_: object) -> None:
            bus.commit(next(states))

        return compare(
            "persistence/snapshot", "snapshot() of 64 MB of bfloat16, durable",
            Work("snapshot", bus.snapshot, after=another), raw, rounds=5,
        )  # fmt: skip


def _verify(folder: Path) -> Row:
    state = bf16_state(64 * MB)
    with works.bus_in(folder) as bus:
        bus.commit(state)
        for new in changes(state, 0.01, 10):
            bus.commit(new)
        assert bus.path is not None
        nbytes = sum(path.stat().st_size for path in bus.path.rglob("*") if path.is_file())
        with limits.read_file(folder, nbytes) as read:
            return compare(
                "persistence/verify", "verify() of 64 MB and 10 commits of 1 %",
                Work("verify", lambda: _whole(bus)), read, rounds=3,
            )  # fmt: skip


def _whole(bus: mmsb.Bus) -> None:
    assert bus.verify()
