"""Plans: a draft against the state that it meets."""

import itertools
from collections.abc import Sequence, Set

import numpy as np

from mmsb_jax._base.errors import StructureError
from mmsb_jax._base.words import host_words
from mmsb_jax._store.commit.changed import changed_of, words_after
from mmsb_jax._store.commit.compare import Changes, Patched, patched
from mmsb_jax._store.commit.draft import Draft, WordPatch
from mmsb_jax._store.commit.lots import Compared
from mmsb_jax._store.encoding.digest import ZERO, Lanes, digest_words
from mmsb_jax._store.encoding.group import SMALL_BYTES
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.state.state import StoredState

Content = np.ndarray | tuple[np.ndarray, np.ndarray]
"""What an array becomes: all its words; or some (int64[n], ascending) and what they become."""


class Plan:
    """A draft against the state it meets: what goes, what is made, what is compared.

    Attributes:
        made: the arrays that operations touch, as the code that replays them makes them; None
            without operations.
        arrays: what these are after the operations, by id.
        gone: ids of the arrays whose present term leaves the digest of the state.
        compared: arrays to compare with what they become.
        patched: what is known to change, those arrays left out in which no byte differs.
        next_id: the next id that is free.
        grown_bytes: by how many bytes the state is larger after the operations.
        terms: what each changed array adds to the digest of the state; the head enters it.

    Raises:
        StructureError: an operation, or the size of a content, does not fit the state.
    """

    def __init__(self, state: StoredState, draft: Draft) -> None:
        self._state = state
        self.made: StoredState | None = None
        self.arrays: dict[int, ArrayInfo] = {}
        self.gone: Set[int] = frozenset()
        self.next_id = state.table.next_id
        self.grown_bytes = 0
        self.terms: dict[int, int] = {}
        self._touched: Set[int] = frozenset()
        self._cut: Set[int] = frozenset()
        if draft.ops:
            self._operate(draft.ops)
        self.compared, found = list[Compared](), list[Patched]()
        for array_id, content in draft.contents.items():
            if isinstance(content, np.ndarray):
                self.compared.append(self._to_compare(array_id, content))
            elif self.array(array_id).nbytes <= SMALL_BYTES:
                self.compared.append(_whole(self._written(array_id, content)))
            else:
                found.append(self._written(array_id, content))
        self._order = list(draft.contents) if found else []
        self.patched = Changes()
        if found or draft.patches:
            self.patched = patched(
                itertools.chain(found, (self._written(*item) for item in draft.patches.items()))
            )

    def order(self, changes: Changes) -> None:
        """Put large arrays in the order of the draft, whichever way their changes were found."""
        if self._order:
            places = {array_id: place for place, array_id in enumerate(self._order)}
            changes.large.sort(key=lambda change: places.get(change.info.id, len(places)))

    def _operate(self, ops: Sequence[Op]) -> None:
        self.made = self._state.sketch(ops)
        try:
            done = self.made.operate(ops)
        except BadFrameError as error:
            raise StructureError(f"the commit does not fit the state: {error}") from error
        self.arrays = self.made.table.arrays
        self._touched = {op.info.id for op in ops}
        self.gone = self._touched & self._state.table.arrays.keys()
        self.next_id = max(self.next_id, 1 + max(self._touched))
        for op, before in done:
            self.grown_bytes += 0 if op.code is OpCode.DELETE else op.info.nbytes
            self.grown_bytes -= 0 if before is None else before.nbytes
        self._cut = {op.info.id for op, before in done if before and op.info.nbytes < before.nbytes}

    def _to_compare(self, array_id: int, raw: np.ndarray) -> Compared:
        info = self.array(array_id)
        if raw.size != info.nbytes:
            raise StructureError(f"{raw.size} bytes for {info.name!r}, which has {info.nbytes}")
        return Compared(info, self.words(array_id), host_words(raw))

    def _written(self, array_id: int, patch: WordPatch) -> Patched:
        words, mask, data = patch
        old = self.to_patch(array_id, words, data).array.old[words]
        return self.to_patch(array_id, words, (old & ~mask) | (data & mask))

    def array(self, array_id: int) -> ArrayInfo:
        """`info` of an array that must be there."""
        info = self.info(array_id)
        if info is None:
            raise StructureError(f"bytes for array {array_id}, which is not there")
        return info

    def to_compare(self, array_id: int, words: np.ndarray) -> Compared:
        """An array beside what all its words become."""
        return Compared(self.array(array_id), self.words(array_id), words)

    def to_patch(self, array_id: int, words: np.ndarray, values: np.ndarray) -> Patched:
        """An array with some words (int64[n], ascending) and what they become."""
        array = Compared(self.array(array_id), self.words(array_id), None)
        return Patched(array, words, values)

    def info(self, array_id: int) -> ArrayInfo | None:
        """An array as the draft's operations leave it; None where there is none."""
        arrays = self.arrays if array_id in self._touched else self._state.table.arrays
        return arrays.get(array_id)

    def id_of(self, name: str) -> int:
        """The id of an array by its name, as the draft's operations leave it."""
        made = {} if self.made is None else self.made.table.ids
        return made.get(name) or self._state.table.ids[name]

    def words(self, array_id: int) -> np.ndarray:
        """The words of an array as the draft's operations leave it; not to be written to."""
        if self.made is not None and array_id in self._touched:
            return self.made.words[array_id]
        return self._state.words[array_id]

    def lanes_before(self, array_id: int) -> Lanes:
        """Digest of an array as it is when the commit's bytes meet it."""
        if array_id in self._cut and array_id in self.arrays:
            return digest_words(self.words(array_id))
        return self._state.table.lanes.get(array_id, ZERO)


def _whole(patch: Patched) -> Compared:
    """An array beside all that it becomes."""
    array, words, values = patch
    picked = changed_of(array.old, words, values)
    return array._replace(new=words_after(array.old, picked))
