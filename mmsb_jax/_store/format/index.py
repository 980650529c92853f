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

from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.frame import BadFrameError, Kind, build_frame
from mmsb_jax._store.format.record import CommitRecord, PlainRecord
from mmsb_jax._store.format.tags import TagChanges, decode_tags, encode_tags

_HEAD = struct.Struct("<16sQIIQQ")
_COLUMNS = ("offset", "step", "flags", "time_ns", "source", "touched_end", "logged")
_HAS_STEP, _HAS_OPS, _SAYS_EXTRA, _KNOWS_EXTRA, _IS_UNSAVED = 1, 2, 4, 8, 16
"""What a row says; rows that do not know whether their commit says an extra are of older logs."""


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


class _Rows:
    """What is known of the commits, a column each; ``touched`` and ``sources`` hold what varies."""

    def __init__(self) -> None:
        self.columns = {name: array("q") for name in _COLUMNS}
        self.touched = array("Q")
        self.sources: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.columns[_COLUMNS[-1]])  # filled last

    def column(self, name: str) -> np.ndarray:
        # A copy made in one step: an array cannot grow while it is looked at.
        return np.frombuffer(self.columns[name].tobytes(), np.int64)

    def first(self, rows: int) -> "_Rows":
        """A copy of the first ``rows``."""
        copy = _Rows()
        copy.columns = {name: column[:rows] for name, column in self.columns.items()}
        ends, sources = copy.columns["touched_end"], copy.columns["source"]
        copy.touched = self.touched[: ends[-1] if rows else 0]
        count = max(sources, default=-1) + 1  # they are numbered in the order of their first use
        copy.sources = dict(list(self.sources.items())[:count])
        return copy

    def is_whole(self) -> bool:
        """Whether no row was begun and not ended."""
        rows, ends = len(self), self.columns["touched_end"]
        touched = ends[rows - 1] if rows else 0
        return len(self.columns["offset"]) == rows and len(self.touched) == touched


class SegmentIndex:
    """The commits of one segment, by version (dense, ascending).

    Others may read it while the writer appends and cuts: they see whole rows.

    Attributes:
        tags: what the segment says of tags, the newest of each.

    Cost: 56 bytes a commit and 8 for every array that it touched.
    """

    def __init__(self, first_version: int) -> None:
        self.first_version = first_version
        self.tags: TagChanges = {}
        self._rows = _Rows()  # each method looks once: `cut` puts another in its place

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def last_version(self) -> int:
        """Version of the newest commit here; one less than the first where there is none."""
        return self.first_version + len(self) - 1

    def append(self, record: CommitRecord | PlainRecord, offset: int, logged_bytes: int) -> None:
        """Enter the commit whose frame stands at ``offset`` of the segment.

        It may be entered again, after an interrupt too: what that left of a row is cleared first.
        """
        if not self._rows.is_whole():
            self.cut(self.last_version)
        rows, version = self._rows, record.version
        if version != self.first_version + len(rows):
            self._check_entered(version, offset, logged_bytes)
            return
        rows.touched.extend(record.logged())
        row = (
            offset,
            record.step or 0,
            _KNOWS_EXTRA
            | _HAS_STEP * (record.step is not None)
            | _HAS_OPS * bool(record.ops)
            | _SAYS_EXTRA * record.says_extra
            | _IS_UNSAVED * (not record.is_saved),
            record.time_ns,
            rows.sources.setdefault(record.source, len(rows.sources)),
            len(rows.touched),
            logged_bytes,
        )
        for column, value in zip(rows.columns.values(), row, strict=True):
            column.append(value)

    def _check_entered(self, version: int, offset: int, logged_bytes: int) -> None:
        if self.first_version <= version <= self.last_version:
            row = self.row(version)
            if (row.offset, row.logged_bytes) == (offset, logged_bytes):
                return
        raise ValueError(
            f"version {version} at offset {offset} does not go into the index of versions "
            f"{self.first_version} to {self.last_version}"
        )

    def cut(self, version: int) -> None:
        """Forget every commit after ``version``, and what an interrupted `append` left."""
        rows = self._rows
        self._rows = rows.first(min(max(0, version - self.first_version + 1), len(rows)))

    def row(self, version: int) -> IndexRow:
        """The row of one version, which must be here."""
        rows, position = self._rows, version - self.first_version
        columns = {name: column[position] for name, column in rows.columns.items()}
        start = rows.columns["touched_end"][position - 1] if position else 0
        return IndexRow(
            version=version,
            offset=columns["offset"],
            step=columns["step"] if columns["flags"] & _HAS_STEP else None,
            time_ns=columns["time_ns"],
            source=list(rows.sources)[columns["source"]],
            touched=tuple(rows.touched[start : columns["touched_end"]]),
            logged_bytes=columns["logged"],
        )

    def offset(self, version: int) -> int:
        """Where in the segment's file the commit frame of ``version`` stands."""
        return self._rows.columns["offset"][version - self.first_version]

    def count_before(self, offset: int) -> int:
        """How many commits have their frame before ``offset``."""
        return bisect.bisect_left(self._rows.columns["offset"], offset)

    def versions_with_ops(self, after: int = 0) -> list[int]:
        """Versions behind ``after`` that changed the table of arrays."""
        rows = self._rows
        places = np.flatnonzero(rows.column("flags")[: len(rows)] & _HAS_OPS)
        return [v for v in (places + self.first_version).tolist() if v > after]

    def touched_ids(self) -> set[int]:
        """Ids of every array that a commit here touched."""
        return set(self._rows.touched)

    def select(
        self,
        array_ids: Iterable[int] | None = None,
        source: str | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> list[int]:
        """Versions, oldest first, that touched one of ``array_ids``, of a source, in a time."""
        rows = self._rows
        count = len(rows)
        keep = np.ones(count, bool)
        if source is not None:
            keep &= rows.column("source")[:count] == rows.sources.get(source, -1)
        times = rows.column("time_ns")[:count]
        if start_ns is not None:
            keep &= times >= start_ns
        if end_ns is not None:
            keep &= times < end_ns
        if array_ids is not None:
            ends = rows.column("touched_end")[:count]
            ids = np.frombuffer(rows.touched.tobytes(), np.uint64)[: ends[-1] if count else 0]
            hits = np.flatnonzero(np.isin(ids, np.array(list(array_ids), np.uint64)))
            touched = np.zeros(count, bool)
            touched[np.searchsorted(ends, hits, side="right")] = True
            keep &= touched
        return [self.first_version + int(i) for i in np.flatnonzero(keep)]

    def last_with(
        self,
        step: int | None = None,
        time_ns: int | None = None,
        without: Iterable[tuple[int, int]] = (),
    ) -> int | None:
        """The largest version of that step, or with a time at or before that one.

        Args:
            step: the step.
            time_ns: the time, where there is no step.
            without: spans of versions that do not count: first and last.
        """
        rows = self._rows
        count = len(rows)
        if step is not None:
            keep = rows.column("step")[:count] == step
            keep &= rows.column("flags")[:count] & _HAS_STEP > 0
        else:
            keep = rows.column("time_ns")[:count] <= time_ns
        found = np.flatnonzero(keep & self._outside(count, without))
        return self.first_version + int(found[-1]) if found.size else None

    def newest_step(self, version: int) -> int | None:
        """The step of the newest commit up to ``version`` that has one."""
        found = np.flatnonzero(self._flags_until(version) & _HAS_STEP)
        return int(self._rows.column("step")[found[-1]]) if found.size else None

    def newest_extra(self, version: int) -> int | None:
        """The newest commit up to ``version`` that says an extra, or may do so."""
        flags = self._flags_until(version)
        found = np.flatnonzero((flags & _SAYS_EXTRA > 0) | (flags & _KNOWS_EXTRA == 0))
        return self.first_version + int(found[-1]) if found.size else None

    def last_saved(self, version: int) -> int | None:
        """The newest version up to ``version`` whose bytes were logged; None for none here."""
        found = np.flatnonzero(self._flags_until(version) & _IS_UNSAVED == 0)
        return self.first_version + int(found[-1]) if found.size else None

    def first_saved(self, version: int) -> int | None:
        """The oldest version from ``version`` on whose bytes were logged; None for none here."""
        start = max(0, version - self.first_version)
        found = np.flatnonzero(self._flags_until(self.last_version)[start:] & _IS_UNSAVED == 0)
        return self.first_version + start + int(found[0]) if found.size else None

    def saved(self) -> list[int]:
        """The versions whose bytes were logged."""
        found = np.flatnonzero(self._flags_until(self.last_version) & _IS_UNSAVED == 0)
        return (found + self.first_version).tolist()

    def is_saved(self, version: int) -> bool:
        """Whether the bytes of ``version`` were logged."""
        return not self._rows.columns["flags"][version - self.first_version] & _IS_UNSAVED

    def says_extra(self, version: int) -> bool | None:
        """Whether the commit of ``version`` says an extra; None where the row does not know."""
        flags = self._rows.columns["flags"][version - self.first_version]
        return bool(flags & _SAYS_EXTRA) if flags & _KNOWS_EXTRA else None

    def note_extra(self, version: int, says_extra: bool) -> None:
        """Let the row of ``version`` know whether its commit says an extra."""
        flags, place = self._rows.columns["flags"], version - self.first_version
        flags[place] |= _KNOWS_EXTRA | _SAYS_EXTRA * says_extra

    def forget_extras(self, other: "SegmentIndex") -> None:
        """Let the rows that do not know of an extra in ``other`` not know of one here either."""
        unknown = np.flatnonzero(other._flags_until(self.last_version) & _KNOWS_EXTRA == 0)
        for place in unknown.tolist():
            self._rows.columns["flags"][place] &= ~(_KNOWS_EXTRA | _SAYS_EXTRA)

    def _flags_until(self, version: int) -> np.ndarray:
        rows = min(len(self), version - self.first_version + 1)
        return self._rows.column("flags")[: max(0, rows)]

    def steps(self, without: Iterable[tuple[int, int]] = ()) -> np.ndarray:
        """Every step that a commit here has, but for spans of versions."""
        rows = self._rows
        count = len(rows)
        keep = self._outside(count, without) & (rows.column("flags")[:count] & _HAS_STEP > 0)
        return rows.column("step")[:count][keep]

    def _outside(self, count: int, spans: Iterable[tuple[int, int]]) -> np.ndarray:
        """Which of the first ``count`` rows are in none of some spans of versions."""
        keep = np.ones(count, bool)
        for first, last in spans:
            keep[max(0, first - self.first_version) : max(0, last + 1 - self.first_version)] = False
        return keep

    def earliest_ns(self) -> int:
        """The earliest time that a commit here has; there must be one."""
        return int(self._rows.column("time_ns").min())

    def logged_bytes(self) -> int:
        """Bytes of all commits here."""
        return int(self._rows.column("logged").sum())

    def encode(self, chain: bytes, end_offset: int) -> bytes:
        """The sidecar's meta, bound to the history that ends in ``chain`` at ``end_offset``."""
        rows = self._rows
        sources = b"".join(
            struct.pack("<H", len(raw)) + raw for raw in map(str.encode, rows.sources)
        )
        parts = (chain, self.first_version, len(rows), len(sources), len(rows.touched))
        columns = b"".join(column.tobytes() for column in rows.columns.values())
        tags = encode_tags(self.tags) if self.tags else b""
        head = _HEAD.pack(*parts, end_offset)
        return b"".join((head, columns, rows.touched.tobytes(), sources, tags))

    def frame(self, chain: bytes, end_offset: int) -> list[Buffer]:
        """The sidecar's file; the arguments are those of `encode`."""
        meta = self.encode(chain, end_offset)
        return build_frame(Kind.INDEX, 0, 0, meta, must_understand=False)[1]

    @classmethod
    def decode(
        cls, meta: bytes, chain: bytes, first_version: int, end_offset: int
    ) -> "SegmentIndex":
        """The index in a sidecar's meta."""
        if len(meta) < _HEAD.size:
            raise BadFrameError("the index is cut short")
        *binding, rows, sources_bytes, touched, end = _HEAD.unpack_from(meta)
        start = _HEAD.size
        expected = start + rows * 8 * len(_COLUMNS) + touched * 8 + sources_bytes
        if (*binding, end) != (chain, first_version, end_offset) or expected > len(meta):
            raise BadFrameError("the index belongs to another history")
        index = cls(first_version)
        table = index._rows
        for column in (*table.columns.values(), table.touched):
            size = 8 * (touched if column is table.touched else rows)
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
        start, sources = 0, self._rows.sources
        while start < len(raw):
            (length,) = struct.unpack_from("<H", raw, start)
            start += 2
            sources[raw[start : start + length].decode()] = len(sources)
            start += length

    def _is_sound(self, end_offset: int) -> bool:
        """Whether every row points to where it may."""
        rows = self._rows
        if not len(rows):
            return not rows.touched
        offsets, sources, ends = map(rows.column, ("offset", "source", "touched_end"))
        return bool(
            0 < offsets[0] <= offsets[-1] < end_offset
            and (offsets[:-1] < offsets[1:]).all()
            and 0 <= sources.min() <= sources.max() < len(rows.sources)
            and 0 <= ends[0] <= ends[-1] == len(rows.touched)
            and (ends[:-1] <= ends[1:]).all()
        )
