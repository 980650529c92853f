"""The digest of the arrays in a pool: two sums of a strong mix over words, per array.

The same numbers as `mmsb_jax._store.encoding.digest` gives on the host, where the mix is described.
Being sums, they follow from the changed words alone, and survive a move of the array in the pool.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ops import segment_sum
from jaxtyping import Array, UInt32

from mmsb_jax._base.arguments import show
from mmsb_jax._base.digest_mix import GOLDEN, SALT
from mmsb_jax._core.delta import (
    LINE_WORDS,
    Delta,
    _take,
    as_page_number,
    check_pages_and_delta,
    check_whole,
    rows_inside,
)
from mmsb_jax._core.layout import Layout, check_pages, check_part
from mmsb_jax._core.pages import Pages
from mmsb_jax._core.settings import any_settings
from mmsb_jax.kernels.xla import mix, sums_of_rows


def digest(pages: Pages, layout: Layout, first_page: Any = None) -> UInt32[Array, "regions 2"]:
    """The digest of every array: ``uint32[regions, 2]``, in the order of ``layout.regions``.

    It finds drift and damage; it is not a signature.

    Args:
        pages: the pages.
        layout: where the arrays stand in them.
        first_page: number of the first of these pages, where they are a part of the pool; None for
            all of it. The digests of all parts add up to that of the whole: under ``shard_map``,
            ``jax.lax.psum(digest(part, layout, first), name)``.

    Raises:
        StructureError: the pages are not of this layout.

    Cost: one pass over the pool.
    """
    if first_page is None:
        check_pages(layout, pages)
        first_page = 0
    else:
        check_part(layout, pages)
    owner, start = _places(layout)
    number = as_page_number(first_page)
    with any_settings():
        return _digest(pages.words, owner, start, number, len(layout.regions))


def update_digest(
    before: UInt32[Array, "regions 2"], pages: Pages, layout: Layout, delta: Delta
) -> UInt32[Array, "regions 2"]:
    """The digest after ``delta``, from that before it: ``digest(apply(pages, delta), layout)``.

    Args:
        before: ``digest(pages, layout)``.
        pages: the pages before the delta.
        layout: their layout.
        delta: the change.

    Raises:
        StructureError: the pages are not of this layout.
        InvalidDeltaError: as for `apply`.

    Cost: the bytes of the delta.
    """
    check_pages(layout, pages)
    check_pages_and_delta(pages, delta)
    check_whole(delta)
    expected = (len(layout.regions), 2)
    if getattr(before, "shape", None) != expected or before.dtype != jnp.uint32:
        raise TypeError(
            f"before={show(before)}: expected uint32{list(expected)}, what digest(pages, layout) "
            f"gave"
        )
    owner, first = _places(layout)
    with any_settings():
        return _update(before, pages.words, owner, first, delta)


@functools.lru_cache(maxsize=64)
def _places(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """For each page: number of its region (one too many for none), index of its first word."""
    owner = np.full(layout.pages, len(layout.regions), np.int32)
    first = np.zeros(layout.pages, np.uint32)
    for i, region in enumerate(layout.regions):
        rows = slice(region.page, region.page + region.pages)
        owner[rows] = i
        first[rows] = (np.arange(region.pages) * layout.page_words).astype(np.uint32)
    return owner, first


def lanes_of_lines(
    words: UInt32[Array, "*n w"], index: UInt32[Array, "*n w"]
) -> UInt32[Array, "*n 2"]:
    """Lanes of each row of ``words``, which stand at ``index`` of their array."""
    return jnp.stack(sums_of_rows(*mixed(words, index)), axis=-1)


def mixed(
    words: UInt32[Array, "*n"], index: UInt32[Array, "*n"]
) -> tuple[UInt32[Array, "*n"], UInt32[Array, "*n"]]:
    """What each word adds to either lane."""
    key = mix(index + jnp.uint32(GOLDEN))
    live = words != 0
    first = jnp.where(live, mix(words ^ key), 0)
    return first, jnp.where(live, mix((words + key) ^ jnp.uint32(SALT)), 0)


def lines_of_words(
    words: UInt32[Array, " n"],
) -> tuple[UInt32[Array, "lines w"], UInt32[Array, "lines w"]]:
    """The words of one array in lines, the last filled with zeros, and where each word stands."""
    lines = jnp.pad(words, (0, -words.size % LINE_WORDS)).reshape(-1, LINE_WORDS)
    return lines, jnp.arange(lines.size, dtype=jnp.uint32).reshape(lines.shape)


def digest_flat(words: UInt32[Array, " n"]) -> UInt32[Array, "2"]:
    """The digest of one array, from all of its words.

    Cost: one pass over them.
    """
    return lanes_of_lines(*lines_of_words(words)).sum(axis=0, dtype=jnp.uint32)  # zeros add nothing


@functools.partial(jax.jit, static_argnums=4)
def _digest(words: Array, owner: Any, first: Any, number: Any, regions: int) -> Array:
    rows = number + jnp.arange(words.shape[0], dtype=jnp.int32)
    owner = jnp.asarray(owner).at[rows].get(mode="fill", fill_value=regions)
    first = jnp.asarray(first).at[rows].get(mode="fill", fill_value=0)
    # By lines: a sum over a longer axis makes XLA write the mixed words out first.
    lines = words.reshape(words.shape[0], words.shape[1] // LINE_WORDS, LINE_WORDS)
    index = first[:, None] + jnp.arange(words.shape[1], dtype=jnp.uint32)
    lanes = lanes_of_lines(lines, index.reshape(lines.shape)).sum(axis=1, dtype=jnp.uint32)
    return segment_sum(lanes, owner, regions)


@jax.jit
def _update(before: Array, words: Array, owner: Any, first: Any, delta: Delta) -> Array:
    if not words.size or not delta.capacity:
        return before
    # A block outside of the pool belongs to no region, and its sum is dropped.
    blocks = words.shape[1] // delta.block_words
    page = rows_inside(delta.page, delta.block, words.shape[0], blocks)
    old = _take(words, page, delta.block, delta.block_words)
    new = (old & ~delta.mask) | (delta.data & delta.mask)
    start = jnp.asarray(first).at[page].get(mode="fill", fill_value=0)
    start += (delta.block * delta.block_words).astype(jnp.uint32)
    index = start[:, None] + jnp.arange(delta.block_words, dtype=jnp.uint32)
    region = jnp.asarray(owner).at[page].get(mode="fill", fill_value=before.shape[0])
    gained = lanes_of_lines(new, index) - lanes_of_lines(old, index)
    return before + segment_sum(gained, region, before.shape[0])
