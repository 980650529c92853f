"""Living leaves: which leaves of a tree are the very arrays that were committed before.

An array of JAX does not change. One that was committed, and that nothing has written since, need
not be read again, nor copied or compared: only looked at.
"""

import operator
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax

_NOBODY = object()


def _nobody() -> object:
    """In the place of a leaf that may change, or that nobody has any more."""
    return _NOBODY


class LivingLeaves:
    """The data leaves of a tree, as long as they live: none is kept alive by this.

    Attributes:
        version: the commit that they are of; None as long as it has not landed.
    """

    def __init__(self, kept: list[Callable[[], Any]]) -> None:
        self._kept = kept
        self.version: int | None = None

    @classmethod
    def of(cls, data: Sequence[Any], places: Sequence[int], before: "LivingLeaves | None") -> Self:
        """The leaves ``data``, of which only those at ``places`` are not the ones ``before``."""
        kept: list[Callable[[], Any]] = [_nobody] * len(data)
        if before is not None and len(places) < len(data):
            kept = before._kept.copy()
        for i in places:
            leaf = data[i]
            kept[i] = weakref.ref(leaf) if isinstance(leaf, jax.Array) else _nobody
        return cls(kept)

    def others(self, data: Sequence[Any]) -> list[int]:
        """Which of as many leaves are not these, or are none of JAX: those may change."""
        is_same = map(operator.is_, data, map(operator.call, self._kept))
        return [i for i, same in enumerate(is_same) if not same]
