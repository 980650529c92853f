"""The rule by which a run is judged to be worse than the one before.

Times move by a factor of two with load, and from one machine to another; the ratio of a work to its
limit or peer, measured in turn with it, moves less. Every row is a cost beside another, so a larger
ratio is a worse one. **A row has regressed where the lower quartile of its ratio is more than a
quarter above the upper quartile that the baseline has**: beyond what the rounds of either run
differ by, and beyond what two runs of one program do. What seems to have regressed is measured once
more, with its group, and has regressed where it does so twice.

Rows are known by their names. One that only one of the two runs has is told, and counts for
neither. A baseline of another machine (processor, number of them, JAX, backend) is compared, and
decides nothing.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsb_jax.bench.row import Row

_RESULTS = Path(__file__).parent / "results"
MARGIN = 1.25
_OF_A_MACHINE = ("cpus", "processor", "jax", "backend")

Spreads = Mapping[str, tuple[float, float]]
"""Of each row its quartiles."""


@dataclass(frozen=True)
class Change:
    """A row whose ratio is beyond the spread of the baseline.

    Attributes:
        name: the row's.
        before, now: quartiles of its ratio.
    """

    name: str
    before: tuple[float, float]
    now: tuple[float, float]

    @property
    def is_worse(self) -> bool:
        """Whether it has regressed; it is much better if not."""
        return self.now[0] > self.before[1]

    def __str__(self) -> str:
        (low, high), (low_now, high_now) = self.before, self.now
        word = "worse" if self.is_worse else "better"
        return (
            f"{self.name}: {word}, {low:.3g} to {high:.3g} before, {low_now:.3g} to {high_now:.3g}"
        )


def spreads_of(rows: Iterable[Row]) -> dict[str, tuple[float, float]]:
    """The quartiles of the ratios."""
    return {row.name: row.spread for row in rows}


def changes(before: Spreads, now: Spreads) -> list[Change]:
    """The rows of both that are worse or better by the rule."""
    both = (Change(name, before[name], now[name]) for name in now if name in before)
    return [change for change in both if _differs(change)]


def _differs(change: Change) -> bool:
    (low, high), (low_now, high_now) = change.before, change.now
    return low_now > high * MARGIN or high_now < low / MARGIN


def path_of(long: bool) -> Path:
    """Where the baseline of a form is kept."""
    return _RESULTS / ("baseline-long.json" if long else "baseline.json")


def read(path: Path) -> tuple[Spreads, dict[str, Any]] | None:
    """The baseline and the machine that it is of; None where there is none."""
    if not path.exists():
        return None
    held = json.loads(path.read_text())
    return {name: (low, high) for name, (low, high) in held["spreads"].items()}, held["machine"]


def accept(rows: Iterable[Row], machine: Mapping[str, Any], path: Path) -> None:
    """Make a run the baseline; rows that it has not measured stay as they were."""
    known = read(path)
    kept = dict(known[0]) if known and decides(known[1], machine) else {}
    held = {"machine": dict(machine), "spreads": kept | spreads_of(rows)}
    path.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")


def decides(of_baseline: Mapping[str, Any], machine: Mapping[str, Any]) -> bool:
    """Whether a baseline is of such a machine, so that a regression counts."""
    return all(of_baseline[name] == machine[name] for name in _OF_A_MACHINE)
