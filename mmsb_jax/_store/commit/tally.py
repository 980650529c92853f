"""The tally: what a segment's records so far decide about the next ones, and about a snapshot.

It knows nothing of time, so that the same commits give the same log; and a writer that opens a log
finds it again in the records since the segment was begun.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mmsb_jax._store.format.record import ASIDE, FULL, ArrayInfo, CommitRecord, PlainRecord

LEAST_SPARSE_BYTES = 4 << 20
LEAST_TOTAL_BYTES = 64 << 20


class Marks(NamedTuple):
    """Where the tally stood before a commit, as far as the commit moves it."""

    total_bytes: int
    sparse_bytes: int
    delta_bytes: dict[int, int]


class Tally:
    """The tally of one segment.

    A record *stands alone* where nothing is before it to build on: the array has no record yet, or
    the deltas since its last full record have grown past its own size.
    """

    def __init__(self) -> None:
        self._total_bytes = 0
        self._sparse_bytes = 0
        self._delta_bytes: dict[int, int] = {}

    def is_full_due(self, array_id: int, nbytes: int) -> bool:
        """Whether the next record of an array of ``nbytes`` bytes must stand alone."""
        return self._delta_bytes.get(array_id, 0) > nbytes

    def are_full_due(self, infos: Sequence[ArrayInfo]) -> np.ndarray:
        """`is_full_due` of each of several arrays (bool[k])."""
        known = self._delta_bytes
        return np.array([known.get(info.id, 0) > info.nbytes for info in infos], bool)

    def snapshot_is_due(self, state_bytes: int, states: int) -> bool:
        """By logged bytes: deltas as large as the state, or so many ``states`` of anything."""
        return self._sparse_bytes > max(state_bytes, LEAST_SPARSE_BYTES) or (
            self._total_bytes > max(states * state_bytes, LEAST_TOTAL_BYTES)
        )

    def begin(self) -> None:
        """Begin anew, with a segment."""
        self._sparse_bytes = self._total_bytes = 0
        self._delta_bytes.clear()

    def forget(self, array_id: int) -> None:
        """Forget an array that is gone."""
        self._delta_bytes.pop(array_id, None)

    def marks(self, arrays: Iterable[int]) -> Marks:
        """Where it stands before a commit that has records of ``arrays``."""
        known = self._delta_bytes
        return Marks(self._total_bytes, self._sparse_bytes, {i: known.get(i, 0) for i in arrays})

    def count(
        self, record: CommitRecord | PlainRecord, logged_bytes: int, before: Marks | None = None
    ) -> None:
        """Take up a commit that the log has; done again from the same ``before``, it is the same.

        Args:
            record: what the commit says.
            logged_bytes: bytes of all its frames.
            before: where the tally stood; None for here.
        """
        if before is None:
            before = self.marks(record.touched())
        sparse_bytes = before.sparse_bytes + logged_bytes
        self._total_bytes = before.total_bytes + logged_bytes
        for array_id, nbytes, flags in record.stored():
            if flags & ASIDE:  # whoever replays passes it over
                sparse_bytes -= nbytes
                continue
            if flags & FULL:
                self._delta_bytes[array_id] = 0
                sparse_bytes -= nbytes
            else:
                self._delta_bytes[array_id] = before.delta_bytes.get(array_id, 0) + nbytes
        self._sparse_bytes = sparse_bytes
