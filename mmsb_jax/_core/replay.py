"""Replay: the pages after the entries of a log, as a fold of `apply` over its blocks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, UInt8, UInt32

from mmsb_jax._base.arguments import check_kind
from mmsb_jax._base.errors import InvalidDeltaError
from mmsb_jax._core.delta import NO_PAGE, _check_blocks, batch_all, fold_rows, rows_inside
from mmsb_jax._core.pages import Pages
from mmsb_jax._core.settings import any_settings
from mmsb_jax._core.tlog import TLog, as_number


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
    check_kind("base", base, Pages)
    check_kind("log", log, TLog)
    _check_blocks(base.words.shape[1], log.block_words)
    stop = None if until is None else as_number("until", until)
    with any_settings():
        return _replay_until(base, log, stop)


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
    """One block at a time: slice, merge, and the slice put back where it was.

    XLA runs a loop on a CPU without a dispatch for each of its operations where the loop's body
    moves less than a kilobyte. That is why the masks are packed before it.
    """
    if not words.size or not page.size:
        return words, versions
    (pages, page_words), block_words = words.shape, mask.shape[1]
    # A slice outside of the pool would be moved into it: such a block writes nothing, in row 0.
    inside = rows_inside(page, block, pages, page_words // block_words) != NO_PAGE
    rows = jnp.where(inside, page, 0)
    columns = jnp.where(inside, block * block_words, 0)
    masks = jnp.where(inside[:, None], _pack_mask(mask), 0)
    numbers = version + (entry + 1).astype(jnp.uint32)

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        words, versions = state
        (row,), (column,), number = _at(rows, i), _at(columns, i), _at(numbers, i)
        written = _unpack_mask(_at(masks, i))
        before = lax.dynamic_slice(words, (row, column), (1, block_words))
        after = (before & ~written) | (_at(data, i) & written)
        changed = jnp.any(before != after)
        versions = lax.dynamic_update_slice(
            versions, jnp.where(changed, number, _at(versions, row)), (row,)
        )
        # What is written follows from the version, so that XLA reads the old block before it
        # writes the new one: else it copies the pool for every block (JAX 0.10.2). A block that
        # did not change is equal anyway.
        after = jnp.where(_at(versions, row) == number, after, before)
        return lax.dynamic_update_slice(words, after, (row, column)), versions

    return lax.fori_loop(0, jnp.minimum(stop, page.shape[0]), step, (words, versions))


def _at(column: Array, i: Array) -> Array:
    """Row ``i``, with its leading axis."""
    return lax.dynamic_slice_in_dim(column, i, 1)


def _pack_mask(mask: UInt32[Array, "n b"]) -> UInt8[Array, "n b"]:
    """Four bits a word, one for each of its bytes."""
    gather = np.uint32(1 << 28 | 1 << 21 | 1 << 14 | 1 << 7)
    return (((mask & np.uint32(0x01010101)) * gather) >> 28).astype(jnp.uint8)


def _unpack_mask(bits: UInt8[Array, "n b"]) -> UInt32[Array, "n b"]:
    """The inverse of `_pack_mask`."""
    spread = np.uint32(1 | 1 << 7 | 1 << 14 | 1 << 21)
    return ((bits.astype(jnp.uint32) * spread) & np.uint32(0x01010101)) * np.uint32(0xFF)


@_replay.def_vmap
def _replay_batch(axis_size: int, in_batched: list[bool], *args: Any) -> Any:
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
def _replay_nested(axis_size: int, in_batched: list[bool], *args: Any) -> Any:
    """A batch of batches is one longer batch."""
    args_all = batch_all(axis_size, in_batched, args)
    shape = args_all[0].shape[:2]
    folded = [arg.reshape(shape[0] * shape[1], *arg.shape[2:]) for arg in args_all]
    results = _replay_many(*folded)
    return tuple(result.reshape(*shape, *result.shape[1:]) for result in results), (True, True)
