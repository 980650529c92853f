"""The meta of a commit frame: what changed, in which arrays, and what the caller said of it.

A snapshot's frame has the same meta: it is the commit that makes the whole state from nothing.
"""

import functools
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, NoReturn

import numpy as np
import xxhash

from mmsb_jax._base.dtypes import dtype_name, parse_dtype
from mmsb_jax._base.errors import FormatError, StructureError
from mmsb_jax._base.memory_limit import check_room
from mmsb_jax._base.strict_json import check_texts, parse_json
from mmsb_jax._store.format.chunk import CHUNK, Coding, shares
from mmsb_jax._store.format.frame import (
    I64,
    MAX_DATA_BYTES,
    MAX_NUMBER,
    U64,
    BadFrameError,
    check_frame_size,
    check_hash,
    check_number,
    check_text,
)

RECORD = np.dtype(
    [
        ("id", "<u8"),
        ("base", "<u8"),
        ("lane0", "<u4"),
        ("lane1", "<u4"),
        ("changed", "<u8"),
        ("chunks", "<u4"),
        ("flags", "<u4"),
    ]
)
"""One array of a commit: its id, the version that the record builds on, the digest after it, the
bytes that changed, how many chunks follow, and flags."""

DIGEST = np.dtype([("id", "<u8"), ("lane0", "<u4"), ("lane1", "<u4"), ("nonfinite", "<u8")])
"""What a commit says of an array beside its record: its digest after it, and how many of its
elements are infinite or no number."""

FULL = 1
"""Record flag: the chunks give every byte of the array; what was there before does not matter."""
PAGE_VERSIONS = 2
"""Record flag, in snapshots: the data are the versions of the array's pages (uint64 each)."""
ASIDE = 4
"""Record flag, in commits without the bytes of all: it stands aside, and those of others do not
build on it."""

EXTRA_ID = 0
"""Array id of the record that holds the caller's ``extra``."""

GRAPH_PREFIX = "\0"
"""What the name of a constant begins with that is no leaf of a tree, but an entry of the graph."""

PROGRAM_PREFIX = "~programs/"
"""What the names of arrays begin with that say what a function was compiled to. No leaf of a tree
is called so."""

HAS_STEP, DIGEST_ONLY, EXTRA_IS_JSON, VALUES_REPLACE, STRUCTURE_CHANGED, DIGESTS = (
    1, 2, 4, 8, 16, 32,
)  # fmt: skip
"""Flags of a commit. DIGEST_ONLY: it does not hold the bytes of all that it changed; DIGESTS: its
meta ends with a table of them (`DIGEST`)."""

_KNOWN_FLAGS = (
    HAS_STEP | DIGEST_ONLY | EXTRA_IS_JSON | VALUES_REPLACE | STRUCTURE_CHANGED | DIGESTS,
    FULL | PAGE_VERSIONS | ASIDE,
)
_KNOWN_CODINGS = frozenset(map(int, Coding))

_NO_RECORDS, _NO_CHUNKS, _NO_DIGESTS = np.empty(0, RECORD), np.empty(0, CHUNK), np.empty(0, DIGEST)

_FIXED = struct.Struct("<16s16s16s16sQqqQQIIIIIIIHH")
_RECORD = struct.Struct("<QQIIQII")
_OP = struct.Struct("<BBHHHQ")
_DIGESTS = struct.Struct("<II")
Row = tuple[int, int, int, int, int, int, int]
"""A record: id, base, lane0, lane1, changed bytes, chunks, flags."""
Stored = tuple[int, int, int]
"""What a record takes: id, stored bytes, flags."""
MAX_DIMENSIONS = 64
MAX_NOTE_BYTES = 1 << 16
MAX_NAME_BYTES = (1 << 15) - 1
MAX_TEXT_BYTES = (1 << 16) - 1
"""Of a source, a kind and the name of a dtype."""
MAX_ARRAY_BYTES = 1 << 44
MAX_EXTRA_BYTES = 1 << 40
_PARSED = 32
"""So many times its own size an operation or a constant may take in memory."""


class OpCode(IntEnum):
    """What an operation does to the table of arrays. Numbers are never used again."""

    CREATE = 1
    DELETE = 2
    UPDATE = 3


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """One array of the table.

    Attributes:
        id: number of the array, never used again after it is deleted.
        name: path, unique among the live arrays.
        kind: what the leaf was (see `mmsb_jax._core.tree.leaves.LeafSpec`).
        dtype: name of the dtype.
        shape: shape.
        member: whether it belongs to the committed tree (else it was created by name).
    """

    id: int
    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    member: bool
    _nbytes: int | None = field(default=None, init=False, compare=False, repr=False)
    _schema: bytes | None = field(default=None, init=False, compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        nbytes = self._nbytes
        if nbytes is None:
            nbytes = parse_dtype(self.dtype).itemsize * math.prod(self.shape)
            object.__setattr__(self, "_nbytes", nbytes)
        return nbytes

    @property
    def spanned_bytes(self) -> int:
        """What its bytes would be if no dimension were 0: NumPy bounds that product too."""
        size = max(1, parse_dtype(self.dtype).itemsize)
        for length in self.shape:
            size *= max(1, length)
        return size

    def schema(self) -> bytes:
        """What the array is, for the digest of the state."""
        schema = self._schema
        if schema is None:
            schema = f"{self.name}\0{self.kind}\0{self.dtype}\0{self.shape}".encode()
            object.__setattr__(self, "_schema", schema)
        return schema


@dataclass(frozen=True, slots=True)
class Op:
    """A change of the table of arrays, in the order in which the commit makes them."""

    code: OpCode
    info: ArrayInfo


@dataclass(slots=True)
class CommitRecord:
    """The meta of a commit or snapshot frame, decoded.

    Attributes:
        digests: with the flag DIGESTS: of a commit without bytes each array that it changed; of
            another those of the arrays it changed that have an element that is not finite.
        aside: of a commit that was saved in part, the records of those arrays; the rest are in
            ``records``. Their chunks come first.
    """

    log_id: bytes
    previous_chain: bytes
    state_digest: int
    version: int
    time_ns: int
    step: int | None = None
    source: str = ""
    note: str = ""
    values: dict[str, str | None] = field(default_factory=dict)
    flags: int = 0
    changed_bytes: int = 0
    next_id: int = 1
    frame_sizes: list[int] = field(default_factory=list)
    frames_hash: bytes = bytes(16)
    records: np.ndarray = field(default_factory=lambda: _NO_RECORDS)
    chunks: np.ndarray = field(default_factory=lambda: _NO_CHUNKS)
    ops: list[Op] = field(default_factory=list)
    digests: np.ndarray = field(default_factory=lambda: _NO_DIGESTS)
    aside: np.ndarray = field(default_factory=lambda: _NO_RECORDS)

    @property
    def is_saved(self) -> bool:
        """Whether the state after it can be had."""
        return not self.flags & DIGEST_ONLY

    def encode(self) -> bytes:
        """The meta's bytes."""
        self.check()
        source, note = self.source.encode(), self.note.encode()
        values = json.dumps(self.values, sort_keys=True).encode() if self.values else b""
        ops = b"".join(map(_encode_op, self.ops))
        flags = self.flags | (HAS_STEP if self.step is not None else 0)
        tables = self.aside.tobytes() + self.records.tobytes() + self.chunks.tobytes()
        digests = b""
        if flags & DIGESTS:
            digests = _DIGESTS.pack(len(self.digests), 0) + self.digests.tobytes()
        rest = (ops, source, note, values, digests)
        check_frame_size(
            _FIXED.size + 8 * len(self.frame_sizes) + len(tables) + sum(map(len, rest)), 0
        )
        _check_parsed(len(ops) + len(values))
        records = len(self.aside) + len(self.records)
        counts = (len(self.frame_sizes), records, len(self.chunks))
        fixed = _fixed(
            self, self.frames_hash, flags, *counts, *map(len, (ops, note, values, source))
        )
        sizes = struct.pack(f"<{len(self.frame_sizes)}Q", *self.frame_sizes)
        return b"".join((fixed, sizes, tables, *rest))

    def check(self) -> None:
        """Refuse what `decode`, or who reads what it gives, would refuse."""
        self.check_said()
        for name in ("log_id", "previous_chain", "frames_hash"):
            check_hash(name, getattr(self, name))
        check_number("the digest", self.state_digest, 0, (1 << 128) - 1)
        check_number("version", self.version, 1, MAX_NUMBER)
        check_number("changed_bytes", self.changed_bytes, 0, U64)
        for size in self.frame_sizes:
            check_number("the size of a frame", size, 0, MAX_DATA_BYTES)
        _check_tables(self)

    def check_said(self) -> None:
        """`check` what its maker says before the data are written, so that none need be."""
        if self.step is not None:
            check_number("step", self.step, -I64 - 1, I64)
        check_number("time_ns", self.time_ns, -I64 - 1, I64)
        check_number("the next id", self.next_id, 1, U64)
        check_text("source", self.source, MAX_TEXT_BYTES)
        check_text("note", self.note, MAX_NOTE_BYTES)
        if self.note:
            try:
                parse_json(self.note)
            except ValueError as error:
                raise StructureError(
                    f"the note cannot be recorded: it is no JSON that can be read back: {error}"
                ) from error
        for name, value in self.values.items():
            check_text("the name of a constant", name, U64)
            if value is not None:
                check_text(f"the constant {name!r}", value, U64)
        is_snapshot = self.flags & VALUES_REPLACE
        for op in self.ops:
            check_op(op)
            if op.code is OpCode.CREATE and not is_snapshot:
                check_new_name(op.info.name)

    @classmethod
    def decode(cls, meta: bytes) -> "CommitRecord":
        """The record in ``meta``, every size checked against the bytes there are."""
        if len(meta) < _FIXED.size:
            raise BadFrameError("the commit is shorter than its fixed part")
        (
            *hashes,
            version,
            step,
            time_ns,
            changed_bytes,
            next_id,
            flags,
            frames,
            records,
            chunks,
            ops_bytes,
            note_bytes,
            values_bytes,
            source_bytes,
            _,
        ) = _FIXED.unpack_from(meta)
        sizes = (
            frames * 8,
            records * RECORD.itemsize,
            chunks * CHUNK.itemsize,
            ops_bytes,
            source_bytes,
            note_bytes,
            values_bytes,
        )
        end = _FIXED.size + sum(sizes)
        if end > len(meta) or (end < len(meta) and not flags & DIGESTS):
            raise BadFrameError("the parts of the commit do not fill its meta")
        if note_bytes > MAX_NOTE_BYTES or version > MAX_NUMBER:
            raise BadFrameError(f"version {version} with a note of {note_bytes} bytes")
        _check_parsed(ops_bytes + values_bytes)
        parts, start = [], _FIXED.size
        for size in sizes:
            parts.append(meta[start : start + size])
            start += size
        record_table = np.frombuffer(parts[1], RECORD)
        if _sum(record_table["chunks"]) != chunks:
            raise BadFrameError("the records of the commit do not share out its chunks")
        chunk_table = np.frombuffer(parts[2], CHUNK)
        _refuse_unknown(flags, record_table, chunk_table)
        aside, record_table = (
            _apart(record_table) if flags & DIGEST_ONLY else (_NO_RECORDS, record_table)
        )
        digests = _decode_digests(meta[end:]) if flags & DIGESTS else _NO_DIGESTS
        _check_saved(flags, record_table, aside, digests, bool(ops_bytes))
        log_id, previous_chain, state_digest, frames_hash = hashes
        try:
            return cls(
                log_id=log_id,
                previous_chain=previous_chain,
                state_digest=int.from_bytes(state_digest, "little"),
                version=version,
                time_ns=time_ns,
                step=step if flags & HAS_STEP else None,
                source=parts[4].decode(),
                note=parts[5].decode(),
                values=_decode_values(parts[6]),
                flags=flags & ~HAS_STEP,
                changed_bytes=changed_bytes,
                next_id=next_id,
                frame_sizes=list(struct.unpack(f"<{frames}Q", parts[0])),
                frames_hash=frames_hash,
                records=record_table,
                chunks=chunk_table,
                ops=_decode_ops(parts[3]),
                digests=digests,
                aside=aside,
            )
        except FormatError:
            raise
        except ValueError as error:
            raise BadFrameError(f"the commit does not parse: {error}") from error

    def extra_span(self) -> slice | None:
        """Which of the chunks are those of the caller's ``extra``; None where there is none."""
        places = np.flatnonzero(self.records["id"] == EXTRA_ID)
        if not places.size:
            return None
        start = _sum(self.aside["chunks"]) + _sum(self.records["chunks"][: places[0]])
        return slice(start, start + int(self.records["chunks"][places[0]]))

    @property
    def says_extra(self) -> bool:
        """Whether the caller's ``extra`` is among the records."""
        return EXTRA_ID in self.records["id"]

    def touched(self) -> list[int]:
        """Ids of the arrays whose bytes the commit changes."""
        return [i for i in self.records["id"].tolist() if i != EXTRA_ID]

    def logged(self) -> list[int]:
        """Ids of the arrays that the commit has bytes of, aside or not."""
        return [*self.aside["id"].tolist(), *self.touched()]

    def rows(self) -> list[Row]:
        """Its records, but for those that stand aside."""
        return self.records.tolist()

    def stored(self) -> Iterator[Stored]:
        """Of each of its records what it takes; of a group's bytes, its share by size."""
        sizes, stop = shares(self.chunks), 0
        for array_id, _, _, _, _, chunks, flags in (*self.aside.tolist(), *self.rows()):
            start, stop = stop, stop + chunks
            yield array_id, sizes[start] if chunks == 1 else sum(sizes[start:stop]), flags


_NO_FRAMES = xxhash.xxh3_128_digest(b"")  # as `frames_hash` of none
_NO_VALUES: Mapping[str, str | None] = {}


@dataclass(slots=True)
class PlainRecord:
    """As `CommitRecord`, of a commit that changes few small arrays, and nothing else.

    It has one chunk a record, no data frames, and of what the caller may say a step and a source.

    Attributes:
        made: its records.
        sizes: the stored bytes of each one's chunk.
        table: the table of chunks.
    """

    time_ns: int
    step: int | None
    source: str
    next_id: int
    log_id: bytes = b""
    previous_chain: bytes = b""
    state_digest: int = 0
    version: int = 0
    changed_bytes: int = 0
    made: Sequence[Row] = ()
    sizes: Sequence[int] = ()
    table: bytes = b""

    ops: ClassVar[Sequence[Op]] = ()
    values: ClassVar[Mapping[str, str | None]] = _NO_VALUES
    flags: ClassVar[int] = 0
    says_extra: ClassVar[bool] = False
    is_saved: ClassVar[bool] = True
    digests: ClassVar[np.ndarray] = _NO_DIGESTS
    aside: ClassVar[np.ndarray] = _NO_RECORDS

    def encode(self) -> bytes:
        """The meta's bytes; what was checked when it was made is not checked again."""
        source, count = self.source.encode(), len(self.made)
        flags = 0 if self.step is None else HAS_STEP
        fixed = _fixed(self, _NO_FRAMES, flags, 0, count, count, 0, 0, 0, len(source))
        return b"".join([fixed, *[_RECORD.pack(*row) for row in self.made], self.table, source])

    def check_said(self) -> None:
        """As `CommitRecord.check_said`."""
        if self.step is not None:
            check_number("step", self.step, -I64 - 1, I64)
        check_number("time_ns", self.time_ns, -I64 - 1, I64)
        if self.source:
            check_text("source", self.source, MAX_TEXT_BYTES)

    def touched(self) -> list[int]:
        """As `CommitRecord.touched`."""
        return [row[0] for row in self.made]

    logged = touched

    def rows(self) -> Sequence[Row]:
        """As `CommitRecord.rows`."""
        return self.made

    def stored(self) -> Iterator[Stored]:
        """As `CommitRecord.stored`."""
        for row, size in zip(self.made, self.sizes, strict=True):
            yield row[0], size, row[6]


def _fixed(
    record: CommitRecord | PlainRecord, frames_hash: bytes, flags: int, *counts: int
) -> bytes:
    """The first part of a meta; ``counts`` are of frames, records, chunks, then bytes of texts."""
    return _FIXED.pack(
        record.log_id,
        record.previous_chain,
        record.state_digest.to_bytes(16, "little"),
        frames_hash,
        record.version,
        record.step or 0,
        record.time_ns,
        record.changed_bytes,
        record.next_id,
        flags,
        *counts,
        0,
    )


def _check_parsed(nbytes: int) -> None:
    check_room(_PARSED * nbytes, "the arrays and constants of a commit")


def _sum(column: np.ndarray) -> int:
    return int(np.add.reduce(column, dtype=np.uint64))


def _check_tables(record: CommitRecord) -> None:
    """Refuse records and chunks that contradict each other, or say what no reader knows."""
    records, chunks = record.records, record.chunks
    if _sum(record.aside["chunks"]) + _sum(records["chunks"]) != len(chunks):
        raise StructureError("the records of the commit do not share out its chunks")
    try:
        _refuse_unknown(record.flags, records, chunks)
    except FormatError as error:
        raise StructureError(f"what cannot be read back cannot be recorded: {error}") from error
    if record.flags & HAS_STEP:
        raise StructureError("the flag of a step follows from the step")
    if len(record.digests) and not record.flags & DIGESTS:
        raise StructureError("the digests of a commit are recorded with the flag DIGESTS alone")
    try:
        _check_saved(record.flags, records, record.aside, record.digests, bool(record.ops))
    except BadFrameError as error:
        raise StructureError(f"what cannot be read back cannot be recorded: {error}") from error
    # A chunk has less than 2**32 bytes: few cannot be too many.
    if len(chunks) > MAX_EXTRA_BYTES >> 32 and (span := record.extra_span()) is not None:
        check_number("the bytes of extra", _sum(chunks["raw"][span]), 0, MAX_EXTRA_BYTES)


def check_new_name(name: str) -> None:
    """Refuse a name that no array may be given, though those of an older log may have it."""
    if not name or name.startswith(GRAPH_PREFIX):
        raise StructureError(
            f"name={name!r:.80}: expected at least one character, and no NUL at the beginning"
        )


def check_op(op: Op) -> None:
    """Refuse an operation that could not be read back."""
    info = op.info
    if op.code not in _OP_CODES:
        raise StructureError(f"operation {op.code!r} cannot be recorded")
    check_number("the id of an array", info.id, 1, U64)
    check_text("the name of an array", info.name, MAX_NAME_BYTES)
    for length in info.shape:
        check_number("a dimension of an array", length, 0, U64)
    _check_type(info.kind, info.dtype, info.shape)


@functools.lru_cache(maxsize=1024)
def _check_type(kind: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuse what an array may not be; kept, since many are alike."""
    check_text("the kind of an array", kind, MAX_TEXT_BYTES)
    check_text("the dtype of an array", dtype, MAX_TEXT_BYTES)
    try:
        _check_dtype(dtype)
    except ValueError as error:
        raise StructureError(f"an array cannot be recorded: {error}") from error
    if len(shape) > MAX_DIMENSIONS:
        raise StructureError(
            f"an array of {len(shape)} dimensions; at most {MAX_DIMENSIONS} can be recorded"
        )
    size = ArrayInfo(1, "", kind, dtype, shape, True).spanned_bytes
    if size > MAX_ARRAY_BYTES:
        raise StructureError(
            f"an array of {dtype}{list(shape)} takes {size:,} bytes (a dimension of 0 counts as "
            f"1); at most {MAX_ARRAY_BYTES:,} can be recorded"
        )


def _refuse_unknown(flags: int, records: np.ndarray, chunks: np.ndarray) -> None:
    """What a later version may add is not damage, and must not be taken for a torn tail."""
    known_commit, known_record = _KNOWN_FLAGS
    if flags & ~known_commit:
        _refuse("commit flags", flags)
    record_flags = int(np.bitwise_or.reduce(records["flags"]))
    if record_flags & ~known_record:
        _refuse("record flags", record_flags)
    for coding in set(chunks["coding"].tobytes()) - _KNOWN_CODINGS:
        _refuse("coding", coding)


def _refuse(what: str, number: int) -> NoReturn:
    raise FormatError(
        f"a commit has {what} {number}, which this version of mmsb_jax does not know. Upgrade "
        f"mmsb-jax to open the log."
    )


def _decode_digests(raw: bytes) -> np.ndarray:
    if len(raw) < _DIGESTS.size:
        raise BadFrameError("the digests of the commit are cut short")
    count, _ = _DIGESTS.unpack_from(raw)
    if _DIGESTS.size + count * DIGEST.itemsize != len(raw):
        raise BadFrameError("the digests of the commit do not fill its meta")
    return np.frombuffer(raw, DIGEST, offset=_DIGESTS.size)


def _apart(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The records that stand aside, and those behind them."""
    count = int(np.count_nonzero(records["flags"] & ASIDE))
    return records[:count], records[count:]


def _check_saved(
    flags: int, records: np.ndarray, aside: np.ndarray, digests: np.ndarray, has_ops: bool
) -> None:
    """Refuse digests out of order, and a commit that has bytes and says that it has none."""
    ids = digests["id"]
    if (ids[:-1] >= ids[1:]).any() or EXTRA_ID in ids[:1]:
        raise BadFrameError("the digests of the commit do not stand in the order of their arrays")
    if flags & DIGEST_ONLY and (has_ops or (records["id"] != EXTRA_ID).any()):
        raise BadFrameError("a commit without bytes has records or operations")
    if (len(aside) and not flags & DIGEST_ONLY) or (records["flags"] & ASIDE).any():
        raise BadFrameError("a commit with the bytes of all has records that stand aside")
    if EXTRA_ID in aside["id"] or len(np.unique(aside["id"])) < len(aside):
        raise BadFrameError("the records aside of a commit are not one an array")


def _encode_op(op: Op) -> bytes:
    info = op.info
    kind, dtype, name = info.kind.encode(), info.dtype.encode(), info.name.encode()
    head = _OP.pack(
        op.code, len(info.shape), len(kind), len(dtype), len(name) | (info.member << 15), info.id
    )
    return head + struct.pack(f"<{len(info.shape)}Q", *info.shape) + kind + dtype + name


def _decode_ops(raw: bytes) -> list[Op]:
    ops, start = [], 0
    while start < len(raw):
        if len(raw) - start < _OP.size:
            raise ValueError("an operation is cut short")
        code, dimensions, *lengths, array_id = _OP.unpack_from(raw, start)
        start += _OP.size
        member = bool(lengths[2] >> 15)
        lengths[2] &= MAX_NAME_BYTES
        if dimensions > MAX_DIMENSIONS or len(raw) - start < dimensions * 8 + sum(lengths):
            raise ValueError("an operation is cut short")
        shape = struct.unpack_from(f"<{dimensions}Q", raw, start)
        start += dimensions * 8
        kind_end = start + lengths[0]
        dtype_end = kind_end + lengths[1]
        end = dtype_end + lengths[2]
        kind, dtype = raw[start:kind_end].decode(), raw[kind_end:dtype_end].decode()
        name, start = raw[dtype_end:end].decode(), end
        op_code = _OP_CODES.get(code)
        if op_code is None:  # first: what its texts mean is not ours to say
            _refuse("operation", code)
        _check_dtype(dtype)
        ops.append(Op(op_code, ArrayInfo(array_id, name, kind, dtype, shape, member)))
    return ops


_DTYPE = re.compile(r"[<>|]?[A-Za-z][A-Za-z0-9_]*(\[[A-Za-z0-9]+\])?")
_OP_CODES = {int(code): code for code in OpCode}


@functools.lru_cache(maxsize=256)
def _check_dtype(name: str) -> None:
    """Refuse what `dtype_name` does not write: NumPy understands more, Python objects among it."""
    if not _DTYPE.fullmatch(name) or dtype_name(parse_dtype(name)) != name:
        raise ValueError(f"{name!r} is not the name of a dtype")


def _decode_values(raw: bytes) -> dict[str, str | None]:
    values = parse_json(raw) if raw else {}
    if not isinstance(values, dict) or not all(
        value is None or isinstance(value, str) for value in values.values()
    ):
        raise ValueError("the constants are not a table of strings")
    check_texts(values)
    return values


def records_of(rows: Sequence[Row]) -> np.ndarray:
    """A record table."""
    return np.frombuffer(bytearray().join([_RECORD.pack(*row) for row in rows]), RECORD)
