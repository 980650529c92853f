"""Rows: a figure beside what it is compared with, measured in turn with it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["s", "B", "exponent"]
COLUMNS = (
    "row", "what", "figure", "beside", "its figure", "ratio", "spread", "must", "aim", "met",
)  # fmt: skip


@dataclass(frozen=True)
class Bound:
    """The most that a figure may be, or its ratio to what it is compared with."""

    most: float
    of: Literal["figure", "ratio"]

    def shown(self, unit: Unit) -> str:
        """In a table: ``50 µs``, ``× 1.5``, ``÷ 10``."""
        if self.of == "figure":
            return f"≤ {shown(self.most, unit)}"
        return f"× {self.most:.3g}" if self.most >= 1 else f"÷ {1 / self.most:.3g}"


def figure_at_most(most: float) -> Bound:
    """A bound of the figure itself, in its unit."""
    return Bound(most, "figure")


def ratio_at_most(most: float) -> Bound:
    """A bound of the figure as a multiple of what it is compared with."""
    return Bound(most, "ratio")


@dataclass(frozen=True)
class Row:
    """One work beside a limit or a peer. Every figure is a cost: less is better.

    Attributes:
        name: what it is known by, from one run to another: ``group/work``.
        what: the work.
        unit: of figures and references: seconds, bytes, or the exponent of a growth.
        figures: one a round.
        beside: name of the limit or peer.
        references: its figures, each of the same round.
        must, aim: what the row is held to, and what would be better.
        note: what else there is to say of it.
    """

    name: str
    what: str
    unit: Unit
    figures: Sequence[float]
    beside: str
    references: Sequence[float]
    must: Bound | None = None
    aim: Bound | None = None
    note: str = ""

    @property
    def figure(self) -> float:
        """The median."""
        return statistics.median(self.figures)

    @property
    def reference(self) -> float:
        """The median of what it is compared with."""
        return statistics.median(self.references)

    @property
    def ratio(self) -> float:
        """How many times the reference the figure is: the median over the rounds.

        Of exponents: how many times as much ten times the size costs.
        """
        return statistics.median(self._ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the ratio."""
        ratios = self._ratios
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    @property
    def _ratios(self) -> list[float]:
        pairs = zip(self.figures, self.references, strict=True)
        if self.unit == "exponent":  # what ten times the size costs
            return [10 ** (figure - limit) for figure, limit in pairs]
        return [figure / reference if reference else math.nan for figure, reference in pairs]

    def meets(self, bound: Bound | None) -> bool:
        """Whether a bound holds; None always does."""
        if bound is None:
            return True
        return (self.figure if bound.of == "figure" else self.ratio) <= bound.most

    def cells(self) -> tuple[str, ...]:
        """As text, one a column of `COLUMNS`."""
        low, high = self.spread
        bounds = [bound.shown(self.unit) if bound else "–" for bound in (self.must, self.aim)]
        return (
            self.name,
            self.what + (f" ({self.note})" if self.note else ""),
            shown(self.figure, self.unit),
            self.beside,
            shown(self.reference, self.unit),
            f"{self.ratio:.3g}",
            f"{low:.3g} to {high:.3g}",
            *bounds,
            "–" if self.must is None else "yes" if self.meets(self.must) else "NO",
        )

    def to_dict(self) -> dict[str, Any]:
        """For a file of results."""
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "figure": self.figure,
            "beside": self.beside,
            "reference": self.reference,
            "ratio": self.ratio,
            "spread": list(self.spread),
            "rounds": len(self.figures),
            "must": self.must and self.must.shown(self.unit),
            "aim": self.aim and self.aim.shown(self.unit),
            "met": self.meets(self.must) if self.must else None,
            "note": self.note,
        }


_SCALES: Mapping[str, Sequence[tuple[float, str]]] = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
}


def shown(value: float, unit: Unit) -> str:
    """A value with its unit, in thousands of it: ``41.2 µs``."""
    scales = _SCALES.get(unit)
    if scales is None:
        return f"{value:.3g}"
    factor, word = next((s for s in scales if abs(value) >= s[0]), scales[-1])
    return f"{value / factor:.3g} {word}"
