"""Works, timed in turn: a limit or a peer meets the same moods of the machine as what it limits."""

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmsb_jax.bench.row import Bound, Row, shown

_SHORT_S = 0.02


@dataclass(frozen=True)
class Work:
    """Something to time.

    Attributes:
        name: what it is called where something else is compared with it.
        run: the work.
        after: puts in order what ``run`` left, and is not timed; it is given what that returned.
        calls: how often ``run`` is called at a time, where one call is too short for the clock.
        items: things that a call does; times are of one of them.
    """

    name: str
    run: Callable[[], Any]
    after: Callable[[Any], Any] | None = None
    calls: int = 1
    items: int = 1

    def an_item_of(self, items: int) -> "Work":
        """The same work, its time divided among ``items``."""
        return replace(self, items=items)

    def time_s(self) -> float:
        """Seconds of one item."""
        run, got = self.run, None
        begun = time.perf_counter_ns()
        for _ in range(self.calls):
            got = run()
        taken_ns = time.perf_counter_ns() - begun
        if self.after is not None:
            self.after(got)
        return taken_ns / 1e9 / (self.calls * self.items)


def times_s(*works: Work, rounds: int, warm: int = 1) -> list[list[float]]:
    """Seconds of each work in each round; the works take turns, and the collector is off.

    A short work runs once untimed at the beginning of its turn: it should find the cache as it
    left it, and not as another did.
    """
    turns = [_Turn(work, _warmed(work, warm)) for work in works]
    gc.collect()
    gc.disable()
    try:
        found = [[turn.time_s() for turn in turns] for _ in range(rounds)]
    finally:
        gc.enable()
    return [list(of_work) for of_work in zip(*found, strict=True)]


def _warmed(work: Work, warm: int) -> bool:
    """Whether it is short, as the last of its first runs shows."""
    times = [work.time_s() * work.calls * work.items for _ in range(warm)]
    return bool(times) and times[-1] < _SHORT_S


@dataclass(frozen=True)
class _Turn:
    work: Work
    is_short: bool

    def time_s(self) -> float:
        if self.is_short:
            self.work.time_s()
        return self.work.time_s()


def compare(
    name: str,
    what: str,
    work: Work,
    beside: Work,
    *,
    rounds: int = 9,
    warm: int = 1,
    must: Bound | None = None,
    aim: Bound | None = None,
    note: str = "",
) -> Row:
    """The row of a work and of a limit or peer."""
    figures, references = times_s(work, beside, rounds=rounds, warm=warm)
    return Row(name, what, "s", figures, beside.name, references, must, aim, note)


def grow(
    name: str,
    what: str,
    works: Mapping[int, Work],
    *,
    at_most: float,
    rounds: int = 5,
    warm: int = 1,
) -> Row:
    """The row of the exponent by which the time of a work grows with its size.

    Args:
        name, what: as of a `Row`.
        works: the work at each size.
        at_most: the exponent that it is held to: 0 for none, 1 for time in proportion.
        rounds, warm: as of `times_s`.
    """
    times = times_s(*works.values(), rounds=rounds, warm=warm)
    exponents = [_slope(list(works), of_round) for of_round in zip(*times, strict=True)]
    note = ", ".join(
        f"{size:,}: {shown(sorted(of_size)[len(of_size) // 2], 's')}"
        for size, of_size in zip(works, times, strict=True)
    )
    bound, limits = Bound(at_most, "figure"), [at_most] * rounds
    return Row(name, what, "exponent", exponents, "at most", limits, bound, note=note)


def _slope(sizes: list[int], times: tuple[float, ...]) -> float:
    """Of the line through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in times]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - middle_x) ** 2 for a in x)
