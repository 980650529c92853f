"""Replay: the pages after the entries of a log, as a fold of `apply` over its blocks."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Int32, UInt8, UInt32

from mmsb_jax._base.arguments import check_kind, check_size, show
from mmsb_jax._base.errors import InvalidDeltaError
from mmsb_jax._core.delta import (
    NO_PAGE,
    as_page_number,
    batch_all,
    bucket,
    check_blocks,
    fold_rows,
    most_of_branches,
    rows_inside,
    shifted,
)
from mmsb_jax._core.pages import Pages
from mmsb_jax._core.settings import any_settings, is_traced
from mmsb_jax._core.tlog import TLog, as_number
from mmsb_jax.kernels import fold
from mmsb_jax.kernels.varying import varying_as


def replay(
    base: Pages,
    log: TLog,
    until: Any = None,
    first_page: Any = 0,
    *,
    wave: Any = None,
    capacity: int | None = None,
) -> Pages:
    """The pages after the first ``until`` entries of ``log``; all of them for None.

    Equal to ``apply(pages, log[i], version=log.version + i + 1)`` for each ``i`` in turn, in one
    program: a loop over the blocks, each merged into its place of the pool. With ``wave`` equal to
    ``wave(pages, log[i], version=…)[0]`` in turn: the log need hold the sources alone.

    Args:
        base: the pages that the log begins at.
        log: the entries.
        until: how many of them; more than there are means all.
        first_page: number of the first of these pages, where they are a part of the pool, as for
            `diff`; without a wave, which needs them all.
        wave: what follows from each entry, as `graph.compile` gives it.
        capacity: for a wave under a transformation, the most blocks of an entry; more of them are
            left out. Else as many as the largest entry has.

    A log that overflowed is replayed as far as it goes: ``log.overflow`` says so.

    Raises:
        InvalidDeltaError: the log's blocks do not divide these pages; a batch of logs (map over it
            with `jax.vmap`); a wave under a transformation, without a capacity.

    Cost: the bytes of the entries, where ``base`` is donated; else a copy of the pool besides.
    Under ``vmap`` the batch is folded into the rows of one pool. With a wave, that of a wave for
    each entry.
    """
    check_kind("base", base, Pages)
    check_kind("log", log, TLog)
    check_blocks(base.words.shape[1], log.block_words)
    if log.count.ndim:
        raise InvalidDeltaError(
            f"a batch of {'×'.join(map(str, log.count.shape))} logs arrived. Replay each: "
            f"jax.vmap(mmsb.replay)(base, log), or pick one with "
            f"jax.tree.map(lambda leaf: leaf[i], log)."
        )
    stop = None if until is None else as_number("until", until)
    first = as_page_number(first_page)
    if wave is None:
        with any_settings():
            return _replay_until(base, log, stop, first)
    if isinstance(wave, type) or not hasattr(wave, "start"):  # a CompiledWave has it
        raise TypeError(f"wave={show(wave)}: expected what graph.compile(layout) gives")
    if capacity is None:
        if is_traced((base, log, until)):
            raise InvalidDeltaError(
                "replay with a wave needs capacity=… under a transformation: the most blocks that "
                "an entry of the log has"
            )
        sizes = np.diff(np.asarray(log.ends)[: len(log)], prepend=0)
        capacity = bucket(int(sizes.max(initial=0)))
    check_size("capacity", capacity)
    with any_settings():
        return _replay_waves(base, log, stop, wave, capacity)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _replay_waves(base: Pages, log: TLog, until: Any, wave: Any, capacity: int) -> Pages:
    limit = log.count if until is None else jnp.minimum(until, log.count)

    def step(i: Any, pages: Pages) -> Pages:
        entry = jnp.where(i < limit, i, -1)  # behind the end: the empty delta
        number = log.version + jnp.asarray(i + 1).astype(jnp.uint32)
        return wave(pages, log.delta(entry, capacity), version=number)[0]

    last = most_of_branches(limit)
    return lax.fori_loop(jnp.int32(0), last, step, varying_as(base, base, log))


@jax.jit
def _replay_until(base: Pages, log: TLog, until: Any, first: Any) -> Pages:
    limit = log.count if until is None else jnp.minimum(until, log.count)
    numbers = log.version + (log.entry + 1).astype(jnp.uint32)
    page = shifted(log.page, -first)
    entries = _Entries(page, log.block, log.mask, log.data, numbers, log._end_of(limit))
    return Pages(*_replay(base.words, base.version, entries))


class _Entries(NamedTuple):
    """The blocks of a log, the number of each one's version, and how many of them count."""

    page: Int32[Array, "*batch n"]
    block: Int32[Array, "*batch n"]
    mask: UInt32[Array, "*batch n b"]
    data: UInt32[Array, "*batch n b"]
    number: UInt32[Array, "*batch n"]
    stop: Int32[Array, "*batch"]


@custom_vmap
def _replay(words: Array, versions: Array, log: _Entries) -> tuple[Array, Array]:
    """A loop over the blocks; on a GPU, which launches each operation of it anew, a fold."""
    if not words.size or not log.page.size:
        return words, versions
    return lax.platform_dependent(words, versions, log, cuda=_fold, default=_loop)


def _loop(words: Array, versions: Array, log: _Entries) -> tuple[Array, Array]:
    """One block at a time: slice, merge, and the slice put back where it was.

    XLA runs a loop on a CPU without a dispatch for each of its operations where the loop's body
    moves less than a kilobyte. That is why the masks are packed before it.
    """
    (pages, page_words), (count, block_words) = words.shape, log.mask.shape
    # A slice outside of the pool would be moved into it: such a block writes nothing, in row 0.
    inside = rows_inside(log.page, log.block, pages, page_words // block_words) != NO_PAGE
    rows = jnp.where(inside, log.page, 0)
    columns = jnp.where(inside, log.block * block_words, 0)
    masks = jnp.where(inside[:, None], _pack_mask(log.mask), 0)

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        words, versions = state
        (row,), (column,), number = _at(rows, i), _at(columns, i), _at(log.number, i)
        written = _unpack_mask(_at(masks, i))
        before = lax.dynamic_slice(words, (row, column), (1, block_words))
        after = (before & ~written) | (_at(log.data, i) & written)
        changed = jnp.any(before != after)
        versions = lax.dynamic_update_slice(
            versions, jnp.where(changed, number, _at(versions, row)), (row,)
        )
        # What is written follows from the version, so that XLA reads the old block before it
        # writes the new one: else it copies the pool for every block (JAX 0.10.2). A block that
        # did not change is equal anyway.
        after = jnp.where(_at(versions, row) == number, after, before)
        return lax.dynamic_update_slice(words, after, (row, column)), versions

    begin = varying_as((words, versions), words, versions, log)
    return lax.fori_loop(0, jnp.minimum(log.stop, count), step, begin)


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


def _fold(words: Array, versions: Array, log: _Entries) -> tuple[Array, Array]:
    """What `_loop` gives, by one `fold`: the blocks sorted by their place, in the order of the log.

    Cost: a sort of the places, and two copies of the blocks' bytes.
    """
    (pages, page_words), (count, block_words) = words.shape, log.mask.shape
    blocks = page_words // block_words
    if pages * blocks > int(NO_PAGE):  # places that no int32 can say
        return _loop(words, versions, log)
    order = jnp.arange(count, dtype=jnp.int32)
    page = jnp.where(order < log.stop, log.page, NO_PAGE)
    inside = rows_inside(page, log.block, pages, blocks) != NO_PAGE
    place = jnp.where(inside, page * blocks + log.block, NO_PAGE)
    place, order = lax.sort((place, order), num_keys=2)
    is_first = jnp.concatenate([jnp.ones(1, bool), place[1:] != place[:-1]]) & (place != NO_PAGE)
    rank = jnp.where(is_first, jnp.cumsum(is_first, dtype=jnp.int32) - 1, count + 1)
    rows = jnp.full(count, NO_PAGE).at[rank].set(place, mode="drop")
    starts = jnp.full(count + 1, inside.sum(dtype=jnp.int32))
    starts = starts.at[rank].set(jnp.arange(count, dtype=jnp.int32), mode="drop")
    lines = words.reshape(pages * blocks, block_words)
    lines, last = fold(lines, rows, starts, log.data[order], log.mask[order])
    # The last block that changed a page is the last of those that changed its parts.
    changed = jnp.where(last < 0, NO_PAGE, rows // blocks)
    newest = jnp.full(pages, -1, jnp.int32).at[changed].max(order[last], mode="drop")
    return lines.reshape(words.shape), jnp.where(newest < 0, versions, log.number[newest])


@_replay.def_vmap
def _replay_batch(
    axis_size: int, in_batched: Any, words: Any, versions: Any, log: _Entries
) -> tuple[Any, tuple[bool, bool]]:
    return _replay_many(*_batched(axis_size, in_batched, (words, versions, log))), (True, True)


def _batched(axis_size: int, in_batched: Any, operands: tuple[Any, Any, _Entries]) -> Any:
    """Operands of which every array has a leading axis of ``axis_size``."""
    arrays, treedef = jax.tree_util.tree_flatten(operands)
    flags = jax.tree_util.tree_leaves(in_batched)
    return treedef.unflatten(batch_all(axis_size, flags, arrays))


@custom_vmap
def _replay_many(words: Array, versions: Array, log: _Entries) -> tuple[Array, Array]:
    """`_replay` of a batch, folded into the rows of one pool."""
    axis_size, pages, _ = words.shape
    if axis_size * pages > int(NO_PAGE):
        raise InvalidDeltaError(
            f"vmap over {axis_size} pools of {pages} pages: more than 2³¹ rows together. Map over "
            f"fewer at a time (jax.lax.map with batch_size)."
        )
    if not words.size or not log.page.size:
        return words, versions
    return lax.platform_dependent(words, versions, log, cuda=_fold_many, default=_loop_many)


def _fold_many(words: Array, versions: Array, log: _Entries) -> tuple[Array, Array]:
    """As `_fold`: the blocks of all branches at once, those of one behind those of another."""
    (axis_size, pages, page_words), (_, count, block_words) = words.shape, log.mask.shape
    page = jnp.where(jnp.arange(count) < log.stop[:, None], log.page, NO_PAGE)
    together = _Entries(
        fold_rows(page, log.block, pages, page_words // block_words).reshape(-1),
        log.block.reshape(-1),
        log.mask.reshape(-1, block_words),
        log.data.reshape(-1, block_words),
        log.number.reshape(-1),
        jnp.int32(axis_size * count),
    )
    flat, marked = _fold(
        words.reshape(axis_size * pages, page_words), versions.reshape(-1), together
    )
    return flat.reshape(words.shape), marked.reshape(versions.shape)


def _loop_many(words: Array, versions: Array, log: _Entries) -> tuple[Array, Array]:
    """As `_loop`: the ``i``-th blocks of all branches at a time."""
    (axis_size, pages, page_words), (_, count, block_words) = words.shape, log.mask.shape
    rows = fold_rows(log.page, log.block, pages, page_words // block_words)
    flat = words.reshape(axis_size * pages, page_words // block_words, block_words)

    def step(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        """The ``i``-th block of every branch: no two of them are in one pool."""
        words, versions = state
        row, column, written = rows[:, i], log.block[:, i], log.mask[:, i]
        row = jnp.where(i < log.stop, row, NO_PAGE)
        before = words.at[row, column].get(mode="fill", fill_value=0)
        after = (before & ~written) | (log.data[:, i] & written)
        before, after = lax.optimization_barrier((before, after))
        changed = jnp.where(jnp.any(before != after, axis=-1), row, NO_PAGE)
        return (
            words.at[row, column].set(after, mode="drop"),
            versions.at[changed].set(log.number[:, i], mode="drop"),
        )

    last = jnp.minimum(log.stop.max(), count)
    begin = varying_as((flat, versions.reshape(-1)), words, versions, log)
    out, marked = lax.fori_loop(0, last, step, begin)
    return out.reshape(words.shape), marked.reshape(versions.shape)


@_replay_many.def_vmap
def _replay_nested(
    axis_size: int, in_batched: Any, words: Any, versions: Any, log: _Entries
) -> tuple[Any, tuple[bool, bool]]:
    """A batch of batches is one longer batch."""
    operands = _batched(axis_size, in_batched, (words, versions, log))
    shape = operands[0].shape[:2]

    def folded(array: Array) -> Array:
        return array.reshape(shape[0] * shape[1], *array.shape[2:])

    results = _replay_many(*jax.tree_util.tree_map(folded, operands))
    apart = tuple(result.reshape(*shape, *result.shape[1:]) for result in results)
    return apart, (True, True)
