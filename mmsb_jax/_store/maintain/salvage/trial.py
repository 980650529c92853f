"""A trial: a replay that goes on behind what is wrong, and knows of which arrays that can be shown.

`StoredState` refuses a commit of which one record is wrong. But a digest that is wrong, or a record
that does not decode, says nothing of the other arrays; and a later record may give a right digest
again. A trial follows each array by itself.
"""

from collections.abc import Collection, Iterable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from mmsb_jax._store.encoding.digest import ZERO, Lanes
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import FULL, CommitRecord
from mmsb_jax._store.state.aside import BytesAside
from mmsb_jax._store.state.state import DataReader, StoredState

Key = TypeVar("Key")


class Trial:
    """A state, brought forward past what is wrong in it.

    Args:
        state: where it begins.
        executor: where to digest side by side.

    Attributes:
        state: the state; the bytes of every array are what its records make.
        wrong: ids of the arrays whose digest recorded is not that of their bytes, and whether the
            bytes are whole (False: since the last full record one did not decode).
        unproven: those of them that the digest of a state has not shown to be right either.
        digest_is_wrong: whether the digest of the state fits neither the digests recorded of its
            arrays nor their bytes.
        aside: array → its bytes (uint8[n]), of those that the present version has aside.
        is_flawed: whether anything that is recorded of the present version is wrong.
    """

    def __init__(self, state: StoredState, executor: Executor | None = None) -> None:
        self.state = state
        self.wrong: dict[int, bool] = {}
        self.unproven: dict[int, bool] = {}
        self.digest_is_wrong = self.is_flawed = False
        self._executor = executor
        self._lanes: dict[int, Lanes] = {}
        self._broken: set[int] = set()
        self.aside: dict[int, np.ndarray] = {}
        self._faults_aside: set[str] = set()
        self._bytes_aside = BytesAside()
        self._check(state.table.lanes)

    def apply(
        self,
        record: CommitRecord,
        chain: bytes,
        read_chunks: DataReader,
        ids: Collection[int] | None = None,
    ) -> None:
        """Bring the state forward by one commit; ``chain`` is that after it.

        Args:
            record, chain, read_chunks: as for `StoredState.apply`.
            ids: the arrays to digest; None for those that the commit touches.
        """
        self._broken, self.aside, self._faults_aside = set(), {}, set()
        self.state.apply(record, chain, read_chunks, broken=self._broken)
        if len(record.aside):
            self._take_aside(record, read_chunks)
        for row in record.records[(record.records["flags"] & FULL) != 0]:
            if int(row["id"]) in self.wrong:
                self.wrong[int(row["id"])] = True
        touched = {*record.touched(), *(op.info.id for op in record.ops)}
        self._check({*(touched if ids is None else ids), *self._broken})

    def _take_aside(self, record: CommitRecord, read_chunks: DataReader) -> None:
        """Decode and digest what a commit has aside; each array on its own."""
        table, known = self.state.table, self.state.words.keys()
        ids = set(record.aside["id"].tolist())
        broken = {i: BadFrameError("it is not there") for i in ids - known}
        found = self._bytes_aside.take(self.state, record, read_chunks(), ids & known, broken)
        for array_id, lanes in found.digests(sorted(ids - broken.keys()), self._executor):
            if lanes == found.table.lanes[array_id] and lanes == table.lanes_now(array_id):
                self.aside[array_id] = found.bytes_of(array_id)
            else:
                broken[array_id] = BadFrameError("they do not have the digest recorded")
        for array_id, error in broken.items():
            name = table.arrays[array_id].name if array_id in table.arrays else str(array_id)
            self._faults_aside.add(f"the bytes of {name!r}, saved apart: {error}")

    def check_all(self) -> None:
        """Digest every array anew."""
        self._check(self.state.table.lanes)

    def correct(self) -> None:
        """Take the digests of the bytes for those recorded, where the state's shows them all."""
        if not (self.unproven or self.digest_is_wrong):
            self.state.table.lanes |= self._lanes
            self.wrong.clear()
            self._lanes.clear()
            self.is_flawed = bool(self._faults_aside)

    def take(self, other: "Trial") -> None:
        """Take over the arrays that ``other``, of the same version, shows to be right."""
        for array_id in self.unproven.keys() - other.unproven.keys():
            self.state.words[array_id] = other.state.words[array_id]
            if array_id in other.state.page_versions:
                self.state.page_versions[array_id] = other.state.page_versions[array_id]
            lanes = other.state.table.lanes.get(array_id, ZERO)
            self.state.table.lanes[array_id] = other._lanes.get(array_id, lanes)
            for known in (self.wrong, self.unproven, self._lanes):
                known.pop(array_id, None)

    def faults(self) -> set[str]:
        """What is wrong at the present version."""
        names = {i: self.state.table.arrays[i].name for i in {*self.wrong, *self._broken}}
        found = self._faults_aside | {
            f"the bytes of {name!r} do not have the digest recorded"
            if self.wrong.get(array_id, False)
            else f"the bytes of {name!r} are lost: a record of it does not decode"
            for array_id, name in names.items()
        }
        if self.digest_is_wrong:
            found.add("the digest recorded does not follow from its arrays")
        return found

    def _check(self, ids: Iterable[int]) -> None:
        table = self.state.table
        for known in (self.wrong, self.unproven, self._lanes):
            for array_id in known.keys() - table.arrays.keys():
                del known[array_id]
        held = [i for i in ids if i in self.state.words]
        for array_id, lanes in self.state.digests(held, self._executor):
            if lanes == table.lanes.get(array_id, ZERO):
                for known in (self.wrong, self.unproven, self._lanes):
                    known.pop(array_id, None)
                continue
            is_whole = self.wrong.get(array_id, True) and array_id not in self._broken
            self.wrong[array_id] = self.unproven[array_id] = is_whole
            self._lanes[array_id] = lanes
        self._check_state()
        is_wrong = self.wrong or self._broken or self._faults_aside
        self.is_flawed = bool(is_wrong) or self.digest_is_wrong

    def _check_state(self) -> None:
        """The digest of the state may show what that of an array does not."""
        table = self.state.table
        self.digest_is_wrong = table.digest() != table.state_digest
        if self.wrong:
            lanes = table.lanes | self._lanes
            if replace(table, lanes=lanes).digest() == table.state_digest:
                self.unproven.clear()
                self.digest_is_wrong = False


class Spans(Generic[Key]):
    """What held at which versions, from the first to the last that follow each other."""

    def __init__(self) -> None:
        self._since: dict[Key, int] = {}
        self._found: list[tuple[Key, int, int]] = []

    def see(self, version: int, keys: Collection[Key]) -> None:
        """Enter what holds at ``version``; versions ascend."""
        for key in [key for key in self._since if key not in keys]:
            self._found.append((key, self._since.pop(key), version - 1))
        for key in keys:
            self._since.setdefault(key, version)

    def end(self, last: int) -> list[tuple[Key, int, int]]:
        """(what, first version, last version) of all; ``last`` is the last version seen."""
        self.see(last + 1, ())
        return sorted(self._found, key=lambda found: (*found[1:], str(found[0])))


def span_text(first: int, last: int) -> str:
    """Versions as they are named in a report."""
    return f"version {first:,}" if first == last else f"versions {first:,} to {last:,}"
