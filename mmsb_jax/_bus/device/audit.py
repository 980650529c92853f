"""The audit of a shadow that is a digest: what it saw beside what there is."""

import warnings
from collections.abc import Iterable, Mapping

import numpy as np

from mmsb_jax._base.words import host_words
from mmsb_jax._store.commit.draft import ArrayContent
from mmsb_jax._store.state.state import StoredState


def missed(
    state: StoredState,
    ids: Mapping[int, int],
    seen: Mapping[int, ArrayContent],
    whole: Mapping[int, np.ndarray],
) -> list[int]:
    """The leaves that are not what they were with what was seen of them.

    Args:
        state: before the commit.
        ids: leaf → array, of those that were compared.
        seen: leaf → what was seen to change.
        whole: leaf → its bytes now.
    """
    return [
        leaf
        for leaf, array in ids.items()
        if not np.array_equal(
            _expected(state.words[array], seen.get(leaf)), host_words(whole[leaf])
        )
    ]


def _expected(before: np.ndarray, content: ArrayContent | None) -> np.ndarray:
    if content is None:
        return before
    if isinstance(content, np.ndarray):
        return host_words(content)
    words, mask, data = content
    after = before.copy()
    after[words] = (after[words] & ~mask) | (data & mask)
    return after


def warn_of(names: Iterable[str]) -> None:
    """Say that a shadow has missed changes."""
    warnings.warn(
        f"shadow='digest' has missed changes of {', '.join(map(repr, names))}: versions since the "
        f"last snapshot may have the bytes from before. This commit has the right ones again. With "
        f"shadow='bytes' every byte is compared.",
        RuntimeWarning,
        stacklevel=2,
    )
