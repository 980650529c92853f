"""The straight line: commits of bytes of one small array, from the caller to the frame.

They take the stages of every commit, and what they need of the array and of the graph is looked up
once, and kept until the table or the graph is another. Whatever is out of the ordinary takes the
way of all others, and gives the same bytes.
"""

from itertools import pairwise
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from mmsb_jax._base.words import host_words
from mmsb_jax._bus.derive.quiet import QuietWave
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._bus.write.array_specs import bytes_for
from mmsb_jax._core.delta import Delta
from mmsb_jax._core.layout import Layout
from mmsb_jax._core.region import Region
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.plain import SmallArray
from mmsb_jax._store.encoding.group import SMALL_BYTES
from mmsb_jax._store.query.commit import Commit

_MOST_BLOCKS = 8
"""Of a delta that is taken this way."""
_DTYPES = tuple(map(np.dtype, ("int32", "int32", "uint32", "uint32")))
"""Of its page, block, mask and data."""


class StraightLine:
    """The small arrays of a bus that writes, each with the wave behind it.

    Args:
        engine: of the bus, which is open, settled and locked at every call.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._made_for: tuple[Any, ...] = ()
        self._known: dict[str, tuple[SmallArray, QuietWave | None] | None] = {}
        self._arrays: dict[str, SmallArray | None] = {}

    def write(self, name: Any, value: Any, info: CommitInfo) -> Commit | None:
        """Replace the bytes of an array; None where that is out of the ordinary."""
        found = self._find(name, info)
        if found is None:
            return None
        return self._land(*found, host_words(bytes_for(found[0].info, value)), info)

    def apply(self, delta: Any, layout: Layout, info: CommitInfo) -> Commit | None:
        """Commit a delta of few blocks of one array; None where that is out of the ordinary."""
        blocks = _blocks_of(delta, layout)
        found = None if blocks is None else self._find(blocks.region.name, info)
        if blocks is None or found is None:
            return None
        new = blocks.written_to(found[0])
        return None if new is None else self._land(*found, new, info)

    def _land(
        self, array: SmallArray, wave: QuietWave | None, new: np.ndarray, info: CommitInfo
    ) -> Commit:
        draft = Draft(step=info.step, source=info.source)
        return self._engine.land_small(array, new, wave, draft)

    def _find(self, name: Any, info: CommitInfo) -> tuple[SmallArray, QuietWave | None] | None:
        """A small array and what follows from it; None where something is out of the ordinary."""
        engine, derivations = self._engine, self._engine.derivations
        if info.says_more or engine.is_heard or not derivations.is_quiet:
            return None
        if not engine.head.is_saved:
            return None
        made_for = engine.head.structure, derivations, derivations.flow.epoch
        if made_for != self._made_for:
            self._known.clear()
            self._arrays.clear()
            self._made_for = made_for
        if type(name) is not str:
            return None
        if name not in self._known and name in engine.head.state.table.ids:
            self._known[name] = self._look_up(name)
        return self._known.get(name)

    def _look_up(self, name: str) -> tuple[SmallArray, QuietWave | None] | None:
        flow, array = self._engine.derivations.flow, self._array(name)
        if array is None or name in flow.makers:
            return None
        if not flow.is_watched(name):
            return array, None
        wave = QuietWave(self._engine.derivations, name, self._small)
        return (array, wave) if wave.is_small else None

    def _small(self, name: str) -> SmallArray:
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = self._array(name)
        assert array is not None
        return array

    def _array(self, name: str) -> SmallArray | None:
        """An array by its name; None where there is none, or it is large."""
        head = self._engine.head
        array_id = head.state.table.ids.get(name)
        if array_id is None:
            return None
        info = head.state.table.arrays[array_id]
        is_small = info.nbytes <= SMALL_BYTES
        return SmallArray(head.state, info, head.page_bytes) if is_small else None


class _Blocks(NamedTuple):
    """The blocks of a delta that writes to one array.

    Attributes:
        region: the array.
        places: the first word of each in it, ascending.
        mask, data: as in the delta (uint32[n, block]).
    """

    region: Region
    places: list[int]
    mask: np.ndarray
    data: np.ndarray

    def written_to(self, array: SmallArray) -> np.ndarray | None:
        """All words of the array after it (uint32[n]).

        None for an array that is another now, or a delta that writes behind its end.
        """
        if (array.info.dtype, array.info.shape) != (self.region.dtype, self.region.shape):
            return None
        words, size, tail = array.words.copy(), array.words.size, array.nbytes % 4
        for place, mask, data in zip(self.places, self.mask, self.data, strict=False):
            left = max(0, size - place)
            if left <= mask.size:  # it reaches the end
                is_behind = mask[left:].any()
                if is_behind or (left and tail and int(mask[left - 1]) >> 8 * tail):
                    return None
                mask, data = mask[:left], data[:left]
            part = words[place : place + mask.size]
            part ^= (part ^ data) & mask
        return words


def _blocks_of(delta: Any, layout: Layout) -> _Blocks | None:
    """The blocks of a delta; None where they are many, or not plainly those of one array."""
    if not isinstance(delta, Delta) or not isinstance(layout, Layout):
        return None
    leaves = delta.page, delta.block, delta.mask, delta.data, delta.count, delta.overflow
    if any(type(leaf) is not np.ndarray for leaf in leaves):
        with jax.transfer_guard_device_to_host("allow"):
            leaves = tuple(map(np.asarray, leaves))
    page, block, mask, data, count, overflow = cast("tuple[np.ndarray, ...]", leaves)
    if page.ndim != 1 or overflow or not 0 < count <= min(_MOST_BLOCKS, page.size):
        return None
    whole = page.size, delta.block_words
    is_sound = page.shape == block.shape and mask.shape == data.shape == whole
    if not is_sound or (page.dtype, block.dtype, mask.dtype, data.dtype) != _DTYPES:
        return None
    if layout.page_words % delta.block_words:
        return None
    regions, firsts, ends = layout.by_row
    pages = page[: int(count)].tolist()
    owner = int(firsts.searchsorted(pages[0], "right")) - 1
    if owner < 0 or max(pages) >= ends[owner]:
        return None
    region = regions[owner]
    places = [
        (row - region.page) * layout.page_words + part * delta.block_words
        for row, part in zip(pages, block.tolist(), strict=False)
    ]
    if any(after <= before for before, after in pairwise((-1, *places))):
        return None
    return _Blocks(region, places, mask, data)
