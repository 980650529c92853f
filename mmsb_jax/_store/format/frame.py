"""Frames: the unit of every file of a log and of what goes over a wire.

A frame is a 64-byte header, then its *meta* (what it says), then its *data* (bytes of arrays),
both padded with zeros to 64 bytes. The header names its own place in the log, so that pieces of
two frames never pass for one, and carries a hash of itself, of the meta and of the data.
`docs/format.md` specifies it to the byte.
"""

import contextlib
import operator
import struct
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import xxhash

from mmsb_jax._base.errors import FormatError, StructureError
from mmsb_jax._store.files.protocol import Buffer, Files

MAGIC = b"MMSB"
FORMAT_VERSION = 1
ALIGNMENT_BYTES = 64
MAX_META_BYTES = 1 << 30
MAX_DATA_BYTES = 1 << 32
MAX_NUMBER = (1 << 63) - 1
"""Of versions, of segments, and of the positions where segments begin."""
_HEADER = struct.Struct("<4sBBHQQIIQQQ")
_HEADER_HASH = struct.Struct("<Q")
HEADER_BYTES = _HEADER.size + _HEADER_HASH.size
_MUST_UNDERSTAND = 1
_COPIED_BYTES = 4096
"""Data up to which one buffer costs less than several."""
Reader = Callable[[int, int], bytes]
"""(offset, size) → bytes of one file, fewer at its end."""
U32, U64 = (1 << 32) - 1, (1 << 64) - 1
I64 = (1 << 63) - 1
HASH_BYTES = 16


class Kind(IntEnum):
    """What a frame is. Numbers are never used again."""

    SEGMENT = 1
    DATA = 2
    COMMIT = 3
    MARK = 4
    SNAPSHOT = 5
    MANIFEST = 6
    INDEX = 7
    TAG = 8
    COMPACTED = 9
    STREAM = 10
    ARCHIVED = 11
    ARCHIVE = 12
    PROCESS = 13


_KINDS = frozenset(map(int, Kind))


class BadFrameError(Exception):
    """These bytes are not a whole frame; the reader of the file decides what that means."""


def padding(size: int) -> bytes:
    """The zeros between ``size`` and the next aligned position."""
    return bytes(-size % ALIGNMENT_BYTES)


def padded(size: int) -> int:
    """``size`` rounded up to the alignment."""
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


class Header(NamedTuple):
    """The header of a frame.

    Attributes:
        kind: a `Kind`, or a number that a later version may give a meaning.
        position: where in the log (not in the file) the frame begins, in bytes.
        synced: the log is known to be durable up to this position.
        meta_bytes: size of the meta without padding.
        stream: number of the stream of data frames; 0 until there are several.
        data_bytes: size of the data without padding.
        meta_hash: xxh3-64 of the meta with its padding.
        data_hash: xxh3-64 of the data with its padding.
    """

    kind: int
    position: int
    synced: int
    meta_bytes: int
    stream: int
    data_bytes: int
    meta_hash: int
    data_hash: int
    must_understand: bool = True

    @property
    def frame_bytes(self) -> int:
        """Bytes of the whole frame."""
        return HEADER_BYTES + padded(self.meta_bytes) + padded(self.data_bytes)

    @property
    def data_offset(self) -> int:
        """Where in the frame its data begins."""
        return HEADER_BYTES + padded(self.meta_bytes)

    def encode(self) -> bytes:
        """The 64 bytes."""
        body = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            _MUST_UNDERSTAND if self.must_understand else 0,
            self.kind,
            self.position,
            self.synced,
            self.meta_bytes,
            self.stream,
            self.data_bytes,
            self.meta_hash,
            self.data_hash,
        )
        return body + _HEADER_HASH.pack(xxhash.xxh3_64_intdigest(body))

    @classmethod
    def decode(cls, raw: bytes, position: int | None) -> "Header":
        """The header in ``raw``, which stands at ``position`` (None: anywhere)."""
        if len(raw) < HEADER_BYTES:
            raise BadFrameError(f"{len(raw)} bytes where a header of {HEADER_BYTES} should be")
        body = raw[: _HEADER.size]
        if raw[:4] != MAGIC:
            raise BadFrameError("no frame begins here")
        (expected,) = _HEADER_HASH.unpack_from(raw, _HEADER.size)
        if xxhash.xxh3_64_intdigest(body) != expected:
            raise BadFrameError("the header does not match its hash")
        _, version, flags, kind, *rest = _HEADER.unpack(body)
        must_understand = bool(flags & _MUST_UNDERSTAND)
        if version > FORMAT_VERSION:
            raise FormatError(
                f"a frame of format {version} at position {rest[0]}; this version of mmsb_jax "
                f"reads format {FORMAT_VERSION}. Upgrade mmsb-jax to open it."
            )
        header = cls(kind, *rest, must_understand=must_understand)
        if position is not None and header.position != position:
            raise BadFrameError(f"a frame of position {header.position} stands at {position}")
        if header.meta_bytes > MAX_META_BYTES or header.data_bytes > MAX_DATA_BYTES:
            raise BadFrameError("the header claims more bytes than a frame can have")
        return header

    @property
    def is_known(self) -> bool:
        """Whether this version knows the kind."""
        return self.kind in _KINDS

    def check_kind(self) -> None:
        """Refuse a kind that must be understood and is not."""
        if self.must_understand and not self.is_known:
            raise FormatError(
                f"a frame of unknown kind {self.kind} at position {self.position}, which must be "
                f"understood. Upgrade mmsb-jax to open it."
            )


def check_frame_size(meta_bytes: int, data_bytes: int) -> None:
    """Refuse more than a frame can have."""
    if meta_bytes > MAX_META_BYTES or data_bytes > MAX_DATA_BYTES:
        raise StructureError(
            f"a frame of {meta_bytes:,} bytes about {data_bytes:,} bytes of data; at most "
            f"{MAX_META_BYTES:,} and {MAX_DATA_BYTES:,} can be recorded. Commit fewer arrays, or "
            f"shorter strings, at once."
        )


def build_frame(
    kind: Kind,
    position: int,
    synced: int,
    meta: bytes = b"",
    data: Sequence[Buffer] = (),
    must_understand: bool = True,
) -> tuple[Header, list[Buffer]]:
    """A frame as its header and the buffers to write; large ``data`` is not copied."""
    data_bytes = sum(map(len, data))
    check_frame_size(len(meta), data_bytes)
    if not (type(synced) is type(position) is int and 0 <= synced <= position <= U64):
        check_number("the position of a frame", position, 0, U64)
        check_number("the position that is synced", synced, 0, U64)
    padded_meta = meta + padding(len(meta))
    tail = padding(data_bytes)
    if data_bytes <= _COPIED_BYTES:
        padded_data = b"".join((*data, tail))
        data_hash = xxhash.xxh3_64_intdigest(padded_data)
    else:
        padded_data, hasher = None, xxhash.xxh3_64()
        for part in (*data, tail):
            hasher.update(part)
        data_hash = hasher.intdigest()
    header = Header(
        kind=kind,
        position=position,
        synced=synced,
        meta_bytes=len(meta),
        stream=0,
        data_bytes=data_bytes,
        meta_hash=xxhash.xxh3_64_intdigest(padded_meta),
        data_hash=data_hash,
        must_understand=must_understand,
    )
    if padded_data is not None:
        return header, [b"".join((header.encode(), padded_meta, padded_data))]
    return header, [header.encode() + padded_meta, *data, *([tail] if tail else [])]


def read_header(read: Reader, offset: int, position: int | None) -> Header:
    """The header at ``offset`` of a file."""
    return Header.decode(read(offset, HEADER_BYTES), position)


def read_meta(read: Reader, offset: int, header: Header) -> bytes:
    """The meta of the frame at ``offset``, checked against its hash."""
    return check_meta(read(offset + HEADER_BYTES, padded(header.meta_bytes)), header)


def check_meta(raw: bytes | memoryview, header: Header) -> bytes:
    """The meta in ``raw``, which holds it with its padding."""
    if len(raw) != padded(header.meta_bytes):
        raise BadFrameError("the frame is cut short in its meta")
    if xxhash.xxh3_64_intdigest(raw) != header.meta_hash:
        raise BadFrameError("the meta does not match its hash")
    return bytes(raw[: header.meta_bytes])


def read_data(read: Reader, offset: int, header: Header) -> memoryview:
    """The data of the frame at ``offset``, checked against its hash."""
    size = padded(header.data_bytes)
    return check_data(memoryview(read(offset + header.data_offset, size) if size else b""), header)


def check_data(raw: memoryview, header: Header) -> memoryview:
    """The data in ``raw``, which holds it with its padding."""
    if len(raw) != padded(header.data_bytes):
        raise BadFrameError("the frame is cut short in its data")
    if xxhash.xxh3_64_intdigest(raw) != header.data_hash:
        raise BadFrameError("the data does not match its hash")
    return raw[: header.data_bytes]


def check_number(what: str, value: Any, least: int, most: int) -> None:
    """Refuse what is no whole number from ``least`` to ``most``."""
    try:
        is_within = least <= operator.index(value) <= most
    except TypeError:
        is_within = False
    if not is_within:
        raise StructureError(
            f"{what} {value!r:.80} cannot be recorded: expected a whole number from {least} to "
            f"{most}"
        )


def check_text(what: str, text: Any, most_bytes: int) -> None:
    """Refuse what is no text of at most ``most_bytes`` bytes of UTF-8."""
    if not isinstance(text, str):
        raise StructureError(f"{what} {text!r:.80} cannot be recorded: expected a string")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise StructureError(
            f"{what} {text!r:.80} cannot be recorded: it has half of a character (a lone "
            f"surrogate), which no UTF-8 has. Decode the bytes that it came from otherwise."
        ) from None
    if size > most_bytes:
        raise StructureError(
            f"{what} of {size:,} bytes, {text[:80]!r}…, cannot be recorded: at most "
            f"{most_bytes:,} bytes. Shorten it."
        )


def check_hash(what: str, raw: Any) -> None:
    """Refuse what is not the 16 bytes of an id, a chain or a hash."""
    if not isinstance(raw, bytes) or len(raw) != HASH_BYTES:
        raise StructureError(f"{what} {raw!r:.80} cannot be recorded: expected {HASH_BYTES} bytes")


def reader_of(files: Files, name: str) -> Reader:
    """Reads bytes of one file."""
    return lambda offset, size: files.read(name, offset, size)


def walk_frames(
    read: Reader, base: int | None, offset: int = 0, end: int | None = None
) -> Iterator[tuple[int, Header]]:
    """The frames from ``offset`` up to ``end`` or the end of the file: (offset, header) each.

    The first that is not whole, or of a kind that must be understood and is not, is an error.

    Args:
        read: reads the file.
        base: position of the file's first byte; None takes frames of any position.
        offset: where the first frame stands.
        end: where the last one ends, or later; None for the end of the file.
    """
    while end is None or offset < end:
        raw = read(offset, HEADER_BYTES)
        if not raw:
            return
        header = Header.decode(raw, None if base is None else base + offset)
        header.check_kind()
        yield offset, header
        offset += header.frame_bytes


def walk_whole_frames(read: Reader, base: int, end: int) -> Iterator[tuple[int, Header]]:
    """Every whole header before ``end`` that is in its place, but for those inside of a frame."""
    offset = 0
    while offset < end:
        try:
            header = read_header(read, offset, base + offset)
        except BadFrameError:
            following = headers_from(read, base, offset + ALIGNMENT_BYTES)
            offset, header = next(following, (end, None))
        if header is None or offset >= end:
            return
        header.check_kind()
        yield offset, header
        is_cut_off = offset + header.frame_bytes > end
        offset += HEADER_BYTES if is_cut_off else header.frame_bytes


def headers_from(read: Reader, base: int | None, offset: int) -> Iterator[tuple[int, Header]]:
    """Every whole header from ``offset`` on, with its offset.

    Used where a frame is bad: a frame can stand at any aligned offset, and its header says so
    itself. ``base`` is the position of the file's first byte; None takes any.
    """
    offset = padded(offset)
    while block := read(offset, 1 << 22):
        found = block.find(MAGIC)
        while found >= 0:
            if found % ALIGNMENT_BYTES == 0:
                raw = block[found : found + HEADER_BYTES]
                position = None if base is None else base + offset + found
                # Bytes of an array that look like a frame, or a damaged one.
                with contextlib.suppress(BadFrameError, FormatError):
                    yield offset + found, Header.decode(raw, position)
            found = block.find(MAGIC, found + 1)
        offset += len(block) // ALIGNMENT_BYTES * ALIGNMENT_BYTES or len(block)
