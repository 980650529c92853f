"""Section 8 of docs/format.md: the chain, and the digests of arrays and states; also
what a commit says of its data frames (section 6)."""

import struct

import xxhash

from tools.format_reader.commits import Commit, Operation
from tools.format_reader.frames import Frame, check

NO_CHAIN = bytes(16)


def chain_after(previous_chain: bytes, meta: bytes, data_hash: int) -> bytes:
    """The chain after a commit."""
    return xxhash.xxh3_128_digest(previous_chain + meta + struct.pack("<Q", data_hash))


def hash_of_frames(frames: list[tuple[int, int]]) -> bytes:
    """What a commit says of its data frames: (data_bytes, data_hash) of each."""
    return xxhash.xxh3_128_digest(b"".join(struct.pack("<QQ", *frame) for frame in frames))


def check_frames(commit: Commit, frames: list[Frame]) -> None:
    """Compare the data frames before a commit with what it says of them."""
    found = [(len(frame.data), frame.data_hash) for frame in frames]
    check(commit.frame_sizes == [size for size, _ in found], "other data frames")
    check(commit.frames_hash == hash_of_frames(found), "other data in the data frames")


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
