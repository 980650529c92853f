"""Bytes aside: those of some arrays, at versions of which not all bytes were logged.

The records of such a commit stand beside the history: each builds on another of its kind, or on the
newest version with all bytes, and no record of a commit with all bytes builds on it. So whoever
asks for whole states passes them over.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mmsb_jax._store.encoding.digest import ZERO
from mmsb_jax._store.format.chunk import ChunkData
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import FULL, CommitRecord, Row
from mmsb_jax._store.state.state import StoredState


@dataclass(slots=True)
class FoundAside:
    """Of which arrays the commits since the newest version with all bytes have some.

    Attributes:
        chains: array id → the versions whose records lead from there to its newest bytes.
        changed: array id → the newest version at which its digest is another.
    """

    chains: dict[int, list[int]] = field(default_factory=dict)
    changed: dict[int, int] = field(default_factory=dict)

    def take(self, record: CommitRecord) -> None:
        """Take up what the next commit says."""
        for array_id in record.digests["id"].tolist():
            self.changed[array_id] = record.version
        for array_id, base, *_, flags in record.aside.tolist():
            chain = self.chains.get(array_id, [])
            builds_on = chain if not flags & FULL and chain and chain[-1] == base else []
            self.chains[array_id] = [*builds_on, record.version]

    @property
    def stale(self) -> set[int]:
        """The arrays whose newest bytes are not those of the newest version."""
        newest = {array_id: chain[-1] for array_id, chain in self.chains.items()}
        return {i for i, version in self.changed.items() if newest.get(i, 0) < version}

    def steps(self, ids: Iterable[int]) -> list[tuple[int, list[int]]]:
        """The versions whose records lead to the bytes of ``ids``, ascending, and of which each."""
        found = dict[int, list[int]]()
        for array_id in ids:
            for version in self.chains.get(array_id, ()):
                found.setdefault(version, []).append(array_id)
        return sorted(found.items())


class BytesAside:
    """The newest bytes aside of each array that has some: what the next record aside builds on."""

    def __init__(self) -> None:
        self._state: StoredState | None = None
        self._since = 0

    def over(self, head: StoredState, ids: Iterable[int]) -> StoredState:
        """A state of the arrays ``ids`` and those before them, beginning as they are in ``head``.

        Cost: a copy of the words of each, once between two versions with all bytes.
        """
        if self._state is None or self._since != head.table.saved_version:
            self._state, self._since = StoredState(head.table.log_id), head.table.saved_version
        state = self._state
        for array_id in ids:
            if array_id not in state.words:
                self._begin(state, head, array_id)
        return state

    def _begin(self, state: StoredState, head: StoredState, array_id: int) -> None:
        state.table.arrays[array_id] = head.table.arrays[array_id]
        state.words[array_id] = head.words[array_id].copy()
        if array_id in head.page_versions:
            state.page_versions[array_id] = np.zeros_like(head.page_versions[array_id])
        state.table.bases[array_id] = head.table.bases.get(array_id, 0)
        state.table.lanes[array_id] = head.table.lanes.get(array_id, ZERO)

    def take(
        self,
        head: StoredState,
        record: CommitRecord,
        parts: Sequence[ChunkData],
        ids: Collection[int],
        broken: dict[int, BadFrameError] | None = None,
    ) -> StoredState:
        """Decode what a commit has aside of the arrays ``ids``; returns all that are known.

        Args:
            head: the state at the newest version with all bytes before it.
            record: the commit.
            parts: the data of its chunks.
            ids: which arrays; ``head`` holds them.
            broken: where to put those whose record does not decode, while the others go on; None
                refuses the first.
        """
        state, stop = self.over(head, ids), 0
        for row in record.aside.tolist():
            start, stop = stop, stop + row[5]
            if row[0] not in ids:
                continue
            rows, own = record.chunks[start:stop], parts[start:stop]
            try:
                self._take(state, head, row, rows, own, record.version)
            except BadFrameError as error:
                if broken is None:
                    raise
                broken[row[0]] = error
        return state

    def _take(
        self,
        state: StoredState,
        head: StoredState,
        row: Row,
        rows: np.ndarray,
        parts: Sequence[ChunkData],
        version: int,
    ) -> None:
        array_id, base, lane0, lane1, _, _, flags = row
        table = state.table
        if not flags & FULL and base != table.bases[array_id]:
            self._begin(state, head, array_id)  # by a writer that knew of none before
            if base != table.bases[array_id]:
                raise BadFrameError(f"a record of array {array_id} builds on version {base}")
        state.put(array_id, rows, parts, flags)
        table.lanes[array_id], table.bases[array_id] = (lane0, lane1), version

    def beside(self, state: StoredState) -> StoredState:
        """Another state with the bytes aside for those of ``state``, which stays as it is."""
        other = state.copied()
        self.put_into(other)
        return other

    def put_into(self, state: StoredState) -> None:
        """Take the bytes for those of ``state``, a version from theirs on."""
        if self._state is None:
            return
        for array_id, words in self._state.words.items():
            state.words[array_id] = words
            state.table.lanes[array_id] = self._state.table.lanes[array_id]
            state.table.ahead.pop(array_id, None)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self._state is None else sum(w.nbytes for w in self._state.words.values())
