"""Few changed words of a small array, found and encoded by numbers of Python.

Most of what a bus lands while it runs is of this kind: a `write`, a delta, a small derived array.
NumPy's calls cost more than a few numbers do.
"""

import operator
import struct
from typing import NamedTuple

import numpy as np

from mmsb_jax._store.encoding.base import unit_of_dtype
from mmsb_jax._store.encoding.choose import prefers_sparse
from mmsb_jax._store.encoding.digest import FEW_WORDS, Lanes, add, gained_by_few
from mmsb_jax._store.encoding.sparse import count_few, few_chunk
from mmsb_jax._store.format.record import ArrayInfo
from mmsb_jax._store.state.state import StoredState

_PACKERS = [struct.Struct(f"<{count}I").pack for count in range(FEW_WORDS + 1)]

MOST_BYTES = 1 << 16
"""Of a small array."""


class SmallArray:
    """A small array of a head, with what it takes to change a few of its words.

    It is good as long as the table of arrays is as it was.

    Args:
        state: the state of the head.
        info: the array; of at most `MOST_BYTES` bytes.
        page_bytes: bytes of a page.
    """

    __slots__ = ("info", "key", "nbytes", "page_words", "schema", "unit", "versions", "words")

    def __init__(self, state: StoredState, info: ArrayInfo, page_bytes: int) -> None:
        self.info = info
        self.key = info.id
        self.nbytes = info.nbytes
        self.unit = unit_of_dtype(info.dtype)
        self.schema = info.schema()
        self.words = state.words[info.id]
        self.versions = state.page_versions[info.id]
        self.page_words = page_bytes // 4

    def becoming(self, new: np.ndarray) -> "NewWords":
        """``new`` (uint32[n]) as its words to be, compared with those that it has."""
        return NewWords(self, new, (self.words != new).nonzero()[0])


class NewWords(NamedTuple):
    """What a small array is to become.

    Attributes:
        array: the array.
        words: all of its words after (uint32[n]).
        places: those that differ (int64[m], ascending).
    """

    array: SmallArray
    words: np.ndarray
    places: np.ndarray


class FewWords:
    """What a commit does to a few words of a small array.

    Args:
        array: the array.
        places: which words (int64[m]), 1 to `FEW_WORDS` of them, ascending.
        values: what they are after (uint32[m]).

    Attributes:
        is_sparse: whether it is written element by element; if not, what follows is not known.
        changed_bytes: bytes that differ.
        gained: what the digest gains.
        chunk: its chunk.
    """

    __slots__ = ("array", "changed_bytes", "chunk", "gained", "is_sparse", "places", "values")

    def __init__(self, array: SmallArray, places: np.ndarray, values: np.ndarray) -> None:
        self.array = array
        self.places = places
        self.values = values
        index, after, before = places.tolist(), values.tolist(), array.words[places].tolist()
        mixed = list(map(operator.xor, before, after))
        unit = array.unit
        items, self.changed_bytes = count_few(_PACKERS[len(mixed)](*mixed), unit)
        self.is_sparse = prefers_sparse(items, unit, array.nbytes)
        if self.is_sparse:
            self.gained: Lanes = gained_by_few(before, after, index)
            self.chunk = few_chunk(index, after, mixed, unit)

    def lanes(self, before: Lanes) -> Lanes:
        """The digest after it."""
        return add(before, self.gained)

    def put(self, version: int) -> None:
        """Change the words of the head, and note the version of their pages."""
        array = self.array
        array.words[self.places] = self.values
        if array.versions.size == 1:
            array.versions[0] = version
        else:
            array.versions[self.places // array.page_words] = version
