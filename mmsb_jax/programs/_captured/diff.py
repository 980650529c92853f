"""The difference of two programs: in cost, memory, operations and texts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmsb_jax._base.arguments import check_kind
from mmsb_jax._display.html import html_table, html_text
from mmsb_jax._display.text import aligned, printable
from mmsb_jax.programs._captured.program import STAGES, Program, title_of
from mmsb_jax.programs._captured.summary import FIGURES, show_figure

_COLUMNS = ("", "old", "new", "change")
_IS_RIGHT = (False, True, True, True)
_TWICE = 2.0
"""From here on a change is said as a factor, below it in per cent."""


@dataclass(frozen=True, slots=True)
class ProgramChange:
    """One thing in which two programs differ.

    Attributes:
        what: what it is.
        old, new: what it is in each; None for what is not known.
    """

    what: str
    old: Any
    new: Any

    def row(self) -> tuple[str, str, str, str]:
        """Its line in a table."""
        shown = (self.what, show_figure(self.old), show_figure(self.new), self._change())
        return tuple(map(printable, shown))  # pyright: ignore[reportReturnType]

    def _change(self) -> str:
        if not _is_number(self.old) or not _is_number(self.new):
            return ""
        if not self.old or not self.new:
            return f"{self.new - self.old:+,.0f}"
        ratio = self.new / self.old
        if ratio >= _TWICE:
            return f"×{ratio:.3g}"
        return f"{100 * (ratio - 1):+.3g} %"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class ProgramDiff:
    """What differs between two programs; true when anything does. Prints as a table.

    Attributes:
        old, new: the programs.
        figures: figures that differ: cost, memory, fusions, arguments, versions of JAX.
        operations: kinds of operations of which there are more or fewer.
        stages: the stages that both have with another text.
    """

    old: Program
    new: Program
    figures: tuple[ProgramChange, ...]
    operations: tuple[ProgramChange, ...]
    stages: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.figures or self.operations or self.stages)

    def summary(self) -> str:
        """One line."""
        told = f"{title_of(self.old)} → {title_of(self.new)}"
        if self.old.name == self.new.name:
            told = f"{title_of(self.old)} → {self.new.version}"
        if not self:
            return f"{told}: the same"
        return f"{told}: {', '.join(self._counted())}"

    def _counted(self) -> Iterator[str]:
        if self.stages:
            yield f"another {', '.join(self.stages)}"
        if self.operations:
            came = sum(max(0, change.new - change.old) for change in self.operations)
            went = sum(max(0, change.old - change.new) for change in self.operations)
            counted = [f"{came:,} came"] * bool(came) + [f"{went:,} went"] * bool(went)
            yield f"of the operations {' and '.join(counted)}"
        if self.figures:
            yield f"{len(self.figures)} figures differ"

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "old": {"name": self.old.name, "version": self.old.version},
            "new": {"name": self.new.name, "version": self.new.version},
            "differs": bool(self),
            "figures": {change.what: [change.old, change.new] for change in self.figures},
            "operations": {change.what: [change.old, change.new] for change in self.operations},
            "stages": list(self.stages),
        }

    def _rows(self) -> list[tuple[str, str, str, str]]:
        return [change.row() for change in (*self.figures, *self.operations)]

    def __str__(self) -> str:
        rows = self._rows()
        table = aligned([_COLUMNS, *rows], _IS_RIGHT) if rows else []
        return "\n".join([self.summary(), *table])

    def _repr_html_(self) -> str:
        rows = self._rows()
        return html_text(self.summary()) + (html_table(rows, _COLUMNS) if rows else "")


def diff(a: Program, b: Program) -> ProgramDiff:
    """What differs between two programs: two versions of one, two of one log, or of two logs.

    Args:
        a: the program to compare from.
        b: the program to compare with.

    Raises:
        TypeError: no programs.

    Cost: reads no text; whether these differ is known by their hashes.

    >>> import jax, jax.numpy as jnp
    >>> import mmsb_jax as mmsb
    >>> bus, f = mmsb.open(), jax.jit(lambda x: jnp.tanh(x) + x)
    >>> small = mmsb.programs.capture(bus, "f", f.trace(jnp.ones(8)))
    >>> large = mmsb.programs.capture(bus, "f", f.trace(jnp.ones(32)))
    >>> found = mmsb.programs.diff(small, large)
    >>> [(change.what, change.old, change.new) for change in found.figures if "arg" in change.what]
    [('arguments', {'float32[8]': 1}, {'float32[32]': 1}), ('argument bytes', 32, 128)]
    >>> print(mmsb.programs.diff(small, small))
    f, version 1 → 1: the same
    """
    for name, program in (("a", a), ("b", b)):
        check_kind(name, program, Program, ", as programs.load and programs.capture give")
    figures = {title: (a.summary.get(key), b.summary.get(key)) for key, title in FIGURES.items()}
    kinds = sorted(a.operations.keys() | b.operations.keys())
    operations = {
        kind: (a.operations.get(kind, 0), b.operations.get(kind, 0))
        for kind in kinds
        if a.fusions is not None and b.fusions is not None
    }
    texts = a.summary["stages"], b.summary["stages"]
    both = [stage for stage in STAGES if all(stage in stages for stages in texts)]
    return ProgramDiff(
        a,
        b,
        tuple(_changes(figures)),
        tuple(_changes(operations)),
        tuple(stage for stage in both if texts[0][stage] != texts[1][stage]),
    )


def _changes(pairs: Mapping[str, tuple[Any, Any]]) -> Iterator[ProgramChange]:
    for what, (old, new) in pairs.items():
        if old != new:
            yield ProgramChange(what, old, new)
