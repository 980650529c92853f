"""LMDB: a key-value store in one memory-mapped file, a transaction a write."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np

from mmsb_jax.bench.measure import Work


@contextlib.contextmanager
def put(folder: Path, nbytes: int, *, sync: bool, calls: int = 1) -> Iterator[Work]:
    """A transaction that replaces one value; with ``sync`` it is durable when it returns."""
    values = itertools.cycle([np.full(nbytes, k, np.uint8).tobytes() for k in (1, 2)])
    with tempfile.TemporaryDirectory(dir=folder) as name:
        environment = lmdb.open(name, map_size=1 << 30, sync=sync, metasync=sync)

        def run() -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(b"x", next(values))

        yield Work("LMDB" if sync else "LMDB without a sync", run, calls=calls)
        environment.close()
