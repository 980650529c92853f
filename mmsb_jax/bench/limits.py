"""What no library can beat: a copy, a raw append with the same sync, a program that does nothing.

And `pickled`, what one would write without a library.
"""

import contextlib
import itertools
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsb_jax.bench.measure import Work
from mmsb_jax.bench.row import shown

_BEYOND_CACHE_BYTES = 256 << 20


def memcpy(nbytes: int, calls: int = 1) -> Work:
    """A copy of ``nbytes`` that are not in the cache, to where they were copied to before."""
    count = min(64, max(1, _BEYOND_CACHE_BYTES // nbytes))
    pool = np.ones((2, count, nbytes // 4), np.uint32)
    turn = itertools.cycle(range(count))

    def copy() -> None:
        i = next(turn)
        pool[0, i] = pool[1, i]

    return Work(f"memcpy of {shown(nbytes, 'B')}", copy, calls=calls)


@contextlib.contextmanager
def append(
    folder: Path, nbytes: int, *, sync: bool = False, writes: int = 1, calls: int = 1
) -> Iterator[Work]:
    """Appends of as many bytes to a file; with ``sync``, an fdatasync behind them.

    Args:
        folder: where the file is.
        nbytes: of one append.
        sync: whether to wait until they are on the disk.
        writes: appends in one run of the work, whose time is that of one.
        calls: as of a `Work`.
    """
    data = np.random.default_rng(0).bytes(nbytes)
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        descriptor = file.fileno()

        def write() -> None:
            for _ in range(writes):
                os.write(descriptor, data)
            if sync:
                os.fdatasync(descriptor)

        what = f"raw append of {shown(nbytes, 'B')}" if writes == 1 else f"{writes} raw appends"
        yield Work(f"{what} + fdatasync" if sync else what, write, calls=calls, items=writes)


@contextlib.contextmanager
def pickled(folder: Path, state: Any, calls: int = 1) -> Iterator[Work]:
    """``pickle`` of a tree of NumPy arrays, appended to a file without a sync."""
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:

        def save() -> None:
            file.write(pickle.dumps(state, protocol=5))

        yield Work("pickle + raw append", save, calls=calls)


@contextlib.contextmanager
def read_file(folder: Path, nbytes: int) -> Iterator[Work]:
    """Reading as many bytes from a file that is in the page cache, to memory that was there."""
    buffer = bytearray(nbytes)
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        file.write(np.random.default_rng(0).bytes(nbytes))

        def read() -> None:
            os.preadv(file.fileno(), [buffer], 0)

        yield Work(f"reading {shown(nbytes, 'B')}", read)


def empty_program(function: Callable[..., Any], *arguments: Any, calls: int = 1) -> Work:
    """A jitted call that takes what ``function`` takes, and returns zeros of what it returns."""
    held = jax.tree.map(jnp.asarray, arguments)
    results = jax.eval_shape(function, *held)

    def nothing(*_: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), results)

    program = jax.jit(nothing, keep_unused=True)
    return Work("an empty jitted call", lambda: jax.block_until_ready(program(*held)), calls=calls)


def scatter(lines: int, pool_bytes: int) -> Work:
    """As many lines of 128 bytes put at random places by NumPy, without a mask; a line's time."""
    rng = np.random.default_rng(0)
    pool = np.zeros((pool_bytes // 128, 32), np.uint32)
    place = rng.integers(0, len(pool), lines)
    data = rng.integers(0, 2**32, (lines, 32), np.uint32)

    def put() -> None:
        pool[place] = data

    return Work("NumPy's scatter, unmasked", put, items=lines)


def compared(nbytes: int, arrays: int = 32) -> Work:
    """As many bytes compared by NumPy, in words, tile by tile, on all cores."""
    from concurrent.futures import ThreadPoolExecutor

    left = np.ones((arrays, nbytes // 4 // arrays), np.uint32)
    right = left.copy()
    threads = ThreadPoolExecutor(os.cpu_count())

    def run() -> None:
        assert not any(threads.map(_differs, left, right))

    return Work("line compare alone", run)


def _differs(left: np.ndarray, right: np.ndarray, tile: int = 65536) -> bool:
    """Tiles stay in the cache."""
    tiles = range(0, left.size, tile)
    return any((left[i : i + tile] != right[i : i + tile]).any() for i in tiles)
