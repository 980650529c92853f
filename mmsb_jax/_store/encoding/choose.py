"""Which encoding: a fixed rule, from counts and a sample."""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from mmsb_jax._store.encoding.base import compress

_COMPRESS_BELOW = 0.85
"""What is compressed, is where a sample shrinks below this share of its size."""
_SAMPLES, _SAMPLE_ITEMS = 4, 1 << 9


@overload
def prefers_sparse(items: int, unit: int, nbytes: int) -> bool: ...
@overload
def prefers_sparse(items: np.ndarray, unit: int, nbytes: np.ndarray) -> np.ndarray: ...
def prefers_sparse(items: Any, unit: int, nbytes: Any) -> Any:
    """The rule: sparse when it takes less than half of the array's bytes, a gap being a byte.

    Of several arrays, their ``items`` and ``nbytes`` in columns, for each (bool[k]).
    """
    return 2 * items * (unit + 1) < nbytes


def sample_spans(nbytes: int, unit: int) -> list[slice]:
    """The pieces of ``nbytes`` bytes that a sample is made of, whole elements."""
    items = nbytes // unit
    size = min(_SAMPLE_ITEMS, items)
    step = (items - size) // (_SAMPLES - 1)
    starts = sorted({step * i for i in range(_SAMPLES)})
    return [slice(start * unit, (start + size) * unit) for start in starts]


def sample_sizes(pieces: Sequence[np.ndarray], unit: int) -> list[int]:
    """The bytes of each plane of a sample, compressed."""
    sample = b"".join([piece.tobytes() for piece in pieces])
    return [len(compress(sample[plane::unit])) for plane in range(unit)]


def helps(size: int, nbytes: int) -> bool:
    """Whether ``size`` is little enough to be worth the compression of ``nbytes``."""
    return size <= _COMPRESS_BELOW * nbytes
