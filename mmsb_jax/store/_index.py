"""The index: where in the log each commit is, and what can be asked of it without reading it.

One a segment. The writer keeps that of the last segment in memory; a sealed segment has a sidecar
file beside it, which is rebuilt by a scan when it is missing, damaged or of another history.
"""

import bisect
import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mmsb_jax.store._files import Buffer
from mmsb_jax.store._format import BadFrameError, Kind, build_frame
from mmsb_jax.store._record import CommitRecord
from mmsb_jax.store._tags import TagChanges, decode_tags, encode_tags

_HEAD = struct.Struct("<16sQIIQQ")
_COLUMNS = ("offset", "step", "flags", "time_ns", "source", "touched_end", "logged")
_HAS_STEP, _HAS_OPS = 1, 2


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One commit: its version, the offset of its commit frame in the segment's file, what it says.

    ``logged_bytes`` counts all of its frames.
    """

    version: int
    offset: int
    step: int | None
    time_ns: int
    source: str
    touched: tuple[int, ...]
    logged_bytes: int


class SegmentIndex:
    """The commits of one segment, by version (dense, ascending).

    Others may read it while the writer appends: they see whole rows.

    Attributes:
        tags: what the segment says of tags, the newest of each.

    Cost: 56 bytes a commit and 8 for every array that it touched.
    """

    def __init__(self, first_version: int) -> None:
        self.first_version = first_version
        self.tags: TagChanges = {}
        self._columns = {name: array("q") for name in _COLUMNS}
        self._touched = array("Q")
        self._sources: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._columns[_COLUMNS[-1]])  # filled last

    @property
    def last_version(self) -> int:
        """Version of the newest commit here; one less than the first where there is none."""
        return self.first_version + len(self) - 1

    def append(self, record: CommitRecord, offset: int, logged_bytes: int) -> None:
        """Enter the commit whose frame stands at ``offset`` of the segment."""
        touched = record.touched()
        self._touched.extend(touched)
        row = (
            offset,
            record.step or 0,
            _HAS_STEP * (record.step is not None) | _HAS_OPS * bool(record.ops),
            record.time_ns,
            self._sources.setdefault(record.source, len(self._sources)),
            len(self._touched),
            logged_bytes,
        )
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def _column(self, name: str) -> np.ndarray:
        # A copy made in one step: an array cannot grow while it is looked at.
        return np.frombuffer(self._columns[name].tobytes(), np.int64)

    def row(self, version: int) -> IndexRow:
        """The row of one version, which must be here."""
        position = version - self.first_version
        columns = {name: column[position] for name, column in self._columns.items()}
        start = self._columns["touched_end"][position - 1] if position else 0
        return IndexRow(
            version=version,
            offset=columns["offset"],
            step=columns["step"] if columns["flags"] & _HAS_STEP else None,
            time_ns=columns["time_ns"],
            source=list(self._sources)[columns["source"]],
            touched=tuple(self._touched[start : columns["touched_end"]]),
            logged_bytes=columns["logged"],
        )

    def offset(self, version: int) -> int:
        """Where in the segment's file the commit frame of ``version`` stands."""
        return self._columns["offset"][version - self.first_version]

    def count_before(self, offset: int) -> int:
        """How many commits have their frame before ``offset``."""
        return bisect.bisect_left(self._columns["offset"], offset)

    def versions_with_ops(self, after: int = 0) -> list[int]:
        """Versions behind ``after`` that changed the table of arrays."""
        rows = np.flatnonzero(self._column("flags")[: len(self)] & _HAS_OPS)
        return [v for v in (rows + self.first_version).tolist() if v > after]

    def touched_ids(self) -> set[int]:
        """Ids of every array that a commit here touched."""
        return set(self._touched)

    def select(
        self,
        array_ids: Iterable[int] | None = None,
        source: str | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> list[int]:
        """Versions, oldest first, that touched one of ``array_ids``, of a source, in a time."""
        rows = len(self)
        keep = np.ones(rows, bool)
        if source is not None:
            keep &= self._column("source")[:rows] == self._sources.get(source, -1)
        times = self._column("time_ns")[:rows]
        if start_ns is not None:
            keep &= times >= start_ns
        if end_ns is not None:
            keep &= times < end_ns
        if array_ids is not None:
            ends = self._column("touched_end")[:rows]
            ids = np.frombuffer(self._touched.tobytes(), np.uint64)[: ends[-1] if rows else 0]
            hits = np.flatnonzero(np.isin(ids, np.array(list(array_ids), np.uint64)))
            touched = np.zeros(rows, bool)
            touched[np.searchsorted(ends, hits, side="right")] = True
            keep &= touched
        return [self.first_version + int(i) for i in np.flatnonzero(keep)]

    def last_with(self, step: int | None = None, time_ns: int | None = None) -> int | None:
        """The largest version of that step, or with a time at or before that one."""
        rows = len(self)
        if step is not None:
            keep = self._column("step")[:rows] == step
            keep &= self._column("flags")[:rows] & _HAS_STEP > 0
        else:
            keep = self._column("time_ns")[:rows] <= time_ns
        found = np.flatnonzero(keep)
        return self.first_version + int(found[-1]) if found.size else None

    def steps(self) -> np.ndarray:
        """Every step that a commit here has."""
        rows = len(self)
        return self._column("step")[:rows][self._column("flags")[:rows] & _HAS_STEP > 0]

    def earliest_ns(self) -> int:
        """The earliest time that a commit here has; there must be one."""
        return int(self._column("time_ns").min())

    def logged_bytes(self) -> int:
        """Bytes of all commits here."""
        return int(self._column("logged").sum())

    def encode(self, chain: bytes, end_offset: int) -> bytes:
        """The sidecar's meta, bound to the history that ends in ``chain`` at ``end_offset``."""
        sources = b"".join(
            struct.pack("<H", len(raw)) + raw for raw in map(str.encode, self._sources)
        )
        parts = (chain, self.first_version, len(self), len(sources), len(self._touched))
        columns = b"".join(column.tobytes() for column in self._columns.values())
        tags = encode_tags(self.tags) if self.tags else b""
        head = _HEAD.pack(*parts, end_offset)
        return b"".join((head, columns, self._touched.tobytes(), sources, tags))

    def frame(self, chain: bytes, end_offset: int) -> list[Buffer]:
        """The sidecar's file; the arguments are those of `encode`."""
        meta = self.encode(chain, end_offset)
        return build_frame(Kind.INDEX, 0, 0, meta, must_understand=False)[1]

    @classmethod
    def decode(
        cls, meta: bytes, chain: bytes, first_version: int, end_offset: int
    ) -> "SegmentIndex":
        """The index in a sidecar's meta.

        Raises:
            BadFrameError: of another history, or its parts contradict each other.
        """
        if len(meta) < _HEAD.size:
            raise BadFrameError("the index is cut short")
        *binding, rows, sources_bytes, touched, end = _HEAD.unpack_from(meta)
        start = _HEAD.size
        expected = start + rows * 8 * len(_COLUMNS) + touched * 8 + sources_bytes
        if (*binding, end) != (chain, first_version, end_offset) or expected > len(meta):
            raise BadFrameError("the index belongs to another history")
        index = cls(first_version)
        for column in (*index._columns.values(), index._touched):
            size = 8 * (touched if column is index._touched else rows)
            column.frombytes(meta[start : start + size])
            start += size
        try:
            index._read_sources(meta[start : start + sources_bytes])
        except (struct.error, UnicodeDecodeError) as error:
            raise BadFrameError(f"the index does not parse: {error}") from error
        if expected < len(meta):
            index.tags = decode_tags(meta[expected:])
        if not index._is_sound(end_offset):
            raise BadFrameError("the index points outside its segment")
        return index

    def _read_sources(self, raw: bytes) -> None:
        start = 0
        while start < len(raw):
            (length,) = struct.unpack_from("<H", raw, start)
            start += 2
            self._sources[raw[start : start + length].decode()] = len(self._sources)
            start += length

    def _is_sound(self, end_offset: int) -> bool:
        """Whether every row points to where it may."""
        if not len(self):
            return not self._touched
        offsets, sources, ends = map(self._column, ("offset", "source", "touched_end"))
        return bool(
            0 < offsets[0] <= offsets[-1] < end_offset
            and (offsets[:-1] < offsets[1:]).all()
            and 0 <= sources.min() <= sources.max() < len(self._sources)
            and 0 <= ends[0] <= ends[-1] == len(self._touched)
            and (ends[:-1] <= ends[1:]).all()
        )
