"""What changed of a tensor, as servers apply it: bytes of one zstd frame, whatever the dtype."""

import struct
from typing import Literal

import numpy as np
import zstandard

Encoding = Literal["xor", "overwrite"]
"""How a change is written: old ^ new, to be applied once; or places and new bytes."""

COMPRESSION = "zstd"
_LEVEL = 1
_MOST_PLACES = 2**32
"""The places of ``"overwrite"`` are 32 bits wide."""


def can_encode(encoding: Encoding, nbytes: int) -> bool:
    """Whether a change of a tensor of so many bytes can be written."""
    return encoding == "xor" or nbytes < _MOST_PLACES


def encode(encoding: Encoding, mixed: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The bytes of a change.

    Args:
        encoding: how.
        mixed: old ^ new, uint8[nbytes].
        new: the new bytes.
    """
    if encoding == "xor":
        plain = mixed.data
    else:
        places = np.flatnonzero(mixed)
        plain = b"".join(
            (struct.pack("<I", places.size), places.astype("<u4").tobytes(), new[places].tobytes())
        )
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(plain)
    return np.frombuffer(packed, np.uint8)
