"""Replay: the pages after the entries of a log, as a fold of `apply` over its blocks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array

from mmsb_jax._errors import InvalidDeltaError
from mmsb_jax.core._delta import NO_PAGE, _check_blocks, batch_all, fold_rows
from mmsb_jax.core._packing import any_settings
from mmsb_jax.core._pages import Pages
from mmsb_jax.core._tlog import TLog

_CHUNK_BLOCKS = 1024


def replay(base: Pages, log: TLog, until: Any = None) -> Pages:
    """The pages after the first ``until`` entries of ``log``; all of them for None.

    Equal to ``apply(pages, log[i], version=log.version + i + 1)`` for each ``i`` in turn, in one
    program: a loop over the blocks, each merged into its place of the pool.

    Args:
        base: the pages that the log begins at.
        log: the entries.
        until: how many of them; more than there are means all.

    Raises:
        InvalidDeltaError: the log's blocks do not divide these pages.

    Cost: the bytes of the entries, where ``base`` is donated; else a copy of the pool besides.
    Under ``vmap`` the batch is folded into the rows of one pool.
    """
    _check_blocks(base.words.shape[1], log.block_words)
    with any_settings():
        return _replay_until(base, log, until)


@jax.jit
def _replay_until(base: Pages, log: TLog, until: Any) -> Pages:
    limit = log.count if until is None else jnp.minimum(until, log.count)
    words, versions = _replay(
        base.words,
        base.version,
        log.page,
        log.block,
        log.mask,
        log.data,
        log.entry,
        log._end_of(limit),
        log.version,
    )
    return Pages(words, versions)


@custom_vmap
def _replay(
    words: Array,
    versions: Array,
    page: Array,
    block: Array,
    mask: Array,
    data: Array,
    entry: Array,
    stop: Array,
    version: Array,
) -> tuple[Array, Array]:
    """Block after block merged into its place; which pages changed is found a chunk at a time.

    What a block replaces is kept in a small buffer, and read from there: a loop that reads the pool
    twice copies it at every step.
    """
    if not words.size or not page.size:
        return words, versions
    (pages, _), (blocks, block_words) = words.shape, mask.shape
    size = min(_CHUNK_BLOCKS, blocks)
    stop = jnp.minimum(stop, blocks)

    def replay_chunk(chunk: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        words, versions = state
        first = chunk * size
        last = jnp.minimum(first + size, stop)
        window = jnp.minimum(first, blocks - size)  # the last chunk looks back over the one before

        def merge(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            words, replaced = state
            row, word, slot = page[i], block[i] * block_words, i - window
            here = lax.dynamic_slice(words, (row, word), (1, block_words))
            replaced = lax.dynamic_update_slice(replaced, here, (slot, np.int32(0)))
            before = lax.dynamic_slice(replaced, (slot, np.int32(0)), (1, block_words))
            # A slice outside of the pool would be moved into it: such a block writes nothing.
            written = jnp.where((row >= 0) & (row < pages), mask[i], 0)[None]
            after = (before & ~written) | (data[i] & written)
            return lax.dynamic_update_slice(words, after, (row, word)), replaced

        replaced = jnp.zeros((size, block_words), jnp.uint32)
        words, replaced = lax.fori_loop(first, last, merge, (words, replaced))
        row, masks, news, entries = (
            lax.dynamic_slice_in_dim(column, window, size) for column in (page, mask, data, entry)
        )
        place = window + jnp.arange(size, dtype=jnp.int32)
        changed = jnp.any((replaced ^ news) & masks != 0, axis=1)
        changed &= (place >= first) & (place < last) & (row >= 0)
        # A later entry has a larger number, so that the order of the updates does not matter.
        newest = jnp.zeros(pages, jnp.int32).at[jnp.where(changed, row, pages)]
        newest = newest.max(entries + 1, mode="drop")
        return words, jnp.where(newest > 0, version + newest.astype(jnp.uint32), versions)

    return lax.fori_loop(0, (stop + size - 1) // size, replay_chunk, (words, versions))


@_replay.def_vmap
def _replay_batch(axis_size: int, in_batched: list[bool], *args: Array) -> Any:
    return _replay_many(*batch_all(axis_size, in_batched, args)), (True, True)


@custom_vmap
def _replay_many(
    words: Array,
    versions: Array,
    page: Array,
    block: Array,
    mask: Array,
    data: Array,
    entry: Array,
    stop: Array,
    version: Array,
) -> tuple[Array, Array]:
    """`_replay` of a batch, folded into the rows of one pool."""
    axis_size, pages, page_words = words.shape
    block_words = mask.shape[2]
    if axis_size * pages > int(NO_PAGE):
        raise InvalidDeltaError(
            f"vmap over {axis_size} pools of {pages} pages: more than 2³¹ rows together. Map over "
            f"fewer at a time (jax.lax.map with batch_size)."
        )
    if not words.size or not page.size:
        return words, versions
    rows = fold_rows(page, block, pages, page_words // block_words)
    flat = words.reshape(axis_size * pages, page_words // block_words, block_words)

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """The ``i``-th block of every branch: no two of them are in one pool."""
        words, versions = state
        row, column = rows[:, i], block[:, i]
        row = jnp.where(i < stop, row, NO_PAGE)
        before = words.at[row, column].get(mode="fill", fill_value=0)
        after = (before & ~mask[:, i]) | (data[:, i] & mask[:, i])
        before, after = lax.optimization_barrier((before, after))
        number = version + (entry[:, i] + 1).astype(jnp.uint32)
        changed = jnp.where(jnp.any(before != after, axis=-1), row, NO_PAGE)
        return (
            words.at[row, column].set(after, mode="drop"),
            versions.at[changed].set(number, mode="drop"),
        )

    last = jnp.minimum(stop.max(), page.shape[1])
    out, marked = lax.fori_loop(0, last, step, (flat, versions.reshape(-1)))
    return out.reshape(words.shape), marked.reshape(versions.shape)


@_replay_many.def_vmap
def _replay_nested(axis_size: int, in_batched: list[bool], *args: Array) -> Any:
    """A batch of batches is one longer batch."""
    args_all = batch_all(axis_size, in_batched, args)
    shape = args_all[0].shape[:2]
    folded = [arg.reshape(shape[0] * shape[1], *arg.shape[2:]) for arg in args_all]
    results = _replay_many(*folded)
    return tuple(result.reshape(*shape, *result.shape[1:]) for result in results), (True, True)
