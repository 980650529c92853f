"""Timing, and the rows that a benchmark reports."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One figure beside what it is compared with.

    Attributes:
        budget: number of the budget in `docs/performance.md`.
        what: the work.
        figure: what was measured, in ``unit``.
        against: name of the limit or peer of the same run.
        reference: its figure, in the same unit.
        must, aim: factors that the figure is held to, as in "at most must × reference".
        is_met: whether ``must`` holds.
    """

    budget: str
    what: str
    figure: float
    unit: str
    against: str
    reference: float
    must: str
    aim: str
    is_met: bool

    @property
    def ratio(self) -> float:
        """How many times the reference the figure is."""
        return self.figure / self.reference if self.reference else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """For the file of results."""
        return asdict(self) | {"ratio": self.ratio}


def median_ms(run: Callable[[], Any], rounds: int = 15, warm: int = 3) -> float:
    """Median time of a call, in milliseconds."""
    return statistics.median(times_ms(run, rounds, warm))


def times_ms(run: Callable[[], Any], rounds: int = 15, warm: int = 3) -> list[float]:
    """Times of single calls, in milliseconds, without the collector."""
    for _ in range(warm):
        run()
    gc.collect()
    gc.disable()
    try:
        found = []
        for _ in range(rounds):
            begun = time.perf_counter_ns()
            run()
            found.append((time.perf_counter_ns() - begun) / 1e6)
        return found
    finally:
        gc.enable()


def mean_us(run: Callable[[], Any], calls: int, warm: int = 100) -> float:
    """Mean time of a call that is too short to be timed by itself, in microseconds.

    The least of five runs: the others were disturbed.
    """
    for _ in range(warm):
        run()
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter_ns()
        for _ in range(calls):
            run()
        best = min(best, (time.perf_counter_ns() - begun) / calls / 1e3)
    return best
