"""Which encoding: a fixed rule, from counts and a sample."""

import numpy as np

from mmsb_jax._store.encoding.base import compress, to_planes
from mmsb_jax._store.format.chunk import Coding

_COMPRESS_BELOW = 0.85
"""A dense record is compressed when a sample shrinks below this share of its size."""
_SAMPLES, _SAMPLE_BYTES = 4, 1 << 12


def prefers_sparse(items: int, unit: int, nbytes: int) -> bool:
    """The rule: sparse when it takes less than half of the array's bytes, a gap being a byte."""
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
    return coding if least <= _COMPRESS_BELOW * sample.size else Coding.FULL
