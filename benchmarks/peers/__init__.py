"""Other libraries, as works that stand beside this one's: a module each, or one a kind.

One that is not installed is left out by name, with the reason, and so are those that cannot be.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmsb_jax.bench.row import Row


@dataclass(frozen=True)
class LeftOut:
    """A peer that is not measured, and why."""

    peer: str
    reason: str


Rows = Iterator[Row | LeftOut]

NEVER = (
    LeftOut("param", "its watchers compute a node once for every path that leads to it"),
    LeftOut("graphtik", "10.5 fails with networkx 3"),
    LeftOut("fn-graph", "asks for networkx 2"),
)
"""Those that were tried, and cannot stand beside it."""


def beside(peer: str, rows: Callable[[], Rows]) -> Rows:
    """Rows beside a peer; where it is not installed, that it is left out."""
    try:
        yield from rows()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("benchmarks", "mmsb_jax")):
            raise
        yield LeftOut(peer, str(error))
