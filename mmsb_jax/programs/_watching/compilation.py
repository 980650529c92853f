"""What is recorded of a compilation, and the table of several."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mmsb_jax._display.html import html_list, html_table
from mmsb_jax._display.text import aligned
from mmsb_jax.programs._watching.causes import Cause

What = Literal["first", "traced again", "lowered again", "compiled again"]

_COLUMNS = ("number", "what", "ms", "where", "why")


@dataclass(frozen=True, slots=True)
class Compilation:
    """One call that compiled.

    Attributes:
        number: which compilation of the function it is, from 1.
        function: the name of the function.
        what: ``"first"``, or where JAX had to begin: ``"traced again"`` (the Python function was
            called), ``"lowered again"`` (to StableHLO), ``"compiled again"``. Of a call under
            `jax.vmap` or `jax.grad` JAX does not say whether it was traced.
        causes: why; at least one.
        tracing_ms, lowering_ms, compiling_ms: what each stage took, in milliseconds; None for one
            that was not run.
        cache_hit: whether it came from the persistent compilation cache; None where JAX does not
            say.
        site: the caller, as ``train.py:31 in main``; None where there is none.
        version: of the commit that records it; None without one.
    """

    number: int
    function: str
    what: What
    causes: tuple[Cause, ...]
    tracing_ms: float | None
    lowering_ms: float | None
    compiling_ms: float | None
    cache_hit: bool | None
    site: str | None
    version: int | None = None

    @property
    def ms(self) -> float:
        """What all stages took together, in milliseconds."""
        return sum(ms or 0.0 for ms in (self.tracing_ms, self.lowering_ms, self.compiling_ms))

    @property
    def why(self) -> str:
        """The causes, in one line."""
        return "; ".join(map(str, self.causes))

    @property
    def advice(self) -> tuple[str, ...]:
        """What is usually done about them, each once."""
        return tuple(dict.fromkeys(cause.advice for cause in self.causes if cause.advice))

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name, the causes as dicts: fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.function} #{self.number}, {self.what}, {self.ms:,.1f} ms: {self.why}"


class Explanation(Sequence[Compilation]):
    """Compilations of one function, oldest first: prints as a table, in a notebook too.

    Args:
        function: the name of the function.
        compilations: those that are kept.
        count: how many there were.
    """

    def __init__(self, function: str, compilations: Sequence[Compilation], count: int) -> None:
        self._function, self._compilations, self._count = function, tuple(compilations), count

    def __getitem__(self, index: Any) -> Any:
        return self._compilations[index]

    def __len__(self) -> int:
        return len(self._compilations)

    def __str__(self) -> str:
        rows = self._rows()
        is_right = [True, False, True, False, False]
        lines = aligned([_COLUMNS, *rows], is_right) if rows else []
        return "\n".join([self._title(), *lines, *(f"advice: {text}" for text in self._advice())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = html_table([(self._title(),)]) + html_table(self._rows(), _COLUMNS)
        return table + (html_list(self._advice()) if self._advice() else "")

    def _title(self) -> str:
        if not self._count:
            return f"{self._function}: not compiled since it is watched"
        total = sum(compilation.ms for compilation in self)
        times = "once" if self._count == 1 else f"{self._count:,} times"
        kept = "" if len(self) == self._count else f"; the newest {len(self):,} of them"
        return f"{self._function}: compiled {times}{kept}, {total:,.1f} ms"

    def _advice(self) -> list[str]:
        return list(dict.fromkeys(text for each in self for text in each.advice))

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                str(each.number),
                f"{each.what} (cached)" if each.cache_hit else each.what,
                f"{each.ms:,.1f}",
                each.site or "–",
                each.why,
            )
            for each in self
        ]
