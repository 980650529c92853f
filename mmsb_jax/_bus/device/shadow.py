"""Shadows: what was committed last, kept where the arrays are, and what differs from it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from mmsb_jax._bus.device.byte_shadow import ByteShadow
from mmsb_jax._bus.device.device_shadow import DeviceScan, DeviceShadow, Request
from mmsb_jax._bus.device.digest_shadow import DigestShadow
from mmsb_jax._bus.device.pieces import Piece, merged, pieces_of, together
from mmsb_jax._bus.device.programs import lines_of, without_wide_types
from mmsb_jax._bus.device.transfer import fetch
from mmsb_jax._core.settings import any_settings
from mmsb_jax._core.tree.leaves import is_deleted
from mmsb_jax._store.commit.draft import ArrayContent, WordPatch
from mmsb_jax._store.files.threads import Outcome

MOST_LINES = 1 << 27
"""Lines of the shadow of a device: 16 GiB, whose words an uint32 counts."""
_DENSE = 4
"""An array of which more than this part of its words changed comes to the host whole."""


class FoundChanges:
    """What a commit changes on devices: found, and to be brought to the host once.

    Attributes:
        leaves: the leaves that were compared.
        is_requested: done once nothing that was found stays where the next comparison writes.
        moved_bytes: bytes that came to the host; known behind `contents`.
    """

    def __init__(self, scans: Sequence[DeviceScan], leaves: Sequence[int]) -> None:
        self._scans = scans
        self._requests: list[Request] = []
        self.leaves = leaves
        self.is_requested = Outcome()
        self.moved_bytes = 0

    def contents(self) -> dict[int, ArrayContent]:
        """What the leaves with a change become."""
        try:
            with apart():
                return self._contents()
        finally:
            self.is_requested.resolve(None)

    def request(self) -> None:
        """Ask for what was found, once the devices have counted it."""
        counts = [fetch(scan.counts) for scan in self._scans]
        self.moved_bytes += sum(found.nbytes for found in counts)
        dense = _dense(self._scans, counts)
        for scan, found in zip(self._scans, counts, strict=True):
            is_dense = np.array([piece.leaf in dense for piece in scan.shadow.pieces])
            self._requests.append(scan.shadow.request(scan, found, is_dense))
            scan.arrays = {}
        self.is_requested.resolve(None)

    def _contents(self) -> dict[int, ArrayContent]:
        if not self.is_requested.done():
            self.request()
        patches, wholes = dict[int, list[WordPatch]](), dict[int, list[Any]]()
        for scan, request in zip(self._scans, self._requests, strict=True):
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
        self.is_requested.resolve(None)


class Shadow:
    """What was committed last of the arrays on devices.

    Args:
        data: the data leaves of a tree; those that are no arrays of JAX are left out.
        key: for a shadow of digests, the key of these; None for one of the bytes.

    Attributes:
        leaves: which of them it has.
        nbytes: its bytes on devices.
        version: the commit that it is of; None as long as that has not landed.
        is_queued: whether that commit is in the queue. One that is neither landed nor queued was
            cut short, and nobody knows what this is of.
        is_exact: whether it tells all bytes apart.
        audited: snapshots that had begun when it was known to be right.
    """

    def __init__(self, data: Sequence[Any], key: np.ndarray | None = None) -> None:
        places: dict[Any, list[tuple[Piece, jax.Array]]] = {}
        for device, piece, array in pieces_in(data):
            places.setdefault(device, []).append((piece, array))
        left_out = set[int]()
        for parts in places.values():
            left_out |= {piece.leaf for piece in _beyond([piece for piece, _ in parts])}
        self._shadows, self._where = [], dict[int, list[tuple[DeviceShadow, int]]]()
        self._shardings: dict[int, Any] = {}
        with apart():
            for device, parts in places.items():
                kept = [part for part in parts if part[0].leaf not in left_out]
                if kept:
                    pieces = [piece for piece, _ in kept]
                    arrays = [without_wide_types(array) for _, array in kept]
                    shadow: DeviceShadow = (
                        ByteShadow(device, pieces, arrays)
                        if key is None
                        else DigestShadow(device, pieces, arrays, key)
                    )
                    self._shadows.append(shadow)
                    for k, piece in enumerate(pieces):
                        self._where.setdefault(piece.leaf, []).append((shadow, k))
        self.leaves = frozenset(self._where)
        for leaf in self.leaves:
            self._shardings[leaf] = data[leaf].sharding
        self.nbytes = sum(shadow.nbytes for shadow in self._shadows)
        self.version: int | None = None
        self.is_queued = False
        self.is_exact = key is None
        self.audited = 0
        self._newest: FoundChanges | None = None

    def takes(self, data: Sequence[Any], places: Iterable[int]) -> bool:
        """Whether the leaves at ``places`` that it has lie where they lay."""
        known = self._shardings
        return all(
            data[i].sharding == known[i] and not is_deleted(data[i]) for i in places if i in known
        )

    def land(self, found: FoundChanges | None, version: int) -> None:
        """The commit of what was found has landed; that of the shadow, if it was found last."""
        if found is self._newest:
            self.version = version

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
                asked.setdefault(shadow, {})[k] = without_wide_types(shards[shadow.device])
        # Until it lands, or is in the queue: cut short here, not all of it has followed.
        self.version, self.is_queued = None, False
        with apart():
            scans = [shadow.find(arrays) for shadow, arrays in asked.items()]
        self._newest = FoundChanges(scans, leaves)
        if any(shadow.needs_arrays for shadow in asked):
            with apart():
                self._newest.request()
        return self._newest


@contextmanager
def apart() -> Iterator[None]:
    """Inside, neither the user's settings of JAX nor what is being traced count."""
    with (
        any_settings(),
        jax.enable_x64(False),
        jax.disable_jit(False),
        jax.ensure_compile_time_eval(),
    ):
        yield


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


def _dense(scans: Sequence[DeviceScan], counts: Sequence[np.ndarray]) -> set[int]:
    """The leaves of which so much changed that they come whole."""
    changed, words = dict[int, int](), dict[int, int]()
    for scan, found in zip(scans, counts, strict=True):
        for piece, count in zip(scan.shadow.pieces, found.tolist(), strict=True):
            changed[piece.leaf] = changed.get(piece.leaf, 0) + count * scan.shadow.unit_words
            words[piece.leaf] = words.get(piece.leaf, 0) + piece.words
    return {leaf for leaf, count in changed.items() if count * _DENSE > words[leaf]}
