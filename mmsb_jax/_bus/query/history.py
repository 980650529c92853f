"""The history of one array, read from the log as it is asked for."""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmsb_jax._base.errors import CorruptionError, StructureError, VersionError
from mmsb_jax._bus.trees.checkout import read_array
from mmsb_jax._bus.trees.places import PlaceOf
from mmsb_jax._core.tree.leaves import host_array
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.state.aside import BytesAside


@dataclass(frozen=True, slots=True)
class ArrayVersion:
    """One version of an array.

    Attributes:
        version: the commit that changed it.
        step: that commit's step.
        time_ns: when it was committed, in nanoseconds since 1970.
        value: the array after it; None where it was deleted.
    """

    version: int
    step: int | None
    time_ns: int
    value: Any


class History:
    """The versions of one array, oldest first.

    Iterating replays the log once, holding this array alone; indexing by position reads from the
    nearest snapshot. Both raise `CorruptionError` where what was written does not read back.

    Args:
        log: the log.
        name: the array.
        place_of: where its values go.

    Attributes:
        name: the array.
        versions: the commits that made it, changed a byte, its shape or dtype, or deleted it
            (its value is None then), ascending. Of those that a compaction dropped, the ones whose
            value is in a state that it kept.
    """

    def __init__(self, log: Log, name: str, place_of: PlaceOf) -> None:
        self.name = name
        self._place_of = place_of
        self._log = log
        self._touched = sorted({*log.select(array=name), *_operated(log, name)})
        self._shown_in = _shown_in(log, self._touched)
        self.versions = list(self._shown_in)

    def __len__(self) -> int:
        return len(self.versions)

    def __repr__(self) -> str:
        span = f" from {self.versions[0]} to {self.versions[-1]}" if self.versions else ""
        return f"<history of {self.name!r}: {len(self)} versions{span}>"

    def __getitem__(self, position: int) -> ArrayVersion:
        return self._read(self.versions[position])

    def __iter__(self) -> Iterator[ArrayVersion]:
        log, state, aside = self._log, None, BytesAside()
        oldest = log.kept_since
        for version, shown in self._shown_in.items():
            is_saved = log.is_saved(shown)
            if state is None or shown < oldest or state.table.version < oldest - 1:
                begin = shown if is_saved else log.last_saved(shown)
                state = log.state(begin, wanted=self._is_mine, check=False)
            log.advance(state, shown)
            if not is_saved:
                log.take_aside(aside, state, shown, state.words)
            found = state if is_saved else aside.beside(state)
            try:
                found.check_digest()
            except BadFrameError as error:
                raise CorruptionError(
                    f"{log.place}: {self.name!r} at version {shown} does not read back: {error}"
                ) from error
            yield self._entry(version, found)

    def at(self, version: int) -> ArrayVersion:
        """The array as it was after ``version``, which need not have touched it.

        Raises:
            VersionError: the array was not there yet, the log ends before, its bytes at that
                version were not logged, or a compaction dropped the value.
        """
        earlier = [v for v in self._touched if v <= version]
        if not earlier or version > self._log.version:
            raise VersionError(
                f"{self.name!r} has no value at version {version}; it has versions "
                f"{self.versions[0] if self.versions else '–'} to {self._log.version}"
            )
        if earlier[-1] not in self._shown_in:
            raise self._log.dropped(version)
        if version != earlier[-1] and not self._log.is_saved(version):
            stale = self._log.found_aside(version).stale
            if self.name in map(self._log.name_of, stale):
                self._log.state(version, wanted=self._is_mine)  # refuses it, with the nearest
        return self._read(earlier[-1])

    def stack(self) -> np.ndarray:
        """All its values as one array, with an axis of `versions` in front.

        Raises:
            StructureError: it had several shapes or dtypes, or was deleted meanwhile.

        Cost: one replay of the array; all of its values in memory.

        >>> import numpy as np
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for step in range(3):
        ...     _ = bus.commit({"w": np.full(2, step)})
        >>> bus.history("w").stack()
        array([[0, 0],
               [1, 1],
               [2, 2]])
        """
        kinds, values = dict[str, int](), []
        for entry in self:
            if entry.value is None:
                raise StructureError(f"{self.name!r} was deleted at version {entry.version}.")
            values.append(host_array(entry.value))
            kinds.setdefault(f"{values[-1].dtype}{list(values[-1].shape)}", entry.version)
        if len(kinds) > 1:
            told = ", ".join(f"{kind} since version {since}" for kind, since in kinds.items())
            raise StructureError(
                f"{self.name!r} has values that do not stand in one array: {told}. Take those of "
                f"one kind: history.at(version)."
            )
        return np.stack(values)

    def _read(self, version: int) -> ArrayVersion:
        return self._entry(version, self._log.state(self._shown_in[version], wanted=self._is_mine))

    def _is_mine(self, name: str) -> bool:
        return name == self.name

    def _entry(self, version: int, state: Any) -> ArrayVersion:
        row = self._log.row(version)
        table = state.table
        value = None
        if self.name in table.ids:
            value = read_array(state, table.arrays[table.ids[self.name]], self._place_of)
        return ArrayVersion(version, row.step, row.time_ns, value)


def _operated(log: Log, name: str) -> Iterator[int]:
    """Versions that made, changed or deleted the array itself; its bytes may be zeros."""
    for version in log.versions_with_ops():
        if any(op.info.name == name for op in log.record(version).ops):
            yield version


def _shown_in(log: Log, touched: list[int]) -> dict[int, int]:
    """For each version whose value can be had, ascending, a version whose state shows it."""
    shown = {}
    for kept in log.kept:
        place = bisect.bisect_right(touched, kept)
        if place:
            shown[touched[place - 1]] = kept
    return shown | {version: version for version in touched if version >= log.kept_since}
