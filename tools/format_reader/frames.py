"""Section 3 of docs/format.md: frames; and the errors that a reader raises."""

import struct
from dataclasses import dataclass

import xxhash

HEADER = struct.Struct("<4sBBHQQIIQQQQ")
KINDS = (
    "SEGMENT", "DATA", "COMMIT", "MARK", "SNAPSHOT", "MANIFEST", "INDEX", "TAG", "COMPACTED",
    "STREAM", "ARCHIVED", "ARCHIVE", "PROCESS",
)  # fmt: skip


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
