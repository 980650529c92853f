"""Rows: where each array of a bus stands in the pool that deltas speak of.

The head keeps every array by itself, so that rows are only numbers: an array keeps its rows as long
as it lives, and rows are never used again. A delta that was made before an array went away can so
not write into another.
"""

import dataclasses
from collections.abc import Iterable

from mmsb_jax._base.errors import InvalidDeltaError
from mmsb_jax._bus.trees.tree import TreeShape, spec_of
from mmsb_jax._core.layout import Layout
from mmsb_jax._core.region import Region
from mmsb_jax._store.format.record import ArrayInfo

_MOST_ROWS = 2**31 - 1


class RowTable:
    """Gives rows to arrays."""

    def __init__(self, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self._places: dict[int, tuple[int, int]] = {}
        self._next = 0

    def layout(self, arrays: Iterable[ArrayInfo], shape: TreeShape | None) -> Layout:
        """The layout of ``arrays``; with the structure of ``shape`` where it is exactly theirs."""
        by_name = {info.name: info for info in arrays}
        if shape is not None and by_name.keys() == set(shape.names):
            regions = tuple(self._region(by_name[name]) for name in shape.names)
            return dataclasses.replace(shape.layout, regions=regions, page_bytes=self._page_bytes)
        return Layout(tuple(map(self._region, by_name.values())), self._page_bytes)

    def _region(self, info: ArrayInfo) -> Region:
        spec = spec_of(info)
        pages = -(-spec.nbytes // self._page_bytes)
        first, kept = self._places.get(info.id, (0, -1))
        if kept < pages:
            first = self._next
            self._next += pages
            if self._next > _MOST_ROWS:
                raise InvalidDeltaError(
                    f"{_MOST_ROWS} rows of this bus are used up, and deltas cannot name more. "
                    f"Close it and open it again: rows are given anew."
                )
            self._places[info.id] = (first, pages)
        return Region(info.name, spec, first, pages, self._page_bytes)
