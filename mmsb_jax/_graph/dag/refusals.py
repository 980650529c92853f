"""What the errors of a graph say."""

import difflib
from collections.abc import Sequence

from mmsb_jax._base.errors import ArrayNotFoundError, GraphCycleError

_MOST_SHOWN = 100
"""Names that a message shows of a cycle; of a longer one, its beginning and its end."""


def cycle_error(cycle: Sequence[str]) -> GraphCycleError:
    """The error for edges that lead from ``cycle[0]`` along the others and back to it."""
    names = [*cycle, cycle[0]]
    if len(names) > _MOST_SHOWN:
        half = _MOST_SHOWN // 2
        names[half:-half] = [f"… {len(names) - 2 * half:,} more …"]
    shown = " → ".join(names)
    return GraphCycleError(
        f"the edge {cycle[-1]} → {cycle[0]} closes the cycle {shown}. Expected edges that lead "
        f"from what is read to what is made of it: leave out one of them, or turn it around."
    )


def node_not_found(name: str, names: Sequence[str]) -> ArrayNotFoundError:
    """The error for a name that no node has, with the names that are near it."""
    near = _near(name, names)
    hint = f"Did you mean {near}?" if near else "The graph is empty."
    return ArrayNotFoundError(f"no node of the graph is named {name!r:.200}. {hint}")


def edge_not_found(
    parent: str, child: str, kind: str | None, kinds: Sequence[str], children: Sequence[str]
) -> ArrayNotFoundError:
    """The error for an edge that there is not, with those that there are.

    Args:
        parent, child, kind: the edge; of any kind for None.
        kinds: the kinds of the edges from ``parent`` to ``child``.
        children: the names of all children of ``parent``.
    """
    if kinds:
        hint = f"What leads there is of kind {', '.join(map(repr, kinds))}."
    elif children:
        hint = f"Edges lead from {parent!r} to {_near(child, children)}."
    else:
        hint = f"No edge leads from {parent!r}."
    of_kind = "" if kind is None else f" of kind {kind!r}"
    return ArrayNotFoundError(f"no edge{of_kind} leads from {parent!r} to {child!r}. {hint}")


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:5]
    return ", ".join(map(repr, near))
