"""Making arrays: their entries, their first bytes, a million pages in memory."""

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import mmsb_jax as mmsb
from benchmarks.peers import Rows
from mmsb_jax.bench import works
from mmsb_jax.bench.measure import Work, compare, grow
from mmsb_jax.bench.row import Row, figure_at_most


def rows(folder: Path, long: bool) -> Rows:
    """Small arrays, then many pages."""
    yield from _create()
    yield _first_bytes(folder)
    yield _growth(folder)
    yield _pages(folder, 1_000_000 if long else 300_000)


def _create() -> Iterator[Row]:
    with mmsb.open() as bus:
        names, keys = (map("page{}".format, itertools.count()) for _ in range(2))
        table: dict[str, object] = {}
        yield compare(
            "allocation/create", "bus.create of 1 KB",
            Work("bus.create", lambda: bus.create(next(names), nbytes=1024), calls=1000),
            Work("an entry of a dict", lambda: table.setdefault(next(keys), object()), calls=1000),
            must=figure_at_most(2e-6), aim=figure_at_most(1e-6),
        )  # fmt: skip


def _first_bytes(folder: Path) -> Row:
    """Its bytes are made when it is written."""
    value = np.ones(1024, np.uint8)
    names = map("page{}".format, itertools.count())
    with works.bus_in(folder) as bus, works.bus_in(folder) as other, works.small_write(other) as w:

        def make() -> None:
            name = next(names)
            bus.create(name, nbytes=1024)
            bus.write(name, value)

        return compare(
            "allocation/first-write", "an array of 1 KB made and written, logged",
            Work("making and writing", make, calls=50), w, rounds=15,
        )  # fmt: skip


def _growth(folder: Path) -> Row:
    with contextlib.ExitStack() as stack:

        def beside(count: int) -> Work:
            bus = stack.enter_context(works.bus_in(folder))
            with bus.batch():
                for i in range(count):
                    bus.create(f"there{i}", nbytes=64)
            names = map("page{}".format, itertools.count())

            def make() -> None:
                name = next(names)
                bus.create(name, nbytes=1024)
                bus.write(name, bytes(1023) + b"1")

            return Work("making and writing", make, calls=10)

        return grow(
            "allocation/growth-arrays", "an array made and written, with the arrays that there are",
            {count: beside(count) for count in (100, 1_000, 10_000)}, at_most=0.2, rounds=9,
        )  # fmt: skip


def _pages(folder: Path, pages: int) -> Row:
    """In a process of its own: what stays when the caller's copy and the log's buffers are gone."""
    script = (
        "import resource, sys, numpy as np, mmsb_jax as mmsb\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()\n"
        "place, nbytes = sys.argv[1], int(sys.argv[2])\n"
        "bus = mmsb.open(place, page_bytes=1024, snapshots=False)\n"
        "bus.create('small', nbytes=4)\n"
        "bus.write('small', b'1234')\n"
        "before = resident()\n"
        "bus.create('x', nbytes=nbytes)\n"
        "bus.write('x', np.ones(nbytes, np.uint8))\n"
        "print(resident() - before)\n"
    )
    command = [sys.executable, "-c", script, str(folder / "pages.mmsb"), str(1024 * pages)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    is_million = pages == 1_000_000  # of fewer, what a bus has in any case is a larger part
    return Row(
        "allocation/pages", f"{pages:,} pages of 1 KB in memory, with their versions", "B",
        [int(done.stdout)], "their bytes", [1024 * pages],
        figure_at_most(1.05e9) if is_million else None,
        figure_at_most(1.02e9) if is_million else None,
    )  # fmt: skip
