"""Changes to arrays by name, collected into one draft: what a batch is, and each call outside one.

The bytes that are read inside a batch are those written in it. Arrays that were made and not yet
recorded (`PendingArrays`) enter the log with the first draft that lands.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmsb_jax._base.arguments import check_text
from mmsb_jax._base.errors import StructureError
from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._bus.derive.transaction import GraphEdit
from mmsb_jax._bus.trees.tree import info_of, spec_of
from mmsb_jax._bus.write.array_specs import bytes_for, check_name, new_spec
from mmsb_jax._core.layout import array_not_found
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax._store.commit.draft import Draft, WordPatch
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.state.overlay import TableOverlay
from mmsb_jax._store.state.state import StoredState


class PendingArrays:
    """Arrays that were made since the last commit: they are zeros, and not in the log yet.

    Making one costs a dictionary entry; everything else waits until it is recorded.
    """

    def __init__(self) -> None:
        self.specs: dict[str, tuple[int, LeafSpec]] = {}

    def __bool__(self) -> bool:
        return bool(self.specs)

    def info(self, name: str) -> ArrayInfo:
        """One of them as the log will have it."""
        array_id, spec = self.specs[name]
        return info_of(array_id, name, spec, member=False)

    def ops(self) -> list[Op]:
        """The operations that record them."""
        return [Op(OpCode.CREATE, self.info(name)) for name in self.specs]


class DraftBuilder:
    """A draft in the making.

    Args:
        state: the head; it is read and not changed.
        pending: arrays to record before anything else.
        owns: whether to copy what is written, because the caller may change it before the end.
    """

    def __init__(self, state: StoredState, pending: PendingArrays, owns: bool = False) -> None:
        self._state = state
        self._owns = owns
        self._arrays = TableOverlay(state.table, pending.ops() if pending else ())
        self._contents: dict[int, np.ndarray] = {}
        self._patches: dict[int, WordPatch] = {}
        self.graph: GraphEdit | None = None

    def find(self, name: str) -> ArrayInfo:
        """The array called ``name``, as it is with the changes so far."""
        check_text("name", name, "the name of an array")
        info = self._arrays.find(name)
        if info is None:
            raise array_not_found(name, self._arrays.names())
        return info

    def has(self, name: str) -> bool:
        """Whether an array has that name, with the changes so far."""
        return self._arrays.find(name) is not None

    def bytes_of(self, info: ArrayInfo) -> np.ndarray:
        """The bytes of an array (uint8[nbytes]) with the changes so far; not to be written to."""
        patch = self._patches.pop(info.id, None)
        if patch is not None:
            self._contents[info.id] = _patched(self._state.bytes_of(info.id), patch)
        if info.id in self._contents:
            return self._contents[info.id]
        if info.id in self._arrays.created:
            with room_for(f"array {info.name!r}"):
                return np.zeros(info.nbytes, np.uint8)
        return self._state.bytes_of(info.id)

    def write(self, name: str, value: Any) -> None:
        """Replace the bytes of an array."""
        info = self.find(name)
        with room_for(f"what is written to array {name!r}"):
            raw = bytes_for(info, value)
            self._contents[info.id] = raw.copy() if self._owns else raw
        self._patches.pop(info.id, None)

    def patch(self, patches: dict[int, WordPatch]) -> None:
        """Write single bytes, array by array."""
        for array_id, patch in patches.items():
            if (
                array_id in self._contents
                or array_id in self._patches
                or self._arrays.is_touched(array_id)
            ):
                info = self._arrays.info(array_id)
                assert info is not None
                self._contents[array_id] = _patched(self.bytes_of(info), patch)
            else:
                self._patches[array_id] = patch

    def create(self, name: str, spec: LeafSpec) -> None:
        """Make an array of zeros."""
        self._create(name, spec)

    def _create(self, name: str, spec: LeafSpec) -> ArrayInfo:
        if self.has(name) or name in self._state.table.values:
            raise name_taken(name)
        info = info_of(self._arrays.next_id, name, spec, member=False)
        self._arrays.operate(Op(OpCode.CREATE, info))
        return info

    def delete(self, name: str) -> None:
        """Delete an array."""
        info = self.find(name)
        _refuse_member(info, "delete")
        self._contents.pop(info.id, None)
        self._patches.pop(info.id, None)
        self._arrays.operate(Op(OpCode.DELETE, info))

    def resize(self, name: str, shape: Sequence[int] | None, dtype: Any, nbytes: Any) -> None:
        """Give an array another shape or dtype; its first bytes stay, new ones are zero."""
        info = self.find(name)
        _refuse_member(info, "resize")
        if shape is not None and dtype is None:
            dtype = info.dtype
        spec = new_spec(name, shape, dtype, nbytes)
        if spec == spec_of(info):
            return
        with room_for(f"array {name!r} with {spec.nbytes:,} bytes"):
            raw = np.zeros(spec.nbytes, np.uint8)
            kept = min(raw.size, info.nbytes)
            raw[:kept] = self.bytes_of(info)[:kept]
        after = info_of(info.id, name, spec, member=False)
        self._arrays.operate(Op(OpCode.UPDATE, after))
        self._contents[info.id] = raw

    def clone(self, source: str, name: str) -> None:
        """Make an array with the shape, dtype and bytes of another."""
        info = self.find(source)
        check_name(name)
        with room_for(f"a clone of array {source!r}"):
            raw = self.bytes_of(info).copy()
        self._contents[self._create(name, spec_of(info)).id] = raw

    def edit_graph(self, edit: GraphEdit) -> None:
        """Change the graph, after what was asked before."""
        self.graph = edit if self.graph is None else self.graph.then(edit)

    def draft(self) -> Draft:
        """All of it as one draft."""
        return Draft(ops=self._arrays.ops(), contents=self._contents, patches=self._patches)


def _patched(before: np.ndarray, patch: WordPatch) -> np.ndarray:
    """The bytes of an array (uint8[n]) with a patch of its words written over them."""
    with room_for("the words that are written"):
        words = np.zeros(-(-before.size // 4), np.uint32)
    words.view(np.uint8)[: before.size] = before
    places, mask, data = patch
    words[places] = (words[places] & ~mask) | (data & mask)
    return words.view(np.uint8)[: before.size]


def name_taken(name: str) -> StructureError:
    """The error for a name that an array has already."""
    return StructureError(
        f"there is an array named {name!r} already. Choose another name, delete it first, or "
        f"write to it."
    )


def _refuse_member(info: ArrayInfo, verb: str) -> None:
    if info.member:
        raise StructureError(
            f"{verb}({info.name!r}): the array belongs to the committed tree. Commit a tree of the "
            f"new structure with commit(tree, structure='new')."
        )
