"""Section 6 of docs/format.md: commits, with their operations, records and chunks."""

import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from tools.format_reader.frames import BadError, NewerFormatError, check

COMMIT = struct.Struct("<16s16s16s16sQqqQQIIIIIIIHH")
OPERATION = struct.Struct("<BBHHHQ")
RECORD = struct.Struct("<QQIIQII")
CHUNK = struct.Struct("<QIIIBBH")
DIGEST = struct.Struct("<QIIQ")

SPARSE, SPARSE_ZSTD, FULL, FULL_ZSTD, XOR_ZSTD, FULL_GROUP, XOR_GROUP = range(1, 8)
CREATE, DELETE, UPDATE = 1, 2, 3
HAS_STEP, DIGEST_ONLY, EXTRA_IS_JSON, VALUES_REPLACE, STRUCTURE_CHANGED = 1, 2, 4, 8, 16
DIGESTS = 32
RECORD_FULL, RECORD_PAGE_VERSIONS, RECORD_ASIDE = 1, 2, 4

_PLAIN = {
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "float128", "complex64", "complex128", "complex256"),
}
_CUSTOM = {"bool": 1, "bfloat16": 2, "complex32": 4, "bcomplex32": 4} | dict.fromkeys(
    [
        *("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn", "float8_e4m3fnuz"),
        *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn"),
        *("float4_e2m1fn", "int4", "int2", "int1", "uint4", "uint2", "uint1"),
    ],
    1,
)


@dataclass
class Operation:
    """A change of the table of arrays."""

    code: int
    id: int
    member: bool
    shape: tuple[int, ...]
    kind: str
    dtype: str
    name: str

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return itemsize(self.dtype) * math.prod(self.shape)

    @property
    def spanned_bytes(self) -> int:
        """Its bytes with 1 in the place of every 0."""
        return max(1, itemsize(self.dtype)) * math.prod(max(1, length) for length in self.shape)


def itemsize(dtype: str) -> int:
    """Bytes of an element."""
    if dtype in _CUSTOM:
        return _CUSTOM[dtype]
    if dtype in _PLAIN:
        return int(re.findall(r"\d+", dtype)[0]) // 8
    protocol = re.fullmatch(r"(?:>[iufc]|[|]S|[<>]U|[<>][mM])(\d+)(?:\[\w+\])?", dtype)
    check(protocol, f"dtype {dtype!r}")
    assert protocol is not None
    return int(protocol[1]) * (4 if dtype[1] == "U" else 1)


@dataclass
class Chunk:
    """A piece of a record, with its stored bytes once they were found."""

    offset: int
    raw: int
    stored: int
    items: int
    coding: int
    unit: int
    data: bytes = b""
    group: "list[Chunk]" = field(default_factory=list, repr=False)
    """The chunks that are coded together with it, itself among them, where there are such."""


@dataclass
class Record:
    """What a commit does to the bytes of one array."""

    id: int
    base: int
    lanes: tuple[int, int]
    changed: int
    flags: int
    chunks: list[Chunk]


@dataclass
class Commit:
    """The meta of a commit or snapshot frame."""

    log_id: bytes
    previous_chain: bytes
    state_digest: int
    frames_hash: bytes
    version: int
    step: int | None
    time_ns: int
    changed_bytes: int
    next_id: int
    flags: int
    frame_sizes: list[int]
    records: list[Record]
    """But for those of `aside`."""
    aside: list[Record]
    operations: list[Operation]
    source: str
    note: str
    constants: dict[str, str | None]
    digests: dict[int, tuple[int, int, int]]
    """Array id → its lanes, and how many of its elements are not finite."""
    chain: bytes = b""


def read_commit(meta: bytes) -> Commit:
    """The commit in the meta of its frame."""
    check(len(meta) >= 136, "a commit shorter than its fixed part")
    (
        log_id, previous_chain, state_digest, frames_hash, version, step, time_ns, changed_bytes,
        next_id, flags, frames, count, chunks, ops_bytes, note_bytes, constants_bytes,
        source_bytes, _,
    ) = COMMIT.unpack_from(meta)  # fmt: skip
    sizes = (
        frames * 8, count * 40, chunks * 24, ops_bytes, source_bytes, note_bytes, constants_bytes
    )  # fmt: skip
    end = 136 + sum(sizes)
    fills = end <= len(meta) if flags & DIGESTS else end == len(meta)
    check(fills, "the parts of a commit do not fill it")
    check(note_bytes <= 65536, "a note too long")
    check(version < 2**63, "a version too high")
    if flags & ~63:
        raise NewerFormatError(f"commit flags {flags}")
    check(not (flags & DIGEST_ONLY and ops_bytes), "operations without bytes")
    parts, start = [], 136
    for size in sizes:
        parts.append(meta[start : start + size])
        start += size
    try:
        source, note = parts[4].decode(), parts[5].decode()
        constants = json.loads(parts[6].decode() or "{}")
        check(
            isinstance(constants, dict)
            and all(isinstance(v, str | None) for v in constants.values()),
            "the constants are no table of texts",
        )
        for text in (*constants, *constants.values()):
            (text or "").encode()
        operations = list(read_operations(parts[3]))
    except (ValueError, RecursionError) as error:
        raise BadError(str(error)) from error
    records = read_records(parts[1], parts[2])
    aside = [record for record in records if record.flags & RECORD_ASIDE]
    check(records[: len(aside)] == aside, "records aside that are not the first")
    ids = [record.id for record in aside]
    check(not aside or flags & DIGEST_ONLY, "records aside of a commit with all bytes")
    check(0 not in ids and len(set(ids)) == len(ids), "records aside that are not one an array")
    rest = records[len(aside) :]
    check(not (flags & DIGEST_ONLY and any(r.id for r in rest)), "records without bytes")
    return Commit(
        log_id=log_id,
        previous_chain=previous_chain,
        state_digest=int.from_bytes(state_digest, "little"),
        frames_hash=frames_hash,
        version=version,
        step=step if flags & HAS_STEP else None,
        time_ns=time_ns,
        changed_bytes=changed_bytes,
        next_id=next_id,
        flags=flags,
        frame_sizes=list(struct.unpack(f"<{frames}Q", parts[0])),
        records=rest,
        aside=aside,
        operations=operations,
        source=source,
        note=note,
        constants=constants,
        digests=read_digests(meta[end:]) if flags & DIGESTS else {},
    )


def read_digests(raw: bytes) -> dict[int, tuple[int, int, int]]:
    """The digests that a commit ends with."""
    check(len(raw) >= 8, "digests that are cut short")
    count = int.from_bytes(raw[:4], "little")
    check(len(raw) == 8 + count * 24, "digests that do not fill the commit")
    rows = list(DIGEST.iter_unpack(raw[8:]))
    ids = [row[0] for row in rows]
    check(0 not in ids and ids == sorted(set(ids)), "digests that are not in order")
    return {array_id: (lane0, lane1, count) for array_id, lane0, lane1, count in rows}


def read_operations(raw: bytes) -> Iterator[Operation]:
    """The operations of a commit, in order."""
    start = 0
    while start < len(raw):
        check(len(raw) - start >= 16, "an operation is cut short")
        code, dimensions, kind, dtype, name, array_id = OPERATION.unpack_from(raw, start)
        member, name = bool(name >> 15), name & 0x7FFF
        start += 16
        if code not in (CREATE, DELETE, UPDATE):
            raise NewerFormatError(f"operation {code}")
        check(dimensions <= 64, "too many dimensions")
        check(len(raw) - start >= dimensions * 8 + kind + dtype + name, "an operation is cut short")
        shape = struct.unpack_from(f"<{dimensions}Q", raw, start)
        start += dimensions * 8
        texts = []
        for size in (kind, dtype, name):
            texts.append(raw[start : start + size].decode())
            start += size
        operation = Operation(code, array_id, member, shape, *texts)
        check(operation.spanned_bytes <= 17592186044416, "an array too large")
        yield operation


def read_records(record_part: bytes, chunk_part: bytes) -> list[Record]:
    """The records of a commit, each with its chunks."""
    chunks = [Chunk(*row[:6]) for row in CHUNK.iter_unpack(chunk_part)]
    for chunk in chunks:
        if not SPARSE <= chunk.coding <= XOR_GROUP:
            raise NewerFormatError(f"coding {chunk.coding}")
    find_groups(chunks)
    records, start = [], 0
    for array_id, base, lane0, lane1, changed, count, flags in RECORD.iter_unpack(record_part):
        if flags & ~(RECORD_FULL | RECORD_PAGE_VERSIONS | RECORD_ASIDE):
            raise NewerFormatError(f"record flags {flags}")
        own = chunks[start : start + count]
        start += count
        records.append(Record(array_id, base, (lane0, lane1), changed, flags, own))
    check(start == len(chunks), "the records do not share out the chunks")
    return records


def find_groups(chunks: list[Chunk]) -> None:
    """Tell the chunks of each group of the others."""
    start = 0
    while start < len(chunks):
        first = chunks[start]
        if first.coding not in (FULL_GROUP, XOR_GROUP):
            start += 1
            continue
        group = chunks[start : start + first.items]
        check(group and len(group) == first.items, "a group without its chunks")
        for chunk in group:
            same = (chunk.coding, chunk.unit) == (first.coding, first.unit)
            check(same, "a group of chunks that differ")
            check(chunk is first or chunk.stored == chunk.items == 0, "a group in a group")
            chunk.group = group
        start += first.items


def give_data(commit: Commit, parts: list[bytes]) -> None:
    """Give each chunk its bytes, from the data of the frames in order."""
    part, start = 0, 0
    for record in (*commit.aside, *commit.records):
        for chunk in record.chunks:
            if chunk.stored and part < len(parts) and start == len(parts[part]):
                part, start = part + 1, 0
            check(part < len(parts), "the chunks do not fill the frames")
            chunk.data = parts[part][start : start + chunk.stored]
            check(len(chunk.data) == chunk.stored, "a chunk is divided between frames")
            start += chunk.stored
    filled = not parts or (part == len(parts) - 1 and start == len(parts[part]))
    check(filled, "the chunks do not fill the frames")
