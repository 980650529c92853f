"""Shadows: what was committed last, kept where the arrays are, and what differs from it."""

import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from mmsb_jax._bus.device.pieces import Piece, merged, pieces_of, together
from mmsb_jax._bus.device.programs import cut, find, lines_of, rank_wanted, seed, take_words
from mmsb_jax._bus.device.transfer import fetch, start_fetch
from mmsb_jax._core.settings import any_settings
from mmsb_jax._store.commit.draft import ArrayContent, WordPatch
from mmsb_jax.kernels import LINE_WORDS

MOST_LINES = 1 << 27
"""Lines of the shadow of a device: 16 GiB, whose words an uint32 counts."""
_DENSE = 4
"""An array of which more than this part of its words changed comes to the host whole."""
_TOGETHER = 8
"""So many arrays of one shape are compared by one program."""
_LEAST_WORDS = 1 << 8
_MOST_WORDS = 1 << 20
_CUT_LINES = 1 << 19
"""A whole array comes in parts of 64 MB."""


@dataclass(slots=True, eq=False)
class _Request:
    """What one device was asked for: patches and whole pieces, on their way to the host."""

    words: list[tuple[Any, Any]] = field(default_factory=list)
    total: int = 0
    wholes: dict[int, list[Any]] = field(default_factory=dict)


class DeviceShadow:
    """The shadow of the pieces that lie on one device.

    Args:
        device: the device.
        pieces: the pieces.
        arrays: what they are now.

    Attributes:
        pieces: the pieces, in the order in which they stand in it.
        nbytes: its bytes.
    """

    def __init__(self, device: Any, pieces: Sequence[Piece], arrays: Sequence[jax.Array]) -> None:
        self.device = device
        self.pieces = pieces
        self._sizes = tuple(lines_of(piece.nbytes) for piece in pieces)
        self._firsts = list(itertools.accumulate(self._sizes, initial=0))
        self._lines = jax.device_put(seed(list(arrays)), device)
        self._bits = jax.device_put(np.zeros(self._firsts[-1], np.uint32), device)
        self.nbytes = self._lines.nbytes + self._bits.nbytes

    def find(self, arrays: Mapping[int, jax.Array]) -> "_Scan":
        """Compare some pieces, by their numbers, with what they are now; it follows them."""
        counts = jax.device_put(np.zeros(len(self.pieces), np.int32), self.device)
        for group in _groups(arrays):
            places = np.array([(self._firsts[k], k) for k in group], np.int32)
            self._lines, self._bits, counts = find(
                self._lines, self._bits, counts, places, [arrays[k] for k in group]
            )
        return _Scan(self, start_fetch(counts))

    def request(self, found: np.ndarray, is_dense: np.ndarray) -> "_Request":
        """Ask for the words that differ, and for all of the pieces that are dense.

        Args:
            found: how many words of each piece differ; 0 for one that was not compared.
            is_dense: which pieces are to come whole.
        """
        request = _Request()
        for k in is_dense.nonzero()[0].tolist():
            request.wholes[k] = [
                start_fetch(cut(self._lines, np.int32(first), lines))
                for first, lines in _parts(self._firsts[k], self._sizes[k])
            ]
        is_wanted = (found > 0) & ~is_dense
        request.total = int(found[is_wanted].sum(dtype=np.int64))
        if request.total:
            ranked = rank_wanted(self._bits, is_wanted, self._sizes)
            for start, size in _chunks(request.total):
                taken = take_words(self._lines, ranked, np.int32(start), size)
                request.words.append((start_fetch(taken[0]), start_fetch(taken[1])))
        return request

    def receive(self, request: "_Request") -> "_Received":
        """What was asked for, once it is there."""
        received = _Received()
        for k, parts in request.wholes.items():
            raws = [fetch(part).reshape(-1).view(np.uint8) for part in parts]
            raw = raws[0] if len(raws) == 1 else np.concatenate(raws)
            received.wholes[k] = raw[: self.pieces[k].nbytes]
            received.moved_bytes += raw.nbytes
        if request.total:
            pairs = [(fetch(words), fetch(values)) for words, values in request.words]
            received.moved_bytes += sum(words.nbytes + values.nbytes for words, values in pairs)
            words, values = (np.concatenate(part) for part in zip(*pairs, strict=True))
            part = slice(request.total)
            self._share_out(words[part], values[part], received.patches)
        return received

    def _share_out(
        self, words: np.ndarray, values: np.ndarray, patches: dict[int, WordPatch]
    ) -> None:
        """Words of the shadow, ascending, as patches of the pieces that they are of."""
        firsts = np.array(self._firsts, np.int64) * LINE_WORDS
        words = words.astype(np.int64)
        bounds = np.searchsorted(words, firsts).tolist()
        for k, (start, stop) in enumerate(itertools.pairwise(bounds)):
            if stop > start:
                place = words[start:stop] - firsts[k]
                patches[k] = self.pieces[k].patch(place, values[start:stop])


@dataclass(slots=True, eq=False)
class _Scan:
    """What a device found: the changed words of each of its pieces, on their way to the host."""

    shadow: DeviceShadow
    counts: Any


@dataclass(slots=True, eq=False)
class _Received:
    """What came of one device, by the numbers of its pieces."""

    patches: dict[int, WordPatch] = field(default_factory=dict)
    wholes: dict[int, np.ndarray] = field(default_factory=dict)
    moved_bytes: int = 0


def _groups(arrays: Mapping[int, jax.Array]) -> Iterable[list[int]]:
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


def _parts(first: int, lines: int) -> Iterable[tuple[int, int]]:
    for start in range(0, lines, _CUT_LINES):
        yield first + start, min(_CUT_LINES, lines - start)


def _chunks(total: int) -> Iterable[tuple[int, int]]:
    """Start and size of what is taken at a time: of few sizes, and not much more than there is."""
    start = 0
    while start < total:
        left = total - start
        size = 1 << (left - 1).bit_length()
        if 3 * size > 4 * left:
            size //= 2
        size = min(max(size, _LEAST_WORDS), _MOST_WORDS)
        yield start, size
        start += size


class FoundChanges:
    """What a commit changes on devices: found, and to be brought to the host once.

    Attributes:
        leaves: the leaves that were compared.
        is_requested: set once nothing that was found stays where the next comparison writes.
        moved_bytes: bytes that came to the host; known behind `contents`.
    """

    def __init__(self, scans: Sequence[_Scan], leaves: Sequence[int]) -> None:
        self._scans = scans
        self.leaves = leaves
        self.is_requested = threading.Event()
        self.moved_bytes = 0

    def contents(self) -> dict[int, ArrayContent]:
        """What the leaves with a change become."""
        try:
            with any_settings():
                return self._contents()
        finally:
            self.is_requested.set()

    def _contents(self) -> dict[int, ArrayContent]:
        counts = [fetch(scan.counts) for scan in self._scans]
        self.moved_bytes += sum(found.nbytes for found in counts)
        dense = _dense(self._scans, counts)
        requests = []
        for scan, found in zip(self._scans, counts, strict=True):
            is_dense = np.array([piece.leaf in dense for piece in scan.shadow.pieces])
            requests.append(scan.shadow.request(found, is_dense))
        self.is_requested.set()
        patches, wholes = dict[int, list[WordPatch]](), dict[int, list[Any]]()
        for scan, request in zip(self._scans, requests, strict=True):
            received = scan.shadow.receive(request)
            self.moved_bytes += received.moved_bytes
            for k, patch in received.patches.items():
                patches.setdefault(scan.shadow.pieces[k].leaf, []).append(patch)
            for k, raw in received.wholes.items():
                piece = scan.shadow.pieces[k]
                wholes.setdefault(piece.leaf, []).append((piece, raw))
        contents: dict[int, ArrayContent] = {leaf: merged(parts) for leaf, parts in patches.items()}
        for leaf, parts in wholes.items():
            contents[leaf] = together(*zip(*parts, strict=True))
        return contents

    def forget(self) -> None:
        """Nobody asks for it any more."""
        self.is_requested.set()


class Shadow:
    """What was committed last of the arrays on devices.

    Args:
        data: the data leaves of a tree; those that are no arrays of JAX are left out.

    Attributes:
        leaves: which of them it has.
        nbytes: its bytes on devices.
        version: the commit that it is of; None as long as that has not landed.
    """

    def __init__(self, data: Sequence[Any]) -> None:
        places: dict[Any, list[tuple[Piece, jax.Array]]] = {}
        for device, piece, array in pieces_in(data):
            places.setdefault(device, []).append((piece, array))
        left_out = set[int]()
        for parts in places.values():
            left_out |= {piece.leaf for piece in _beyond([piece for piece, _ in parts])}
        self._shadows, self._where = [], dict[int, list[tuple[DeviceShadow, int]]]()
        self._shardings: dict[int, Any] = {}
        with any_settings():
            for device, parts in places.items():
                kept = [part for part in parts if part[0].leaf not in left_out]
                if kept:
                    pieces, arrays = zip(*kept, strict=True)
                    shadow = DeviceShadow(device, pieces, arrays)
                    self._shadows.append(shadow)
                    for k, piece in enumerate(pieces):
                        self._where.setdefault(piece.leaf, []).append((shadow, k))
        self.leaves = frozenset(self._where)
        for leaf in self.leaves:
            self._shardings[leaf] = data[leaf].sharding
        self.nbytes = sum(shadow.nbytes for shadow in self._shadows)
        self.version: int | None = None
        self._newest: FoundChanges | None = None
        self._is_whole = True

    def takes(self, data: Sequence[Any], places: Iterable[int]) -> bool:
        """Whether the leaves at ``places`` that it has lie where they lay."""
        if not self._is_whole:
            return False
        known = self._shardings
        return all(
            data[i].sharding == known[i] and not data[i].is_deleted() for i in places if i in known
        )

    def find(self, data: Sequence[Any], places: Iterable[int]) -> FoundChanges:
        """Compare the leaves at ``places`` with it; it follows them. The caller may donate then.

        What the commit before found must have been asked for: this waits for that.
        """
        if self._newest is not None:
            self._newest.is_requested.wait()
        leaves = [i for i in places if i in self.leaves]
        asked: dict[DeviceShadow, dict[int, jax.Array]] = {}
        for leaf in leaves:
            shards = {shard.device: shard.data for shard in data[leaf].addressable_shards}
            for shadow, k in self._where[leaf]:
                asked.setdefault(shadow, {})[k] = shards[shadow.device]
        self._is_whole, self.version = False, None  # until all of it has followed; until it lands
        with any_settings():
            scans = [shadow.find(arrays) for shadow, arrays in asked.items()]
        self._is_whole = True
        self._newest = FoundChanges(scans, leaves)
        return self._newest


def pieces_in(data: Sequence[Any]) -> Iterator[tuple[Any, Piece, jax.Array]]:
    """`pieces_of` the leaves that lie in the memory where their devices compute."""
    for i, leaf in enumerate(data):
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable and leaf.size:
            default = next(iter(leaf.devices())).default_memory().kind
            if leaf.sharding.memory_kind in (None, default):
                yield from pieces_of(i, leaf)


def _beyond(pieces: Sequence[Piece]) -> Iterable[Piece]:
    """Those of the pieces of a device for which its shadow has no room."""
    lines = 0
    for piece in pieces:
        if lines + lines_of(piece.nbytes) > MOST_LINES:
            yield piece
        else:
            lines += lines_of(piece.nbytes)


def _dense(scans: Sequence[_Scan], counts: Sequence[np.ndarray]) -> set[int]:
    """The leaves of which so much changed that they come whole."""
    changed, words = dict[int, int](), dict[int, int]()
    for scan, found in zip(scans, counts, strict=True):
        for piece, count in zip(scan.shadow.pieces, found.tolist(), strict=True):
            changed[piece.leaf] = changed.get(piece.leaf, 0) + count
            words[piece.leaf] = words.get(piece.leaf, 0) + piece.words
    return {leaf for leaf, count in changed.items() if count * _DENSE > words[leaf]}
