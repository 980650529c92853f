"""Bytes of the host as words, the unit of storage. Imports nothing heavy."""

import numpy as np

WORD_BYTES = 4


def host_words(raw: np.ndarray) -> np.ndarray:
    """The bytes of an array (uint8[n]) as words (uint32), the last one filled with zeros.

    Cost: nothing where n is a multiple of 4; else one copy.
    """
    if raw.size % WORD_BYTES == 0:
        return raw.view(np.uint32)
    words = np.zeros(-(-raw.size // WORD_BYTES), np.uint32)
    words.view(np.uint8)[: raw.size] = raw
    return words
