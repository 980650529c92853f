"""Every function that a thread compiles, whoever calls it."""

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmsb_jax._compile.monitor import StageTiming, heard, listen
from mmsb_jax._display.html import html_table
from mmsb_jax._display.text import aligned, printable
from mmsb_jax.programs._watching.call_site import call_site
from mmsb_jax.programs._watching.values import cut

_MOST_KEPT = 4096
_MOST_NAMES = 4096
_COLUMNS = ("function", "number", "ms", "where")


@dataclass(frozen=True, slots=True)
class CompiledFunction:
    """A function that was compiled.

    Attributes:
        function: its name.
        number: how often one of that name was compiled so far, this one included.
        tracing_ms, lowering_ms, compiling_ms: what each stage took, in milliseconds; None for one
            that was not run.
        cache_hit: whether it came from the persistent compilation cache; None where JAX does not
            say.
        site: the caller, as ``train.py:31 in main``; None where there is none.
    """

    function: str
    number: int
    tracing_ms: float | None
    lowering_ms: float | None
    compiling_ms: float
    cache_hit: bool | None
    site: str | None

    @property
    def ms(self) -> float:
        """What all stages took together, in milliseconds."""
        return (self.tracing_ms or 0.0) + (self.lowering_ms or 0.0) + self.compiling_ms


class CompiledFunctions(Sequence[CompiledFunction]):
    """What a thread has compiled, in order: the newest 4,096; prints as a table."""

    def __init__(self) -> None:
        self._found: deque[CompiledFunction] = deque(maxlen=_MOST_KEPT)
        self._times: Counter[str] = Counter()
        self._pending: dict[str, dict[str, float]] = {}
        self._count = 0

    def __getitem__(self, index: Any) -> Any:
        return tuple(self._found)[index] if isinstance(index, slice) else self._found[index]

    def __len__(self) -> int:
        return len(self._found)

    def __str__(self) -> str:
        if not self._found:
            return self._title()
        lines = aligned([_COLUMNS, *self._rows()], [False, True, True, False])
        return "\n".join([self._title(), *lines])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table([(self._title(),)]) + html_table(self._rows(), _COLUMNS)

    def _title(self) -> str:
        if not self._count:
            return "nothing was compiled"
        kept = "" if len(self) == self._count else f"; the newest {len(self):,} of them"
        total = sum(each.ms for each in self._found)
        return f"compiled {self._count:,} functions{kept}, {total:,.1f} ms"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (each.function, str(each.number), f"{each.ms:,.1f}", each.site or "–")
            for each in self._found
        ]

    def _hear(self, timing: StageTiming) -> None:
        name = cut(printable(timing.function or "a function"))
        if timing.stage != "compiling":
            if len(self._pending) < _MOST_NAMES:
                self._pending.setdefault(name, {})[timing.stage] = timing.ms
            return
        before = self._pending.pop(name, {})
        if name in self._times or len(self._times) < _MOST_NAMES:
            self._times[name] += 1
        self._count += 1
        self._found.append(
            CompiledFunction(
                name,
                self._times[name],
                before.get("tracing"),
                before.get("lowering"),
                timing.ms,
                timing.cache_hit,
                call_site(),
            )
        )


@contextlib.contextmanager
def watch_all() -> Iterator[CompiledFunctions]:
    """Hear of every function that this thread compiles inside of the ``with``.

    JAX's own functions are among them, as ``broadcast_in_dim``. May be nested: each hears of all.
    `watch` says why one function was compiled; this says which are.

    Returns:
        What was compiled so far, a `CompiledFunctions`: it may be read inside, and after.

    Cost: nothing for what does not compile.

    >>> import jax, jax.numpy as jnp
    >>> from mmsb_jax import programs
    >>> x = jnp.ones(3)
    >>> def double(x):
    ...     return 2 * x
    >>> with programs.watch_all() as seen:
    ...     _ = jax.jit(double)(x)
    >>> [(each.function, each.number) for each in seen]
    [('double', 1)]
    """
    listen()
    found = CompiledFunctions()
    hear = found._hear
    handlers = heard.handlers
    handlers.append(hear)
    try:
        yield found
    finally:
        handlers.remove(hear)
