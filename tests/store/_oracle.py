"""Digests of the model, word by word as the format says; shares no code with the store."""

import xxhash

from tests.store._logs import Expected

_MASK = 0xFFFFFFFF


def scalar_mix(word: int) -> int:
    word = (word ^ word >> 16) * 0x7FEB352D & _MASK
    word = (word ^ word >> 15) * 0x846CA68B & _MASK
    return word ^ word >> 16


def scalar_lanes(words: list[int], start: int = 0) -> tuple[int, int]:
    first = second = 0
    for index, word in enumerate(words, start):
        if word:
            key = scalar_mix(index + 0x9E3779B9 & _MASK)
            first += scalar_mix(word ^ key)
            second += scalar_mix((word + key & _MASK) ^ 0x85EBCA6B)
    return first & _MASK, second & _MASK


def lanes_of(content: bytes) -> tuple[int, int]:
    filled = content + bytes(-len(content) % 4)
    words = [int.from_bytes(filled[at : at + 4], "little") for at in range(0, len(filled), 4)]
    return scalar_lanes(words)


def digest_of(expected: Expected) -> int:
    """The digest of a state, from scratch."""
    total = 0
    for name, held in expected.arrays.items():
        lane0, lane1 = lanes_of(held.content)
        schema = f"{name}\0{held.kind}\0{held.dtype}\0{held.shape}"
        total += xxhash.xxh3_128_intdigest(f"{held.id} {lane0} {lane1} {schema}".encode())
    for name, tagged in expected.constants.items():
        total += xxhash.xxh3_128_intdigest(f"constant {name}\0{tagged}".encode())
    return total % 2**128
