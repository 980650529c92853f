"""A reader of the log on disk, written from docs/format.md: struct, xxhash, zstandard, no more.

It shares no code with mmsb_jax and is as plain as can be: it reads whole files, replays from
version 1, and keeps every version. Section numbers are those of the page.
"""

import itertools
import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import xxhash
import zstandard

HEADER = struct.Struct("<4sBBHQQIIQQQQ")
MANIFEST = struct.Struct("<16sQQI")
ANCESTOR = struct.Struct("<16sQ")
SEGMENT = struct.Struct("<16sQQQ16s")
COMMIT = struct.Struct("<16s16s16s16sQqqQQIIIIIIIHH")
OPERATION = struct.Struct("<BBHHHQ")
RECORD = struct.Struct("<QQIIQII")
CHUNK = struct.Struct("<QIIIBBH")
INDEX = struct.Struct("<16sQIIQQ")
COMPACTION = struct.Struct("<QQIIII")
ARCHIVE_ENTRY = struct.Struct("<QQQ16s")
BLOCK = struct.Struct("<QQII")
ARCHIVED = struct.Struct("<QII")
ARCHIVE = struct.Struct("<Q")
STREAM = struct.Struct("<16sQQ16sQQI")

KINDS = (
    "SEGMENT", "DATA", "COMMIT", "MARK", "SNAPSHOT", "MANIFEST", "INDEX", "TAG", "COMPACTED",
    "STREAM", "ARCHIVED", "ARCHIVE",
)  # fmt: skip
SPARSE, SPARSE_ZSTD, FULL, FULL_ZSTD, XOR_ZSTD = range(1, 6)
CREATE, DELETE, UPDATE = 1, 2, 3
HAS_STEP, DIGEST_ONLY, EXTRA_IS_JSON, VALUES_REPLACE, STRUCTURE_CHANGED = 1, 2, 4, 8, 16
RECORD_FULL, RECORD_PAGE_VERSIONS = 1, 2
NO_CHAIN = bytes(16)

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


class NewerFormatError(Exception):
    """The log says something that format 1 does not know."""


class DamagedError(Exception):
    """Bytes that were durable are missing or bad."""


class BadError(Exception):
    """A frame or a part of one that is not what it should be."""


def check(condition: object, fault: str) -> None:
    """Raise `BadError` unless ``condition`` holds."""
    if not condition:
        raise BadError(fault)


# 3. Frames


@dataclass
class Frame:
    """A frame at ``offset`` of a file."""

    offset: int
    kind: str
    position: int
    synced: int
    stream: int
    meta: bytes
    data: bytes
    data_hash: int
    end: int


def ceil64(size: int) -> int:
    """``size`` rounded up to a multiple of 64."""
    return (size + 63) // 64 * 64


def read_header(raw: bytes, offset: int, position: int | None) -> tuple[int, ...]:
    """The fields of the header at ``offset``, without the magic."""
    check(len(raw) >= offset + 64, "cut short in a header")
    fields = HEADER.unpack_from(raw, offset)
    check(fields[0] == b"MMSB", "no frame begins here")
    check(xxhash.xxh3_64_intdigest(raw[offset : offset + 56]) == fields[-1], "header hash")
    if fields[1] > 1:
        raise NewerFormatError(f"format {fields[1]}")
    check(position is None or fields[4] == position, "a frame of another position")
    check(fields[6] <= 1073741824 and fields[8] <= 4294967296, "a frame too large")
    return fields[1:]


def read_frame(raw: bytes, offset: int, position: int | None, with_data: bool = True) -> Frame:
    """The frame at ``offset`` of a file; its data are checked where they are wanted."""
    _, flags, kind, at, synced, meta_bytes, stream, data_bytes, meta_hash, data_hash, _ = (
        read_header(raw, offset, position)
    )
    is_known = 1 <= kind <= len(KINDS)
    if not is_known and flags & 1:
        raise NewerFormatError(f"a frame of kind {kind}")
    start = offset + 64
    middle = start + ceil64(meta_bytes)
    end = middle + ceil64(data_bytes)
    check(xxhash.xxh3_64_intdigest(raw[start:middle]) == meta_hash, "meta hash")
    if with_data:
        check(xxhash.xxh3_64_intdigest(raw[middle:end]) == data_hash, "data hash")
    check(end <= len(raw), "cut short in a frame")
    meta, data = raw[start : start + meta_bytes], raw[middle : middle + data_bytes]
    name = KINDS[kind - 1] if is_known else "PASS OVER"
    check(name != "DATA" or not meta, "a data frame with a meta")
    return Frame(offset, name, at, synced, stream, meta, data, data_hash, end)


# 4. The manifest


@dataclass
class Compaction:
    """What compactions have left; archives as (first version, last version, end, chain)."""

    number: int
    first_version: int
    is_cut: bool
    archives: list[tuple[int, int, int, bytes]]
    kept: list[int]
    tags: dict[str, int | None]

    @property
    def segment_name(self) -> str:
        """The file of the oldest segment."""
        ending = "cut" if self.is_cut else "seg"
        return f"{self.number:08d}-{self.first_version:020d}.{ending}"


@dataclass
class Manifest:
    """What the log is."""

    log_id: bytes
    page_bytes: int
    created_ns: int
    ancestors: list[tuple[bytes, int]]
    compaction: Compaction | None = None

    def log_id_of(self, version: int) -> bytes:
        """The id of the log that wrote ``version``."""
        for log_id, last_version in self.ancestors:
            if version <= last_version:
                return log_id
        return self.log_id

    def may_have_made(self, log_id: bytes, version: int) -> bool:
        """Whether the log of that id may have made a segment that begins with ``version``."""
        known = [known for known, last in self.ancestors if version <= last]
        return log_id in (self.log_id, *known)


def read_manifest(raw: bytes) -> Manifest:
    """The manifest in the file's bytes."""
    try:
        frame = read_frame(raw, 0, 0)
        check(frame.kind in ("MANIFEST", "COMPACTED") and not frame.data, "not a manifest")
        check(len(frame.meta) >= 36, "not a manifest")
        log_id, page_bytes, created_ns, count = MANIFEST.unpack_from(frame.meta)
        end = 36 + 24 * count
        check(len(frame.meta) >= end, "its ancestors do not fill it")
        check(0 < page_bytes <= 2**30 and page_bytes % 4 == 0, f"pages of {page_bytes} bytes")
        compaction = None
        if frame.kind == "COMPACTED":
            compaction = read_compaction(frame.meta[end:])
        else:
            check(len(frame.meta) == end, "its ancestors do not fill it")
        ancestors = read_ancestors(frame.meta[36:end])
    except BadError as error:
        raise DamagedError(f"manifest: {error}") from error
    return Manifest(log_id, page_bytes, created_ns, ancestors, compaction)


def read_ancestors(raw: bytes) -> list[tuple[bytes, int]]:
    """The ancestors of a manifest or a stream."""
    ancestors = list(ANCESTOR.iter_unpack(raw))
    versions = [last_version for _, last_version in ancestors]
    check(versions == sorted(versions), "the ancestors do not stand in order")
    return ancestors


def read_compaction(raw: bytes) -> Compaction:
    """The part of the manifest behind the ancestors."""
    check(len(raw) >= 32, "a compaction cut short")
    number, first_version, flags, archives, kept, tags_bytes = COMPACTION.unpack_from(raw)
    kept_at = 32 + 40 * archives
    tags_at = kept_at + 8 * kept
    check(flags <= 1 and len(raw) == tags_at + tags_bytes, "a compaction does not fill the rest")
    check(0 < first_version < 2**63, "a compaction of a version that none can have")
    entries = list(ARCHIVE_ENTRY.iter_unpack(raw[32:kept_at]))
    check(
        [entry[0] for entry in entries[1:]] + [first_version] == [e[1] + 1 for e in entries]
        or not entries,
        "the archives do not follow each other",
    )
    return Compaction(
        number=number,
        first_version=first_version,
        is_cut=bool(flags),
        archives=entries,
        kept=[version for (version,) in struct.iter_unpack("<Q", raw[kept_at:tags_at])],
        tags=read_tags(raw[tags_at:] or b"{}"),
    )


def read_tags(raw: bytes) -> dict[str, int | None]:
    """What a frame says of tags."""
    try:
        tags = json.loads(raw.decode())
        check(isinstance(tags, dict), "the tags are no table")
        sizes = [len(name.encode()) for name in tags]
    except (ValueError, RecursionError) as error:
        raise BadError(str(error)) from error
    check(
        all(v is None or (type(v) is int and 0 < v < 2**63) for v in tags.values()),
        "the tags are no table of versions",
    )
    check(max(sizes, default=0) <= 255, "a tag too long")
    return tags


# 6. Commits


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
    operations: list[Operation]
    source: str
    note: str
    constants: dict[str, str | None]
    chain: bytes = b""


def read_commit(meta: bytes) -> Commit:
    """The commit in the meta of its frame."""
    check(len(meta) >= 136, "a commit shorter than its fixed part")
    (
        log_id, previous_chain, state_digest, frames_hash, version, step, time_ns, changed_bytes,
        next_id, flags, frames, records, chunks, ops_bytes, note_bytes, constants_bytes,
        source_bytes, _,
    ) = COMMIT.unpack_from(meta)  # fmt: skip
    sizes = (
        frames * 8, records * 40, chunks * 24, ops_bytes, source_bytes, note_bytes, constants_bytes
    )  # fmt: skip
    check(136 + sum(sizes) == len(meta), "the parts of a commit do not fill it")
    check(note_bytes <= 65536, "a note too long")
    check(version < 2**63, "a version too high")
    if flags & ~31:
        raise NewerFormatError(f"commit flags {flags}")
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
        records=read_records(parts[1], parts[2]),
        operations=operations,
        source=source,
        note=note,
        constants=constants,
    )


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
        if not SPARSE <= chunk.coding <= XOR_ZSTD:
            raise NewerFormatError(f"coding {chunk.coding}")
    records, start = [], 0
    for array_id, base, lane0, lane1, changed, count, flags in RECORD.iter_unpack(record_part):
        if flags & ~(RECORD_FULL | RECORD_PAGE_VERSIONS):
            raise NewerFormatError(f"record flags {flags}")
        own = chunks[start : start + count]
        start += count
        records.append(Record(array_id, base, (lane0, lane1), changed, flags, own))
    check(start == len(chunks), "the records do not share out the chunks")
    return records


def give_data(commit: Commit, parts: list[bytes]) -> None:
    """Give each chunk its bytes, from the data of the frames in order."""
    part, start = 0, 0
    for record in commit.records:
        for chunk in record.chunks:
            if part < len(parts) and start == len(parts[part]):
                part, start = part + 1, 0
            check(part < len(parts), "the chunks do not fill the frames")
            chunk.data = parts[part][start : start + chunk.stored]
            check(len(chunk.data) == chunk.stored, "a chunk is divided between frames")
            start += chunk.stored
    filled = not parts or (part == len(parts) - 1 and start == len(parts[part]))
    check(filled, "the chunks do not fill the frames")


# 7. Codings


def from_planes(planes: bytes, unit: int) -> bytearray:
    """The bytes whose planes these are."""
    whole = len(planes) // unit
    out = bytearray(planes)
    for byte in range(unit):
        out[byte : whole * unit : unit] = planes[byte * whole : (byte + 1) * whole]
    return out


def decompress(data: bytes, fewest: int, most: int) -> bytes:
    """The content of a zstd frame that claims between ``fewest`` and ``most`` bytes."""
    try:
        claimed = zstandard.frame_content_size(data)
        check(fewest <= claimed <= most, f"compressed data claim {claimed} bytes")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadError(str(error)) from error


def decode_chunk(array: bytearray, chunk: Chunk) -> None:
    """Make ``array``, as it was, what it is after the chunk."""
    offset, raw, unit, items = chunk.offset, chunk.raw, chunk.unit, chunk.items
    check(offset + raw <= len(array), "a chunk reaches outside its array")
    check(unit in (1, 2, 4, 8), f"a unit of {unit}")
    end = offset + raw
    if chunk.coding in (SPARSE, SPARSE_ZSTD):
        data = chunk.data
        check(0 < items <= 262144 and raw % unit == 0 and raw <= 2**30, "a sparse chunk's size")
        if chunk.coding == SPARSE_ZSTD:
            data = decompress(data, 0, items * (unit + 1) + raw // unit // 255 + 1)
        check(len(data) >= items * (unit + 1), "a sparse chunk is cut short")
        gaps, planes = data[: len(data) - items * unit], data[len(data) - items * unit :]
        values, element, done = from_planes(planes, unit), -1, 0
        for gap in gaps:
            element += gap
            if gap == 255:
                continue
            element += 1
            check(done < items and (element + 1) * unit <= raw, "a sparse chunk sets too much")
            place = offset + element * unit
            array[place : place + unit] = values[done * unit : (done + 1) * unit]
            done += 1
        check(done == items and gaps[-1] != 255, "a sparse chunk sets too little")
        check((element + 1) * unit == raw, "a sparse chunk covers other bytes")
        return
    check(raw <= 1048576, "a dense chunk's size")
    if chunk.coding == FULL:
        check(len(chunk.data) == raw, "a full chunk's size")
        array[offset:end] = chunk.data
        return
    planes = from_planes(decompress(chunk.data, raw, raw), unit)
    if chunk.coding == FULL_ZSTD:
        array[offset:end] = planes
    else:
        array[offset:end] = bytes(a ^ b for a, b in zip(array[offset:end], planes, strict=True))


# 8. Chain and digest


def chain_after(previous_chain: bytes, meta: bytes, data_hash: int) -> bytes:
    """The chain after a commit."""
    return xxhash.xxh3_128_digest(previous_chain + meta + struct.pack("<Q", data_hash))


def hash_of_frames(frames: list[tuple[int, int]]) -> bytes:
    """What a commit says of its data frames: (data_bytes, data_hash) of each."""
    return xxhash.xxh3_128_digest(b"".join(struct.pack("<QQ", *frame) for frame in frames))


def mix(x: int) -> int:
    """lowbias32."""
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def lanes_of(array: bytes) -> tuple[int, int]:
    """The digest of an array."""
    padded = bytes(array) + bytes(-len(array) % 4)
    lane0 = lane1 = 0
    for i, (word,) in enumerate(struct.iter_unpack("<I", padded)):
        if word:
            k = mix((i + 0x9E3779B9) & 0xFFFFFFFF)
            lane0 += mix(word ^ k)
            lane1 += mix(((word + k) & 0xFFFFFFFF) ^ 0x85EBCA6B)
    return lane0 & 0xFFFFFFFF, lane1 & 0xFFFFFFFF


def array_term(array: Operation, lanes: tuple[int, int]) -> int:
    """What an array adds to the digest of a state."""
    schema = f"{array.name}\0{array.kind}\0{array.dtype}\0{array.shape}"
    return xxhash.xxh3_128_intdigest(f"{array.id} {lanes[0]} {lanes[1]} {schema}".encode())


def constant_term(name: str, text: str) -> int:
    """What a constant adds to the digest of a state."""
    return xxhash.xxh3_128_intdigest(f"constant {name}\0{text}".encode())


# 11. The state at a version


@dataclass
class State:
    """All arrays and constants after one commit."""

    version: int = 0
    chain: bytes = NO_CHAIN
    digest: int = 0
    next_id: int = 1
    arrays: dict[int, Operation] = field(default_factory=dict)
    content: dict[int, bytes] = field(default_factory=dict)
    lanes: dict[int, tuple[int, int]] = field(default_factory=dict)
    bases: dict[int, int] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    page_versions: dict[int, list[int]] = field(default_factory=dict)
    page_bytes: int = 4096

    def statics(self) -> dict[str, str] | None:
        """Path → text of what is no leaf; None where the log is older than that."""
        if self.constants.get("\0static") != "1":
            return None
        start = "\0static/"
        return {n[len(start) :]: t for n, t in self.constants.items() if n.startswith(start)}

    def weak(self) -> set[str]:
        """Paths of the weakly typed arrays."""
        start = "\0weak/"
        return {name[len(start) :] for name in self.constants if name.startswith(start)}

    def by_name(self) -> dict[str, bytes]:
        """The bytes of every array, by name."""
        return {array.name: self.content[array.id] for array in self.arrays.values()}

    def after(self, commit: Commit) -> "State":
        """The state after one more commit."""
        check(commit.previous_chain == self.chain, "a commit of another history")
        state = self.with_table(commit)
        for record in commit.records:
            if record.id:
                state.apply(record, self.bases.get(record.id, 0), commit.version)
        for record in commit.records:
            if record.id:
                state.lanes[record.id], state.bases[record.id] = record.lanes, commit.version
        return replace(
            state,
            version=commit.version,
            chain=commit.chain,
            digest=commit.state_digest,
            next_id=commit.next_id,
        )

    def with_table(self, commit: Commit) -> "State":
        """The state after the operations and the constants of a commit."""
        arrays, content, pages = dict(self.arrays), dict(self.content), dict(self.page_versions)
        lanes, bases = dict(self.lanes), dict(self.bases)
        made: set[int] = set()
        for operation in commit.operations:
            array_id, before = operation.id, arrays.get(operation.id)
            check((operation.code == CREATE) == (before is None), "an operation misplaced")
            if before is None:
                check(array_id >= self.next_id and array_id not in made, "an id used before")
                made.add(array_id)
            else:
                check(before.name == operation.name, "an operation under another name")
            if operation.code == DELETE:
                for table in (arrays, content, pages, lanes, bases):
                    table.pop(array_id, None)
                continue
            arrays[array_id] = operation
            size = operation.nbytes
            count = -(-size // self.page_bytes)
            content[array_id] = content.get(array_id, b"")[:size].ljust(size, b"\0")
            pages[array_id] = (pages.get(array_id, []) + [0] * count)[:count]
            names = [array.name for array in arrays.values()]
            check(len(set(names)) == len(names), "two arrays of one name")
        constants = {} if commit.flags & VALUES_REPLACE else dict(self.constants)
        for name, text in commit.constants.items():
            if text is None:
                constants.pop(name, None)
            else:
                constants[name] = text
        return replace(
            self, arrays=arrays, content=content, page_versions=pages, lanes=lanes, bases=bases,
            constants=constants,
        )  # fmt: skip

    def apply(self, record: Record, base: int, version: int) -> None:
        """Make the bytes of an array those after a record of ``version``."""
        check(record.id in self.arrays, "a record of an array that is not there")
        before = self.content[record.id]
        array = bytearray(before)
        covered = sum(c.raw for c in record.chunks)
        check(covered <= len(array), "a record covers more than its array")
        if record.flags & RECORD_FULL:
            check(covered == len(array), "a full record is not full")
        else:
            check(record.base == base, "a record builds on another version")
        for chunk in record.chunks:
            decode_chunk(array, chunk)
        self.content[record.id] = bytes(array)
        versions = list(self.page_versions[record.id])
        for page in range(len(versions)):
            span = slice(page * self.page_bytes, (page + 1) * self.page_bytes)
            if before[span] != array[span]:
                versions[page] = version
        self.page_versions[record.id] = versions

    def check_digest(self) -> None:
        """Compute every digest from the bytes, and compare."""
        total = sum(constant_term(*constant) for constant in self.constants.items())
        for array_id, array in self.arrays.items():
            lanes = lanes_of(self.content[array_id])
            check(lanes == self.lanes.get(array_id, (0, 0)), f"lanes of {array.name}")
            total += array_term(array, lanes)
        check(total % 2**128 == self.digest, f"digest of version {self.version}")


def read_blob(commit: Commit) -> bytes | None:
    """The caller's blob; None where there is none."""
    for record in commit.records:
        if record.id == 0:
            blob = bytearray(sum(chunk.raw for chunk in record.chunks))
            end = 0
            for chunk in record.chunks:
                check(chunk.offset == end, "the chunks of the blob do not follow each other")
                decode_chunk(blob, chunk)
                end += chunk.raw
            return bytes(blob)
    return None


# 10. Snapshots


def read_snapshot_frames(
    raw: bytes, version: int, manifest: Manifest, with_data: bool
) -> tuple[Commit, list[Frame]]:
    """The commit in a snapshot file, and its frames."""
    frames, offset = [], 0
    while not frames or frames[-1].kind == "DATA":
        frames.append(read_frame(raw, offset, offset, with_data))
        offset = frames[-1].end
    *data, last = frames
    check(last.kind == "SNAPSHOT" and not last.data and last.end == len(raw), "no snapshot")
    commit = read_commit(last.meta)
    check(commit.version == version, "a snapshot of another version")
    check(commit.log_id == manifest.log_id_of(version), "a snapshot of another log")
    check_frames(commit, data)
    State().with_table(commit)
    return commit, frames


def read_snapshot(raw: bytes, version: int, manifest: Manifest) -> State:
    """The state in a snapshot file."""
    commit, (*data, _) = read_snapshot_frames(raw, version, manifest, with_data=True)
    give_data(commit, [frame.data for frame in data])
    state = State(page_bytes=manifest.page_bytes).with_table(commit)
    page_versions = {}
    for record in commit.records:
        if record.id == 0:
            continue  # the blob of its version, where a compaction has kept it
        if record.flags & RECORD_PAGE_VERSIONS:
            versions = bytearray(8 * len(state.page_versions[record.id]))
            check(sum(c.raw for c in record.chunks) == len(versions), "not a version a page")
            for chunk in record.chunks:
                decode_chunk(versions, chunk)
            page_versions[record.id] = [number for (number,) in struct.iter_unpack("<Q", versions)]
        else:
            state.apply(record, record.base, 0)
            state.lanes[record.id], state.bases[record.id] = record.lanes, record.base
    return replace(
        state,
        version=version,
        chain=commit.previous_chain,
        digest=commit.state_digest,
        next_id=commit.next_id,
        page_versions=state.page_versions | page_versions,
    )


def check_frames(commit: Commit, frames: list[Frame]) -> None:
    """Compare the data frames before a commit with what it says of them."""
    found = [(len(frame.data), frame.data_hash) for frame in frames]
    check(commit.frame_sizes == [size for size, _ in found], "other data frames")
    check(commit.frames_hash == hash_of_frames(found), "other data in the data frames")


# 9. Archives


def read_archive(raw: bytes, first_version: int) -> Iterator[Commit]:
    """The commits in an archive, without their data."""
    offset, version = 0, first_version
    while (frame := read_frame(raw, offset, offset)).kind == "ARCHIVED":
        first, raw_bytes, commits, _ = BLOCK.unpack(frame.meta)
        check(first == version and commits, "the blocks do not follow each other")
        block = decompress(frame.data, raw_bytes, raw_bytes)
        start = 16 * commits
        for data_hash, meta_bytes, _ in ARCHIVED.iter_unpack(block[:start]):
            meta = block[start : start + meta_bytes]
            commit = read_commit(meta)
            yield replace(commit, chain=chain_after(commit.previous_chain, meta, data_hash))
            start += meta_bytes
        check(start == len(block), "the commits do not fill the block")
        version, offset = version + commits, frame.end
    check(frame.kind == "ARCHIVE" and frame.end == len(raw), "no archive")
    (raw_bytes,) = ARCHIVE.unpack(frame.meta)
    index = decompress(frame.data, raw_bytes, raw_bytes)
    check(INDEX.unpack_from(index)[1:3] == (first_version, version - first_version), "index")


# 5. Segments, 9. indexes, 12. opening


@dataclass
class Segment:
    """A segment, and the bytes of its file."""

    name: str
    log_id: bytes
    number: int
    previous: int
    first_version: int
    base: int
    chain: bytes
    synced: int
    raw: bytes


def read_segment(name: str, raw: bytes) -> Segment:
    """The segment in a file."""
    frame = read_frame(raw, 0, None)
    check(frame.kind == "SEGMENT" and len(frame.meta) == 56 and not frame.data, "no segment")
    log_id, number, previous, first_version, chain = SEGMENT.unpack(frame.meta)
    expected = f"{number:08d}-{first_version:020d}"
    check(name in (f"{expected}.seg", f"{expected}.cut"), "a segment of another name")
    check(first_version > 0, "a segment that begins with no version")
    check(max(number, first_version, frame.position) < 2**63, "a segment begins where none can")
    return Segment(
        name, log_id, number, previous, first_version, frame.position, chain, frame.synced, raw
    )


def find_segments(folder: Path, manifest: Manifest) -> tuple[list[Segment], str]:
    """The segments that make the log, oldest first, and the name of a file that was passed over."""
    names: dict[int, str] = {}
    oldest = manifest.compaction
    for path in folder.iterdir() if folder.exists() else ():
        if oldest is not None and path.name == oldest.segment_name:
            names[oldest.number] = path.name
        elif match := re.fullmatch(r"([0-9]{8,})-[0-9]{20}\.seg", path.name):
            if int(match[1]) == 0:
                continue  # of another name: they count from 1
            if oldest is not None and int(match[1]) <= oldest.number:
                continue  # a compaction has replaced it
            if int(match[1]) in names:
                raise DamagedError(f"two segments of number {match[1]}")
            names[int(match[1])] = path.name
    indexed = {n for n, name in names.items() if (folder / name).with_suffix(".idx").exists()}
    if not names or max(names) in indexed:
        raise DamagedError("the newest segment is missing")
    segments: list[Segment] = []
    passed_over, wanted = "", max(names)
    while wanted:
        if wanted not in names:
            raise DamagedError(f"segment {wanted} is missing")
        raw = (folder / names[wanted]).read_bytes()
        try:
            segment = read_segment(names[wanted], raw)
        except BadError as error:
            lower = max((number for number in names if number < wanted), default=0)
            if segments or len(raw) > 128 or not lower or lower in indexed:
                raise DamagedError(f"{names[wanted]}: {error}") from error
            passed_over, wanted = names[wanted], lower
            continue
        if not manifest.may_have_made(segment.log_id, segment.first_version):
            raise DamagedError(f"{segment.name} is of another log")
        if segments and segment.number >= segments[-1].number:
            raise DamagedError("the segments stand in a ring")
        segments.append(segment)
        wanted = segment.previous
        if oldest is not None and segment.number == oldest.number:
            return segments[::-1], passed_over
    if oldest is not None:
        raise DamagedError(f"segment {oldest.number} is missing")
    return segments[::-1], passed_over


@dataclass
class Walk:
    """A walk over the frames of a segment: its commits, where it ended and why.

    Attributes:
        version, chain: those after the last commit.
        synced: newest synced position that a frame has named.
        end: where the last frame ends behind which no data frames wait for their commit.
        fault: what is wrong behind ``end``; empty where nothing is.
        commits: the commits, oldest first.
        places: where in the file each commit frame stands and ends.
        tags: what TAG frames say, the newest of each name.
    """

    version: int
    chain: bytes
    synced: int
    end: int = 128
    fault: str = ""
    commits: list[Commit] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    tags: dict[str, int | None] = field(default_factory=dict)


def walk_segment(segment: Segment, manifest: Manifest, following: Segment | None) -> Walk:
    """Walk a segment, up to where the next says that it ends."""
    walk = Walk(segment.first_version - 1, segment.chain, segment.synced)
    stop = len(segment.raw) if following is None else following.base - segment.base
    offset, waiting = walk.end, []
    while offset < stop:
        try:
            frame = read_frame(segment.raw, offset, segment.base + offset)
            kind = frame.kind
            check(kind in ("DATA", "COMMIT") or not waiting, f"{kind} behind data frames")
            check(kind in ("DATA", "COMMIT", "MARK", "TAG", "PASS OVER"), f"{kind} in the log")
            if kind == "DATA":
                waiting.append(frame)
            elif kind == "TAG":
                walk.tags |= read_tags(frame.meta)
            elif kind == "COMMIT":
                commit = _commit_in(frame, waiting, walk, manifest)
                walk.version, walk.chain, waiting = commit.version, commit.chain, []
                walk.commits.append(commit)
                walk.places.append((offset, frame.end))
        except BadError as error:
            walk.fault = str(error)
            return walk
        walk.synced = max(walk.synced, frame.synced)
        offset = frame.end
        walk.end = walk.end if waiting else offset
    if waiting:
        walk.fault = "data frames wait for their commit"
    elif following is not None:
        is_continued = (walk.end, walk.version + 1, walk.chain) == (
            stop, following.first_version, following.chain
        )  # fmt: skip
        walk.fault = "" if is_continued else f"{following.name} continues something else"
    return walk


def _commit_in(frame: Frame, waiting: list[Frame], walk: Walk, manifest: Manifest) -> Commit:
    commit = read_commit(frame.meta)
    check(commit.version == walk.version + 1, f"version {commit.version} after {walk.version}")
    check(commit.previous_chain == walk.chain, "a commit of another history")
    check(commit.log_id == manifest.log_id_of(commit.version), "a commit of another log")
    check_frames(commit, waiting)
    give_data(commit, [f.data for f in waiting] if waiting else [frame.data] * bool(frame.data))
    return replace(commit, chain=chain_after(walk.chain, frame.meta, frame.data_hash))


class ReadLog:
    """A log, read whole.

    Attributes:
        manifest: what it is.
        segments: its segments, oldest first.
        walks: the walk over each of them.
        commits: its commits, oldest first.
        left_out: what was left out at the end, and why; empty where nothing was.

    Raises:
        DamagedError, NewerFormatError: the log is not to be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = read_manifest((root / "manifest").read_bytes())
        self.segments, self.left_out = find_segments(root / "log", self.manifest)
        newest = walk_segment(self.segments[-1], self.manifest, None)
        mark = max(newest.synced, self._snapshot_mark())
        self.walks: list[Walk] = []
        for segment, following in itertools.pairwise(self.segments):
            walk = walk_segment(segment, self.manifest, following)
            if walk.fault and following.base <= mark:
                raise DamagedError(f"{segment.name} at {walk.end}: {walk.fault}")
            if walk.fault:
                self.left_out = f"{following.name} and what is behind: {walk.fault}"
                newest = walk_segment(segment, self.manifest, None)
                break
            self.walks.append(walk)
        self.walks.append(newest)
        del self.segments[len(self.walks) :]
        self._judge(self.segments[-1], newest, mark)
        self.commits = [commit for walk in self.walks for commit in walk.commits]

    def _judge(self, segment: Segment, walk: Walk, mark: int) -> None:
        if walk.fault:
            mark = max(mark, self._mark_behind(segment, walk.end))
        if mark > segment.base + walk.end:
            raise DamagedError(f"{segment.name} at {walk.end}: {walk.fault}")
        self.left_out = self.left_out or walk.fault

    def snapshots(self) -> list[int]:
        """Versions of the snapshot files, ascending."""
        names = [path.name for path in self.root.glob("snapshots/*")]
        return sorted(int(name[:20]) for name in names if re.fullmatch(r"\d{20}\.snap", name))

    def _snapshot_raw(self, version: int) -> bytes:
        return (self.root / "snapshots" / f"{version:020d}.snap").read_bytes()

    def _snapshot_mark(self) -> int:
        for version in reversed(self.snapshots()):
            try:
                raw = self._snapshot_raw(version)
                return read_snapshot_frames(raw, version, self.manifest, False)[1][-1].synced
            except BadError:
                continue
        return 0

    def _mark_behind(self, segment: Segment, end: int) -> int:
        newest = 0
        for offset in range(ceil64(end), len(segment.raw), 64):
            try:
                newest = max(newest, read_header(segment.raw, offset, segment.base + offset)[4])
            except (BadError, NewerFormatError):
                continue
        return newest

    def states(self) -> Iterator[State | None]:
        """The state after every commit, replayed from the first one, digests checked.

        None for a version that holds only its digest.
        """
        state = State(page_bytes=self.manifest.page_bytes)
        joined_at = self.segments[0].first_version
        if self.manifest.compaction is not None:
            state = self.snapshot(self.manifest.compaction.first_version - 1)
        elif joined_at > 1 and self.commits:
            state = self.snapshot(joined_at)
        for commit in self.commits:
            try:
                if state.version != commit.version:
                    state = state.after(commit)
                if not commit.flags & DIGEST_ONLY:
                    state.check_digest()
            except BadError as error:
                raise DamagedError(f"version {commit.version}: {error}") from error
            yield None if commit.flags & DIGEST_ONLY else state

    def tags(self) -> dict[str, int]:
        """The version that each tag names."""
        compaction = self.manifest.compaction
        found = dict(compaction.tags) if compaction is not None else {}
        for walk in self.walks:
            found |= walk.tags
        newest = self.walks[-1].version
        return {name: version for name, version in found.items() if version and version <= newest}

    def archived(self) -> list[Commit]:
        """The commits whose data a compaction gave up, oldest first; the chain is checked."""
        compaction = self.manifest.compaction
        entries = compaction.archives if compaction is not None else []
        commits = list[Commit]()
        oldest = entries[0][0] if entries else 1  # above 1 where the log joined another late
        chain = NO_CHAIN if oldest == 1 else None
        for first, last, _, end_chain in entries:
            raw = (self.root / "log" / f"{first:020d}-{last:020d}.arc").read_bytes()
            for commit in read_archive(raw, first):
                check(chain in (None, commit.previous_chain), "the chain of an archive")
                check(commit.version == oldest + len(commits), "a version of an archive")
                check(commit.log_id == self.manifest.log_id_of(commit.version), "of another log")
                commits.append(commit)
                chain = commit.chain
            check(chain == end_chain, "an archive ends in another history")
        if entries:
            check(chain == self.segments[0].chain, "the oldest segment continues another history")
        return commits

    def snapshot(self, version: int) -> State:
        """The state in the snapshot of ``version``."""
        state = read_snapshot(self._snapshot_raw(version), version, self.manifest)
        state.check_digest()
        return state

    def extra(self, commit: Commit) -> bytes | None:
        """The caller's blob of a commit, which for a kept version is in its snapshot."""
        compaction = self.manifest.compaction
        if compaction is not None and commit.version < compaction.first_version:
            raw = self._snapshot_raw(commit.version)
            commit, (*data, _) = read_snapshot_frames(raw, commit.version, self.manifest, True)
            if any(record.id == 0 and record.base for record in commit.records):
                return None  # in force there, and given by another commit
            give_data(commit, [frame.data for frame in data])
        return read_blob(commit)

    def snapshot_position(self, version: int) -> int:
        """The position in the log that the snapshot of ``version`` covers."""
        return read_header(self._snapshot_raw(version), 0, 0)[4]

    def index(self, place: int) -> dict[str, object]:
        """The index of the segment at ``place`` of `segments`."""
        segment = self.segments[place]
        raw = (self.root / "log" / f"{segment.name[:-4]}.idx").read_bytes()
        frame = read_frame(raw, 0, 0)
        check(frame.kind == "INDEX" and frame.end == len(raw), "no index")
        chain, first_version, rows, sources_bytes, touched, end_offset = INDEX.unpack_from(
            frame.meta
        )
        start, columns = 48, {}
        for name in ("offset", "step", "flags", "time_ns", "source", "touched_end", "logged"):
            columns[name] = list(struct.unpack_from(f"<{rows}q", frame.meta, start))
            start += rows * 8
        ids = list(struct.unpack_from(f"<{touched}Q", frame.meta, start))
        start += touched * 8
        end = start + sources_bytes
        check(end <= len(frame.meta), "the parts of the index do not fill it")
        tags = read_tags(frame.meta[end:] or b"{}")
        sources = []
        while start < end:
            (size,) = struct.unpack_from("<H", frame.meta, start)
            sources.append(frame.meta[start + 2 : start + 2 + size].decode())
            start += 2 + size
        return {
            "chain": chain, "first_version": first_version, "end_offset": end_offset,
            "columns": columns, "ids": ids, "sources": sources, "tags": tags,
        }  # fmt: skip


# 16. Streams


@dataclass
class Stream:
    """A stream: what its head says, the state it begins with (None: none), its commits."""

    since: int
    last: int
    state: "State | None"
    commits: list[Commit]


def read_stream(raw: bytes) -> Stream:
    """The stream in ``raw``, all of it checked."""
    head = read_frame(raw, 0, 0)
    check(head.kind == "STREAM" and len(head.meta) >= 68, "not a stream")
    log_id, page_bytes, since, chain, last, snapshot_bytes, count = STREAM.unpack_from(head.meta)
    check(len(head.meta) == 68 + 24 * count, "its ancestors do not fill it")
    check(0 < page_bytes <= 2**30 and page_bytes % 4 == 0, f"pages of {page_bytes} bytes")
    check(since <= last < 2**63, "a stream to before its beginning")
    manifest = Manifest(log_id, page_bytes, 0, read_ancestors(head.meta[68:]))
    start, state = head.end + snapshot_bytes, None
    if snapshot_bytes:
        state = read_snapshot(raw[head.end : start], since + 1, manifest)
    walk, offset, waiting = Walk(since, chain, 0), start, []
    while offset < len(raw):
        frame = read_frame(raw, offset, None)
        check(frame.kind in ("DATA", "COMMIT"), f"{frame.kind} in a stream")
        if frame.kind == "DATA":
            waiting.append(frame)
        else:
            commit = _commit_in(frame, waiting, walk, manifest)
            walk.version, walk.chain, waiting = commit.version, commit.chain, []
            walk.commits.append(commit)
        offset = frame.end
    check(walk.version == last and not waiting, "the stream is cut short")
    return Stream(since, last, state, walk.commits)
