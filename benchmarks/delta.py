"""Small changes: a write and a delta, logged; many in one commit; deltas of the pure core."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import zstandard

import mmsb_jax as mmsb
from benchmarks.peers import Rows
from mmsb_jax.bench import limits, works
from mmsb_jax.bench.measure import Work, compare, grow
from mmsb_jax.bench.row import Row, figure_at_most, ratio_at_most
from mmsb_jax.bench.states import MB

_MANY = 10_000
_PAGE_WORDS = 256  # 1 KB


def rows(folder: Path, long: bool) -> Rows:
    """On a bus, then in the core."""
    yield from _logged(folder)
    yield _heard(folder)
    yield from _many_in_one(folder)
    yield from _core()
    yield from _core_growth(long)


def _logged(folder: Path) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(works.bus_in(folder, page_bytes=1024))
        write = stack.enter_context(works.small_write(bus))
        apply = stack.enter_context(works.small_apply(bus))
        for name, what, work in (
            ("write", "sparse write to a page of 1 KB, logged", write),
            ("apply", "the same as a delta", apply),
        ):
            logged_bytes = work.run().logged_bytes
            with limits.append(folder, logged_bytes, calls=50) as raw:
                yield compare(
                    f"delta/{name}", what, work, raw,
                    rounds=41, must=figure_at_most(50e-6), aim=figure_at_most(15e-6),
                )  # fmt: skip


def _heard(folder: Path) -> Row:
    with (
        works.bus_in(folder, page_bytes=1024) as bus,
        works.bus_in(folder, page_bytes=1024) as other,
        works.small_write(bus) as heard,
        works.small_write(other) as unheard,
    ):
        bus.subscribe("changed", lambda event: None)
        return compare(
            "delta/write-heard", "sparse write to 1 KB, logged, with one subscriber",
            heard, Work("without one", unheard.run, calls=unheard.calls), rounds=41,
        )  # fmt: skip


def _many_in_one(folder: Path) -> Iterator[Row]:
    """10,000 arrays of 1 KB, written in one batch."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, _MANY, 256)).astype(np.float32)
    third = first.copy()
    third[:, 7] += 1
    names = [f"x{i}" for i in range(_MANY)]
    with works.bus_in(folder) as bus:
        for name in names:
            bus.create(name, (256,))

        def writing(*values: np.ndarray) -> Work:
            turn = itertools.cycle(values)

            def run() -> None:
                with bus.batch():
                    for name, value in zip(names, next(turn), strict=True):
                        bus.write(name, value)

            return Work("the batch", run)

        dense, sparse = writing(first, second), writing(first, third)
        yield compare(
            "delta/batch-dense", "10,000 arrays of 1 KB, every byte changed, one batch",
            dense, _compressing_twice(first), rounds=5, must=ratio_at_most(3), aim=ratio_at_most(2),
        )  # fmt: skip
        yield compare(
            "delta/batch-sparse",
            "10,000 arrays of 1 KB, a word of each changed, one batch; a write",
            sparse.an_item_of(_MANY), limits.memcpy(first.nbytes).an_item_of(_MANY),
            rounds=5, must=figure_at_most(5e-6), aim=figure_at_most(2e-6),
        )  # fmt: skip


def _compressing_twice(rows: np.ndarray) -> Work:
    """Once to see what it gives, once to do it."""
    pieces = [row.tobytes() for row in rows]
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)

    def run() -> None:
        for _ in range(2):
            for piece in pieces:
                compressor.compress(piece)

    return Work("compressing each twice", run)


def _core() -> Iterator[Row]:
    """Programs on one page of 1 KB, beside one that returns its arguments."""
    old = mmsb.Pages(jnp.zeros((1, _PAGE_WORDS), jnp.uint32), jnp.zeros(1, jnp.uint32))
    new = mmsb.Pages(old.words.at[0, 5].set(7), old.version)
    delta = mmsb.diff(old, new, capacity=1)
    for name, what, function, arguments in (
        ("apply", "apply a delta of one line", mmsb.apply, (old, delta)),
        ("invert", "invert a delta of one line", mmsb.invert, (old, delta)),
        ("compose", "compose two deltas", lambda a, b: mmsb.compose(a, b, 2), (delta, delta)),
        ("diff", "the delta of two pages", lambda a, b: mmsb.diff(a, b, 1), (old, new)),
    ):
        yield compare(
            f"delta/core-{name}", f"{what}, 1 KB, in a program",
            _program(function, *arguments),
            limits.empty_program(function, *arguments, calls=50), rounds=41,
        )  # fmt: skip


def _program(function: Any, *arguments: Any) -> Work:
    program = jax.jit(function)
    return Work("apply", lambda: jax.block_until_ready(program(*arguments)), calls=50)


def _core_growth(long: bool) -> Iterator[Row]:
    """The pool is donated: what nothing writes to is not copied."""
    sizes = (MB, 16 * MB, (1024 if long else 256) * MB)
    yield grow(
        "delta/growth-pool", "apply a delta of ten lines, with the bytes of the pool",
        {nbytes: _donating(nbytes, 10) for nbytes in sizes}, at_most=0.2, rounds=41,
    )  # fmt: skip
    yield grow(
        "delta/growth-lines", "apply a delta to 64 MB, with its lines",
        {lines: _donating(64 * MB, lines) for lines in (1_000, 10_000, 100_000)},
        at_most=1.2, rounds=9,
    )  # fmt: skip


def _donating(nbytes: int, lines: int) -> Work:
    page_words = 1024
    pages = nbytes // 4 // page_words
    places = np.sort(np.random.default_rng(0).choice(pages * 32, lines, replace=False))
    page, block = (jnp.asarray(part, jnp.int32) for part in np.divmod(places, 32))
    ones = jnp.ones((lines, 32), jnp.uint32)
    delta = mmsb.Delta(page, block, ~jnp.zeros_like(ones), ones, jnp.int32(lines), jnp.bool_(False))
    program = jax.jit(mmsb.apply, donate_argnums=0)
    held = [mmsb.Pages(jnp.zeros((pages, page_words), jnp.uint32), jnp.zeros(pages, jnp.uint32))]

    def run() -> None:
        held[0] = jax.block_until_ready(program(held[0], delta))

    return Work("apply", run, calls=max(1, 100 // lines))
