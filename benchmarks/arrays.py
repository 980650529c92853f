"""Arrays by name: budgets 8, 9, 12, and many small arrays at once."""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import zstandard

import mmsb_jax as mmsb
from benchmarks._measure import Row, mean_us, median_ms

_PAGES = 1_000_000
_MANY = 10_000


def rows() -> Iterator[Row]:
    """A sparse write, many arrays in one commit, making an array, a million pages."""
    with tempfile.TemporaryDirectory() as name:
        yield from _small(Path(name))
        yield from _many(Path(name))
    yield _million_pages()


def _small(folder: Path) -> Iterator[Row]:
    with mmsb.open(folder / "a.mmsb", snapshots=False) as bus:
        names = (f"page{i}" for i in itertools.count())
        create_us = mean_us(lambda: bus.create(next(names), nbytes=1024), 4000)
        bus.create("x", nbytes=1024)
        value = np.zeros(1024, np.uint8)
        bus.write("x", value)
        turn = itertools.count()

        def write() -> None:
            value[next(turn) % 1024] ^= 1
            bus.write("x", value)

        write_us = mean_us(write, 2000)
        region = bus.layout.region("x")
        mask = np.zeros(1024, bool)
        mask[5:9] = True
        pair = [
            jax.device_get(mmsb.Delta.from_bytes(region, mask, np.full(1024, k, np.uint8)))
            for k in (1, 2)
        ]
        deltas = itertools.cycle(pair)
        apply_us = mean_us(lambda: bus.apply(next(deltas)), 2000)
    descriptor = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    frame = bytes(448)
    raw_us = mean_us(lambda: os.write(descriptor, frame), 5000)
    os.close(descriptor)
    yield Row("8", "sparse write to a 1 KB array, logged (bus.write)", write_us, "µs",
              "write(2) of its frame", raw_us, "≤ 50 µs", "15 µs", write_us <= 50)  # fmt: skip
    yield Row("8", "the same as a delta (bus.apply)", apply_us, "µs", "write(2) of its frame",
              raw_us, "≤ 50 µs", "15 µs", apply_us <= 50)  # fmt: skip
    table: dict[str, object] = {}
    plain = itertools.count()
    dict_us = mean_us(lambda: table.setdefault(f"page{next(plain)}", object()), 20000)
    yield Row("9", "bus.create of 1 KB", create_us, "µs", "an entry of a dict", dict_us,
              "≤ 2 µs", "1 µs", create_us <= 2)  # fmt: skip


def _many(folder: Path) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, _MANY, 256)).astype(np.float32)
    third = first.copy()
    third[:, 7] += 1
    names = [f"x{i}" for i in range(_MANY)]
    with mmsb.open(folder / "many.mmsb", snapshots=False) as bus:
        with bus.batch():
            for name in names:
                bus.create(name, (256,))

        def write(values: Iterator[np.ndarray]) -> None:
            with bus.batch():
                for name, value in zip(names, next(values), strict=True):
                    bus.write(name, value)

        dense, sparse = itertools.cycle([first, second]), itertools.cycle([first, third])
        dense_ms = median_ms(lambda: write(dense), 7)
        sparse_ms = median_ms(lambda: write(sparse), 7)
    rows = [row.tobytes() for row in first]
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=False)
    twice_ms = 2 * median_ms(lambda: list(map(compressor.compress, rows)), 7)
    descriptor = os.open(folder / "rows", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    raw_ms = median_ms(lambda: os.write(descriptor, first.data), 7)
    os.close(descriptor)
    yield Row("8b", "10,000 arrays of 1 KB, every byte changed, one batch", dense_ms, "ms",
              "compressing each twice, write(2)", twice_ms + raw_ms, "≤ 3 ×", "2 ×",
              dense_ms <= 3 * (twice_ms + raw_ms))  # fmt: skip
    yield Row("8b", "10,000 arrays of 1 KB, a word of each changed, one batch", sparse_ms, "ms",
              "write(2) of their bytes", raw_ms, "≤ 150 ms", "30 ms", sparse_ms <= 150)  # fmt: skip


def _million_pages() -> Row:
    # In a process of its own: what stays when the caller's copy and the log's buffers are gone.
    script = (
        "import resource, tempfile, numpy as np, mmsb_jax as mmsb\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    bus = mmsb.open(folder + '/m.mmsb', page_bytes=1024, snapshots=False)\n"
        "    bus.create('small', nbytes=4)\n"
        "    bus.write('small', b'1234')\n"
        "    before = resident()\n"
        f"    bus.create('x', nbytes=1024 * {_PAGES})\n"
        f"    bus.write('x', np.ones(1024 * {_PAGES}, np.uint8))\n"
        "    print(resident() - before)\n"
    )
    run = [sys.executable, "-c", script]
    out = subprocess.run(run, capture_output=True, text=True, check=True)
    held = int(out.stdout) / 1e9
    return Row("12", "a million pages of 1 KB in memory, with their versions", held, "GB",
               "their bytes", _PAGES * 1024 / 1e9, "≤ 1.05 GB", "1.02 GB",
               held <= 1.05)  # fmt: skip
