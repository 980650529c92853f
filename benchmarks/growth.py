"""How cost grows: three sizes a factor of ten apart, and the exponent that fits them."""

import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import mmsb_jax as mmsb
from benchmarks._measure import Row, median_ms


def rows() -> Iterator[Row]:
    """Commits and opening with the length of the log; commits with what is compared."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lengths = (100, 1_000, 10_000)
        commits, opens = zip(*(_at_length(folder / f"{n}.mmsb", n) for n in lengths), strict=True)
        yield _row("commit of 4 KB with the length of the log", lengths, commits, 0.2)
        yield _row("opening a closed log with its length", lengths, opens, 0.4)
    sizes = (1 << 20, 10 << 20, 100 << 20)
    yield _row("unchanged commit with the bytes compared", sizes, list(map(_unchanged, sizes)), 1.2)


def _at_length(path: Path, length: int) -> tuple[float, float]:
    value = {"x": np.zeros(1024, np.uint32)}

    def commit() -> None:
        value["x"][int(time.perf_counter_ns()) % 1024] += 1
        bus.commit(value)

    with mmsb.open(path, snapshots=False) as bus:
        for _ in range(length):
            commit()
        commit_ms = median_ms(commit, 51)
        bus._session.writing()._begin_snapshot()
        bus.snapshot()

    def reopen() -> None:
        mmsb.open(path).close()

    return commit_ms, median_ms(reopen, 7, 1)


def _unchanged(size: int) -> float:
    value = {"x": np.ones(size // 4, np.uint32)}
    with mmsb.open() as bus:
        bus.commit(value)
        return median_ms(lambda: bus.commit(value))


def _row(what: str, sizes: tuple[int, ...], times: object, most: float) -> Row:
    values = list(times)  # type: ignore[call-overload]
    exponent = _slope([math.log(n) for n in sizes], [math.log(t) for t in values])
    shown = ", ".join(f"{t:.3g}" for t in values)
    return Row("growth", f"{what}: {shown} ms", exponent, "exponent", "at most", most,
               "≤", "–", exponent <= most)  # fmt: skip


def _slope(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(x, y, 1)[0])
