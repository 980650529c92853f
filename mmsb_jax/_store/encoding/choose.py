"""Which encoding: a fixed rule, from counts and a sample."""

import numpy as np

from mmsb_jax._store.encoding.base import compress, to_planes
from mmsb_jax._store.format.chunk import Coding

_COMPRESS_BELOW = 0.85
"""A dense record is compressed when a sample shrinks below this share of its size."""
_SAMPLES, _SAMPLE_BYTES = 4, 1 << 12
_PLANE_SAMPLE_BYTES = 1 << 9
"""Bytes of a piece of a plane's sample."""


def prefers_sparse(items: int, unit: int, nbytes: int) -> bool:
    """The rule: sparse when it takes less than half of the array's bytes, a gap being a byte."""
    return 2 * items * (unit + 1) < nbytes


def prefer_sparse(items: np.ndarray, unit: int, nbytes: np.ndarray) -> np.ndarray:
    """`prefers_sparse` of each of several arrays (bool[k])."""
    return 2 * items * (unit + 1) < nbytes


def choose_dense(new: np.ndarray, old: np.ndarray | None, unit: int) -> Coding:
    """The coding that makes a sample smallest; plain bytes where none helps enough."""
    size = min(_SAMPLE_BYTES, new.size)
    step = max(1, (new.size - size) // max(1, _SAMPLES - 1) // unit * unit)
    starts = sorted({min(step * i, new.size - size) // unit * unit for i in range(_SAMPLES)})
    sample = np.concatenate([new[s : s + size] for s in starts])
    coding, least = Coding.FULL_ZSTD, len(compress(to_planes(sample, unit)))
    if old is not None:
        sample ^= np.concatenate([old[s : s + size] for s in starts])
        squeezed = len(compress(to_planes(sample, unit)))
        if squeezed < least:
            coding, least = Coding.XOR_ZSTD, squeezed
    return coding if helps(least, sample.size) else Coding.FULL


def sample_of_planes(planes: np.ndarray) -> list[int]:
    """The bytes of each plane (uint8[n] of uint8[unit, n]), were all like a sample of it."""
    count = planes.shape[1]
    size = min(_PLANE_SAMPLE_BYTES, count)
    step = (count - size) // (_SAMPLES - 1)
    starts = sorted({step * i for i in range(_SAMPLES)})
    sample = np.concatenate([planes[:, s : s + size] for s in starts], axis=1)
    return [len(compress(plane.data)) * count // plane.size for plane in sample]


def helps(size: int, nbytes: int) -> bool:
    """Whether ``size`` is little enough to be worth the compression of ``nbytes``."""
    return size <= _COMPRESS_BELOW * nbytes
