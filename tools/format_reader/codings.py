"""Section 7 of docs/format.md: how the bytes of a chunk are stored."""

import struct

import zstandard

from tools.format_reader.commits import (
    FULL,
    FULL_GROUP,
    FULL_ZSTD,
    SPARSE,
    SPARSE_ZSTD,
    Chunk,
)
from tools.format_reader.frames import BadError, check


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
    if chunk.group:
        held = held_by_group(chunk)
    else:
        held = from_planes(decompress(chunk.data, raw, raw), unit)
    if chunk.coding in (FULL_ZSTD, FULL_GROUP):
        array[offset:end] = held
    else:
        array[offset:end] = bytes(a ^ b for a, b in zip(array[offset:end], held, strict=True))


def held_by_group(chunk: Chunk) -> bytes:
    """What a group holds of one of its chunks."""
    unit, data, group = chunk.unit, chunk.group[0].data, chunk.group
    sizes = [-(-member.raw // 4) * 4 for member in group]
    check(sum(sizes) % unit == 0 and sum(sizes) <= 1048576, "the size of a group")
    count, start, planes = sum(sizes) // unit, 4 * unit, b""
    check(len(data) >= start, "a group is cut short")
    for stored in struct.unpack(f"<{unit}I", data[:start]):
        plane = data[start : start + stored]
        start += stored
        check(stored <= count and start <= len(data), "a plane of a group")
        planes += plane if stored == count else decompress(plane, count, count)
    check(start == len(data), "the planes do not fill the group")
    place = next(k for k, member in enumerate(group) if member is chunk)
    first = sum(sizes[:place])
    return bytes(from_planes(planes, unit)[first : first + chunk.raw])
