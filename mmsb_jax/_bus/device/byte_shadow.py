"""The shadow that is the bytes: the lines of the pieces of a device, compared word by word."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmsb_jax._bus.device.device_shadow import (
    DeviceScan,
    DeviceShadow,
    Received,
    Request,
    chunks_of,
    groups_of,
    parts_of,
)
from mmsb_jax._bus.device.pieces import Piece
from mmsb_jax._bus.device.programs import cut, find, rank_wanted, seed, take_words
from mmsb_jax._bus.device.transfer import fetch, start_fetch
from mmsb_jax._store.commit.draft import WordPatch
from mmsb_jax.kernels import LINE_WORDS


class ByteShadow(DeviceShadow):
    """The state as it was committed last.

    Args:
        device: the device.
        pieces: the pieces.
        arrays: what they are now.
    """

    unit_words = 1
    needs_arrays = False

    def __init__(self, device: Any, pieces: Sequence[Piece], arrays: Sequence[jax.Array]) -> None:
        super().__init__(device, pieces)
        self._lines = jax.device_put(seed(list(arrays)), device)
        self._bits = jax.device_put(np.zeros(self.firsts[-1], np.uint32), device)
        self.nbytes = self._lines.nbytes + self._bits.nbytes

    def find(self, arrays: Mapping[int, jax.Array]) -> DeviceScan:
        """As of the class."""
        counts = jax.device_put(np.zeros(len(self.pieces), np.int32), self.device)
        for group in groups_of(arrays):
            places = np.array([(self.firsts[k], k) for k in group], np.int32)
            self._lines, self._bits, counts = find(
                self._lines, self._bits, counts, places, [arrays[k] for k in group]
            )
        return DeviceScan(self, start_fetch(counts))

    def request(self, scan: DeviceScan, found: np.ndarray, is_dense: np.ndarray) -> Request:
        """As of the class; of the shadow, which has what the arrays had."""
        del scan
        request = Request()
        for k in is_dense.nonzero()[0].tolist():
            request.wholes[k] = [
                start_fetch(cut(self._lines, np.int32(first), lines))
                for first, lines in parts_of(self.firsts[k], self.lines[k])
            ]
        is_wanted = (found > 0) & ~is_dense
        request.total = int(found[is_wanted].sum(dtype=np.int64))
        if request.total:
            ranked = rank_wanted(self._bits, is_wanted, np.array(self.firsts, np.int32))
            for start, size in chunks_of(request.total):
                taken = take_words(self._lines, ranked, np.int32(start), size)
                request.words.append((start_fetch(taken[0]), start_fetch(taken[1])))
        return request

    def _receive_words(self, request: Request, received: Received) -> None:
        pairs = [(fetch(words), fetch(values)) for words, values in request.words]
        received.moved_bytes += sum(words.nbytes + values.nbytes for words, values in pairs)
        words, values = (np.concatenate(part) for part in zip(*pairs, strict=True))
        part = slice(request.total)
        self._share_out(words[part], values[part], received.patches)

    def _share_out(
        self, words: np.ndarray, values: np.ndarray, patches: dict[int, WordPatch]
    ) -> None:
        """Words of the shadow, ascending, as patches of the pieces that they are of."""
        firsts = np.array(self.firsts, np.int64) * LINE_WORDS
        words = words.astype(np.int64)
        bounds = np.searchsorted(words, firsts).tolist()
        for k, (start, stop) in enumerate(itertools.pairwise(bounds)):
            if stop > start:
                place = words[start:stop] - firsts[k]
                patches[k] = self.pieces[k].patch(place, values[start:stop])
