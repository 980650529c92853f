"""What one device keeps of the state, and what it is asked for: in two forms, a file each."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from mmsb_jax._bus.device.pieces import Piece
from mmsb_jax._bus.device.programs import lines_of
from mmsb_jax._bus.device.transfer import fetch
from mmsb_jax._store.commit.draft import WordPatch

_TOGETHER = 8
"""So many arrays of one shape are compared by one program."""
_CUT_LINES = 1 << 19
"""A whole array comes in parts of 64 MB."""
_LEAST_WORDS = 1 << 8
_MOST_WORDS = 1 << 20
"""Words that are taken at a time."""


@dataclass(slots=True, eq=False)
class DeviceScan:
    """What a device found: what differs in each of its pieces, on its way to the host.

    Attributes:
        shadow: what it was compared with.
        counts: how many units differ; 0 of a piece that was not compared.
        arrays: what was compared, as far as it is still needed.
    """

    shadow: "DeviceShadow"
    counts: Any
    arrays: Mapping[int, jax.Array] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Request:
    """What one device was asked for, on its way to the host.

    Attributes:
        words: places and values of changed words, as the form of shadow has them.
        total: how many of them there are.
        wholes: number of a piece → its parts.
    """

    words: list[Any] = field(default_factory=list)
    total: int = 0
    wholes: dict[int, list[Any]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Received:
    """What came of one device, by the numbers of its pieces."""

    patches: dict[int, WordPatch] = field(default_factory=dict)
    wholes: dict[int, np.ndarray] = field(default_factory=dict)
    moved_bytes: int = 0


class DeviceShadow(ABC):
    """What is kept of the pieces that lie on one device.

    Args:
        device: the device.
        pieces: the pieces.

    Attributes:
        device: the device.
        pieces: the pieces, in the order in which they stand in it.
        lines: lines of each.
        firsts: where each begins, and where the last ends.
        nbytes: its bytes.
        unit_words: words of what it tells apart.
        needs_arrays: whether what changed is taken from the arrays that were compared, so that it
            has to be asked for before the caller may donate them.
    """

    unit_words: int
    needs_arrays: bool

    def __init__(self, device: Any, pieces: Sequence[Piece]) -> None:
        self.device = device
        self.pieces = pieces
        self.lines = tuple(lines_of(piece.nbytes) for piece in pieces)
        self.firsts = list(itertools.accumulate(self.lines, initial=0))
        self.nbytes = 0

    @abstractmethod
    def find(self, arrays: Mapping[int, jax.Array]) -> DeviceScan:
        """Compare some pieces, by their numbers, with what they are now; it follows them."""

    @abstractmethod
    def request(self, scan: DeviceScan, found: np.ndarray, is_dense: np.ndarray) -> Request:
        """Ask for what differs, and for all of the pieces that are dense.

        Args:
            scan: what `find` gave.
            found: its counts.
            is_dense: which pieces are to come whole.
        """

    def receive(self, request: Request) -> Received:
        """What was asked for, once it is there."""
        received = Received()
        for k, parts in request.wholes.items():
            raws = [fetch(part).reshape(-1).view(np.uint8) for part in parts]
            raw = raws[0] if len(raws) == 1 else np.concatenate(raws)
            received.wholes[k] = raw[: self.pieces[k].nbytes]
            received.moved_bytes += raw.nbytes
        if request.words:
            self._receive_words(request, received)
        return received

    @abstractmethod
    def _receive_words(self, request: Request, received: Received) -> None:
        """Take up the changed words that were asked for."""


def groups_of(arrays: Mapping[int, jax.Array]) -> Iterable[list[int]]:
    """Arrays of one shape and dtype, so many together that there are few sizes of groups."""
    alike: dict[Any, list[int]] = {}
    for k, array in arrays.items():
        alike.setdefault((array.shape, array.dtype), []).append(k)
    for numbers in alike.values():
        start = 0
        while start < len(numbers):
            size = min(_TOGETHER, 1 << (len(numbers) - start).bit_length() - 1)
            yield numbers[start : start + size]
            start += size


def parts_of(first: int, lines: int) -> Iterable[tuple[int, int]]:
    """First line and lines of each part in which a whole piece comes."""
    for start in range(0, lines, _CUT_LINES):
        yield first + start, min(_CUT_LINES, lines - start)


def chunks_of(total: int, unit_words: int = 1) -> Iterable[tuple[int, int]]:
    """Start and size of what is taken at a time: of few sizes, and not much more than there is."""
    least, most = _LEAST_WORDS // unit_words, _MOST_WORDS // unit_words
    start = 0
    while start < total:
        left = total - start
        size = 1 << (left - 1).bit_length()
        if 3 * size > 4 * left:
            size //= 2
        size = min(max(size, least), most)
        yield start, size
        start += size
