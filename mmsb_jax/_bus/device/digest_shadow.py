"""The shadow that is a digest: two lanes a line, a sixteenth of the state, compared by lines."""

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
from mmsb_jax._bus.device.programs import cut_lines, find_lines, take_lines
from mmsb_jax._bus.device.transfer import fetch, start_fetch
from mmsb_jax.kernels import LINE_WORDS


class DigestShadow(DeviceShadow):
    """The digest of each line as it was committed last. A line changes unseen once in 2⁶⁴.

    Args:
        device: the device.
        pieces: the pieces.
        arrays: what they are now.
        key: other keys give other digests (uint32[2]).
    """

    unit_words = LINE_WORDS
    needs_arrays = True

    def __init__(
        self, device: Any, pieces: Sequence[Piece], arrays: Sequence[jax.Array], key: np.ndarray
    ) -> None:
        super().__init__(device, pieces)
        self._key = key
        none = np.zeros(self.firsts[-1], np.uint32)
        self._lanes = jax.device_put((none, none), device)
        self._flags = jax.device_put(none.astype(np.uint8), device)
        self.nbytes = 2 * none.nbytes + none.size
        self.find(dict(enumerate(arrays)))

    def find(self, arrays: Mapping[int, jax.Array]) -> DeviceScan:
        """As of the class."""
        counts = jax.device_put(np.zeros(len(self.pieces), np.int32), self.device)
        for group in groups_of(arrays):
            places = np.array([(self.firsts[k], k) for k in group], np.int32)
            self._lanes, self._flags, counts = find_lines(
                self._lanes, self._flags, counts, self._key, places, [arrays[k] for k in group]
            )
        return DeviceScan(self, start_fetch(counts), arrays)

    def request(self, scan: DeviceScan, found: np.ndarray, is_dense: np.ndarray) -> Request:
        """As of the class; of the arrays, since a digest has nothing of what it is of."""
        request = Request()
        for k, array in scan.arrays.items():
            if is_dense[k]:
                parts = parts_of(0, self.lines[k])
                request.wholes[k] = [
                    start_fetch(cut_lines(array, np.int32(first), lines)) for first, lines in parts
                ]
            elif found[k]:
                first = np.int32(self.firsts[k])
                for start, size in chunks_of(int(found[k]), self.unit_words):
                    taken = take_lines(array, self._flags, first, np.int32(start), size)
                    count = min(size, int(found[k]) - start)
                    request.words.append((k, count, *map(start_fetch, taken)))
        return request

    def _receive_words(self, request: Request, received: Received) -> None:
        parts: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        for k, count, lines, values in request.words:
            pair = fetch(lines), fetch(values)
            received.moved_bytes += sum(array.nbytes for array in pair)
            parts.setdefault(k, []).append((pair[0][:count], pair[1][:count]))
        for k, pairs in parts.items():
            piece = self.pieces[k]
            lines, values = (np.concatenate(part) for part in zip(*pairs, strict=True))
            words = lines.astype(np.int64)[:, None] * LINE_WORDS + np.arange(LINE_WORDS)
            is_in = words < piece.words
            received.patches[k] = piece.patch(words[is_in], values[is_in])
