"""Logs of deltas on the device: appending in a program, replaying, committing the entries."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import mmsb_jax as mmsb
from benchmarks.peers import Rows
from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare, grow
from mmsb_jax.bench.row import Row, figure_at_most
from mmsb_jax.bench.states import MB

_ENTRIES = 4_096
_PAGES, _PAGE_WORDS = 4_096, 1024


def rows(folder: Path, long: bool) -> Rows:
    """In programs, then into a log on disk."""
    yield _masked_lines((1_000_000 if long else 200_000), (128 if long else 64) * MB)
    yield from _appended()
    yield _growth()
    yield _extended(folder)


def _masked_lines(lines: int, pool_bytes: int) -> Row:
    return compare(
        "replay/masked-lines",
        f"replay of {lines:,} masked lines of 128 bytes into {pool_bytes >> 20} MB, a line",
        works.replay(lines, pool_bytes), limits.scatter(lines, pool_bytes),
        rounds=9, warm=2, must=figure_at_most(100e-9), aim=figure_at_most(40e-9),
    )  # fmt: skip


def _appended() -> Iterator[Row]:
    """Entries of one line, appended inside of a loop, and replayed."""
    append = jax.jit(_append_all, donate_argnums=0)
    write = jax.jit(_write_all, donate_argnums=0)
    held: dict[str, Any] = {"log": None, "rows": jnp.zeros((_ENTRIES, 65), jnp.uint32)}

    def run_append() -> None:
        held["log"] = jax.block_until_ready(append(_empty_log()))

    def run_write() -> None:
        held["rows"] = jax.block_until_ready(write(held["rows"]))

    yield compare(
        "replay/append", f"TLog.append of one-line deltas, {_ENTRIES:,} in a loop, an append",
        Work("TLog.append", run_append, items=_ENTRIES),
        Work("a loop that writes a row of as many bytes", run_write, items=_ENTRIES),
        rounds=15, must=figure_at_most(500e-9), aim=figure_at_most(200e-9),
    )  # fmt: skip
    log = held["log"]
    replay = jax.jit(mmsb.replay, donate_argnums=0)
    held["pages"] = _zero_pages()

    def run_replay() -> None:
        held["pages"] = jax.block_until_ready(replay(held["pages"], log))

    yield compare(
        "replay/one-line-entries", f"replay of {_ENTRIES:,} entries of one line, an entry",
        Work("replay", run_replay, items=_ENTRIES),
        Work("a loop that writes a row of as many bytes", run_write, items=_ENTRIES),
        rounds=15, must=figure_at_most(200e-9), aim=figure_at_most(50e-9),
    )  # fmt: skip


def _empty_log() -> mmsb.TLog:
    return mmsb.TLog.empty(_ENTRIES, _ENTRIES)


def _zero_pages() -> mmsb.Pages:
    return mmsb.Pages(jnp.zeros((_PAGES, _PAGE_WORDS), jnp.uint32), jnp.zeros(_PAGES, jnp.uint32))


def _append_all(log: mmsb.TLog) -> mmsb.TLog:
    """One line of one page an entry."""

    def append(log: mmsb.TLog, i: Any) -> tuple[mmsb.TLog, None]:
        ones = jnp.full((1, 32), 0xFFFFFFFF, jnp.uint32)
        page, block = (i * 7 % _PAGES)[None], (i % 32)[None]
        delta = mmsb.Delta(
            page, block, ones, ones * i.astype(jnp.uint32), jnp.int32(1), jnp.bool_(False)
        )
        return log.append(delta), None

    return lax.scan(append, log, jnp.arange(_ENTRIES, dtype=jnp.int32))[0]


def _write_all(rows: Any) -> Any:
    """What an entry of a log weighs, and nothing but the writing of it."""

    def write(rows: Any, i: Any) -> tuple[Any, None]:
        row = jnp.full((1, 65), i, jnp.uint32)
        return lax.dynamic_update_slice(rows, row, (i, 0)), None

    return lax.scan(write, rows, jnp.arange(_ENTRIES, dtype=jnp.int32))[0]


def _growth() -> Row:
    return grow(
        "replay/growth-lines", "replay into 32 MB, with the lines; a line",
        {lines: works.replay(lines, 32 * MB) for lines in (2_000, 20_000, 200_000)},
        at_most=0.3, rounds=9,
    )  # fmt: skip


def _extended(folder: Path) -> Row:
    """Each entry becomes a commit of its own."""
    entries = 500
    with works.bus_in(folder) as bus, limits.append(folder, 400, calls=entries) as raw:
        bus.create("x", nbytes=1 * MB)
        bus.write("x", np.ones(MB, np.uint8))
        page = bus.layout.region("x").page
        logs = itertools.cycle([_entries(entries, page, k) for k in (1, 2)])
        return compare(
            "replay/extend", f"bus.extend with a log of {entries} entries of a line, an entry",
            Work("bus.extend", lambda: bus.extend(next(logs)), items=entries), raw, rounds=5,
        )  # fmt: skip


def _entries(count: int, page: int, value: int) -> mmsb.TLog:
    numbers = np.arange(count, dtype=np.int32)
    data = np.full((count, 32), value, np.uint32) * (numbers[:, None] + 1).astype(np.uint32)
    return mmsb.TLog(
        jnp.asarray(page + numbers % 256), jnp.asarray(numbers % 32),
        jnp.full((count, 32), 0xFFFFFFFF, jnp.uint32), jnp.asarray(data),
        jnp.asarray(numbers), jnp.asarray(numbers + 1),
        jnp.int32(count), jnp.bool_(False), jnp.uint32(0),
    )  # fmt: skip
