"""Deltas: partial maps from bytes to new values, and their algebra.

Under `compose` deltas are a monoid: associative, `Delta.empty` is the identity, idempotent, not
commutative (the later one wins, byte by byte). `apply` is its action on words::

    apply(p, compose(a, b)) == apply(apply(p, a), b)

A delta is kept in a normal form (blocks ascending, no block twice, nothing behind ``count``), so
that two deltas of one capacity that say the same are equal array by array.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Int32, UInt32

from mmsb_jax._base.arguments import MOST, check_kind, check_size, show
from mmsb_jax._base.errors import InvalidDeltaError
from mmsb_jax._core.pages import Pages, as_version, clipped, is_one_integer
from mmsb_jax._core.region import Region
from mmsb_jax._core.settings import any_settings, is_traced
from mmsb_jax._core.tree.leaves import LeafSpec, describe, host_array
from mmsb_jax._core.tree.slices import SliceGrid, slice_blocks
from mmsb_jax._core.tree.words import host_units, to_units
from mmsb_jax.kernels import LINE_WORDS

NO_PAGE = np.int32(2**31 - 1)
"""Page of the rows behind ``count``: outside of any pool, so that a scatter drops them."""

_MOST_BLOCKS = 2**32 - 1


class Delta(eqx.Module):
    """Blocks of words with their place, the mask of the bytes that are written, and the bytes.

    Make one with `diff`, `compose`, `invert` or `Delta.from_bytes`.

    Attributes:
        page: ``int32[capacity]``: row of the pool of each block; `NO_PAGE` behind ``count``.
        block: ``int32[capacity]``: which block of its page.
        mask: ``uint32[capacity, block_words]``: ``0xFF`` at each byte that is written.
        data: ``uint32[capacity, block_words]``: the bytes; zero where they are not written.
        count: ``int32[]``: blocks in use.
        overflow: ``bool[]``: whether blocks were left out for want of capacity. It sticks: what is
            made from a delta that overflowed has overflowed.
        block_words: words of a block, static.
    """

    page: Int32[Array, " capacity"]
    block: Int32[Array, " capacity"]
    mask: UInt32[Array, "capacity block_words"]
    data: UInt32[Array, "capacity block_words"]
    count: Int32[Array, ""]
    overflow: Bool[Array, ""]
    block_words: int = eqx.field(static=True, default=LINE_WORDS)

    @property
    def capacity(self) -> int:
        """Blocks that there is room for."""
        return self.page.shape[-1]

    @classmethod
    def empty(cls, capacity: int = 0, block_words: int = LINE_WORDS) -> "Delta":
        """The delta that changes nothing: the identity of `compose`."""
        check_size("capacity", capacity)
        check_block_words(block_words)
        with any_settings():
            return cls(
                jnp.full(capacity, NO_PAGE),
                jnp.zeros(capacity, jnp.int32),
                jnp.zeros((capacity, block_words), jnp.uint32),
                jnp.zeros((capacity, block_words), jnp.uint32),
                jnp.int32(0),
                jnp.bool_(False),
                block_words,
            )

    @classmethod
    def from_bytes(
        cls,
        region: Region,
        mask: Any,
        data: Any,
        capacity: int | None = None,
        block_words: int = LINE_WORDS,
    ) -> "Delta":
        """The delta that writes ``data`` to the bytes of one array where ``mask`` is true.

        Args:
            region: the array; its place is where the delta writes.
            mask: ``bool[nbytes]``.
            data: ``uint8[nbytes]``.
            capacity: blocks to make room for; needed under a transformation.
            block_words: words of a block.

        Raises:
            InvalidDeltaError: ``mask`` or ``data`` is not of the array's size or dtype; a block
                size that does not divide the page; under a transformation, no capacity.

        Cost: one pass over the array's bytes.
        """
        check_kind("region", region, Region, "; layout.region(name) is one")
        check_blocks(region.page_bytes // 4, block_words)
        _check_capacity(capacity)
        for name, value, dtype in (("mask", mask, np.bool_), ("data", data, np.uint8)):
            shape, found = np.shape(value), getattr(value, "dtype", None)
            if shape != (region.nbytes,) or found != dtype:
                raise InvalidDeltaError(
                    f"{name} is {found}{list(shape)}; {region.name!r} has {region.nbytes} bytes, "
                    f"so {np.dtype(dtype)}[{region.nbytes}] was expected"
                )
        with any_settings():
            flags = _flags_of_bytes(jnp.asarray(mask), region.page_bytes, block_words)
            size = _capacity_for(flags, capacity, "Delta.from_bytes")
            return _from_bytes(
                jnp.asarray(mask),
                jnp.asarray(data),
                flags,
                np.int32(region.page),
                size,
                region.page_bytes,
                block_words,
            )

    @classmethod
    def from_slice(
        cls, region: Region, values: Any, start: Any, block_words: int = LINE_WORDS
    ) -> "Delta":
        """The delta that writes a slice of one array, as ``jax.lax.dynamic_update_slice`` does.

        It has room for the blocks that a slice of this shape can lie in, wherever it begins.

        Args:
            region: the array; its place is where the delta writes.
            values: the slice, of the array's dtype and number of axes, and no longer on any.
            start: where it begins: an integer for each axis, which may be traced; of an array
                of one axis also the integer alone.
            block_words: words of a block.

        Raises:
            InvalidDeltaError: values of another dtype or number of axes; a slice that does not lie
                within the array (where ``start`` is traced the delta overflows, and is empty:
                nothing is clamped); a block size that does not divide the page.

        Cost: the bytes of the slice, and of the blocks that it lies in.

        >>> import jax, jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> layout = mmsb.Layout.of({"cache": jnp.zeros((100, 8))})
        >>> row = lambda i: mmsb.Delta.from_slice(layout.region("cache"), jnp.ones((1, 8)), (i, 0))
        >>> pages = mmsb.apply(layout.pack({"cache": jnp.zeros((100, 8))}), jax.jit(row)(41))
        >>> layout.get(pages, "cache").sum(axis=1).nonzero()[0].tolist()
        [41]
        """
        check_kind("region", region, Region, "; layout.region(name) is one")
        check_blocks(region.page_bytes // 4, block_words)
        spec = _slice_spec(region, values)
        begin = _slice_start(region, spec.shape, start)
        if not spec.nbytes:
            return cls.empty(0, block_words)
        with any_settings():
            on_device = isinstance(values, jax.Array)
            units = to_units(values) if on_device else host_units(host_array(values))
            more = units.shape[len(spec.shape) :] or (1,)
            grid = SliceGrid.of(
                (*region.shape, *more),
                (*spec.shape, *more),
                4 * block_words // units.dtype.itemsize,
            )
            if not grid.is_countable:
                raise InvalidDeltaError(
                    f"{region.name!r} has {region.nbytes} bytes, more than from_slice can count. "
                    f"Keep it as several arrays."
                )
            begin = (*begin, *[np.int32(0)] * len(more))
            first, blocks = np.int32(region.page), region.page_bytes // (4 * block_words)
            return _from_slice(grid, units.reshape(grid.lengths), begin, first, blocks)

    @property
    def changed_bytes(self) -> Int32[Array, ""]:
        """Bytes that are written, whether or not they differ."""
        with any_settings():
            written = lax.population_count(self.mask).astype(jnp.int32) // 8
            return written.sum(axis=(-2, -1), dtype=jnp.int32)


def diff(
    old: Pages,
    new: Pages,
    capacity: int | None = None,
    block_words: int = LINE_WORDS,
    first_page: Any = 0,
) -> Delta:
    """The delta from ``old`` to ``new``: ``apply(old, diff(old, new)) == new``, by words.

    It writes the bytes that differ and no others.

    Args:
        old, new: pages of one shape.
        capacity: blocks to make room for; more are left out and ``overflow`` is set. Needed under
            a transformation; else as many as differ, rounded up to a power of two.
        block_words: words of a block; divides the page. 1 where changes are scattered.
        first_page: number of the first of these pages, where they are a part of a pool: under
            ``shard_map``, ``jax.lax.axis_index(name) * pages_a_device``. The delta has the numbers
            of the whole pool.

    Raises:
        InvalidDeltaError: pages of two shapes, a block size that does not divide the page, or no
            capacity under a transformation.

    Cost: one pass over both pools, and two words of delta for each word of a changed block.
    """
    check_kind("old", old, Pages)
    check_kind("new", new, Pages)
    _check_capacity(capacity)
    if old.words.shape != new.words.shape:
        raise InvalidDeltaError(
            f"diff of pools of {list(old.words.shape)} and {list(new.words.shape)} words; "
            f"expected pages of one layout"
        )
    check_blocks(old.words.shape[1], block_words)
    if old.words.size // block_words > _MOST_BLOCKS:
        raise InvalidDeltaError(
            f"a pool of {old.words.size // block_words} blocks; at most {_MOST_BLOCKS} can be "
            f"counted. Use a larger block_words."
        )
    first = as_page_number(first_page)
    with any_settings():
        flags = _differing(old.words, new.words, block_words)
        size = _capacity_for(flags, capacity, "diff")
        return _gather_diff(old.words, new.words, flags, first, size, block_words)


def apply(pages: Pages, delta: Delta, version: Any = None, first_page: Any = 0) -> Pages:
    """``pages`` with the bytes of ``delta`` written.

    Args:
        pages: the pages.
        delta: what to write; blocks outside of the pool are dropped.
        version: number for the pages in which a byte changes; None leaves the numbers.
        first_page: number of the first of these pages, where they are a part of the pool that the
            delta speaks of, as for `diff`.

    Raises:
        InvalidDeltaError: the delta's blocks do not divide these pages; it overflowed (seen
            outside of transformations only: inside, check ``delta.overflow``).
        VersionError: a version that is not an integer from 0 to 2³² − 1.

    Cost: the bytes of the delta, where ``pages`` are donated; else a copy of the pool besides.
    Under ``vmap`` the batch is folded into the rows of one pool.
    """
    check_pages_and_delta(pages, delta)
    check_whole(delta)
    first = as_page_number(first_page)
    with any_settings():
        words, versions = _apply_jit(
            pages.words,
            pages.version,
            delta.page,
            delta.block,
            delta.mask,
            delta.data,
            as_version(0 if version is None else version),
            first,
        )
    return Pages(words, pages.version if version is None else versions)


def compose(first: Delta, second: Delta, capacity: int | None = None) -> Delta:
    """The delta that does ``first`` and then ``second``: where both write, ``second`` wins.

    Args:
        first, second: deltas with blocks of one size.
        capacity: blocks to make room for; the sum of both where there is none under a
            transformation, else as many as there are, rounded up to a power of two.

    Raises:
        InvalidDeltaError: blocks of two sizes.

    Cost: a sort of the blocks' places, and one pass over the blocks.
    """
    check_kind("first", first, Delta)
    check_kind("second", second, Delta)
    _check_capacity(capacity)
    if first.block_words != second.block_words:
        raise InvalidDeltaError(
            f"compose of blocks of {first.block_words} and {second.block_words} words; make both "
            f"with the same block_words"
        )
    with any_settings():
        merged = _merge(first, second)
        if capacity is None and not is_traced((first, second)):
            capacity = bucket(int(merged.count))
        return merged if capacity is None else _recapacitate(merged, capacity)


def invert(pages: Pages, delta: Delta, first_page: Any = 0) -> Delta:
    """The delta that undoes ``delta`` when it is applied after it.

    ``apply(apply(p, d), invert(p, d)) == p``, by words; ``first_page`` as for `apply`.

    Cost: the bytes of the delta.
    """
    check_pages_and_delta(pages, delta)
    first = as_page_number(first_page)
    with any_settings():
        return _invert(pages.words, delta, first)


def check_whole(delta: Delta) -> None:
    """Refuse a concrete delta that overflowed."""
    if is_traced(delta):
        return
    with any_settings():
        overflow = np.asarray(delta.overflow)
    if overflow.any():
        which = np.argwhere(overflow)[0].tolist()
        name = f"delta {', '.join(map(str, which))} of the batch" if which else "the delta"
        raise InvalidDeltaError(
            f"{name} overflowed: more blocks changed than its capacity of {delta.capacity}, or a "
            f"slice did not lie within its array. Make it again with a larger capacity: "
            f"Layout.capacity(names) is always enough."
        )


def as_page_number(first_page: Any) -> Any:
    """The number of a page, traced or not, as ``int32``."""
    if not is_one_integer(first_page):
        raise TypeError(
            f"first_page={show(first_page)}: expected the number of a page, one integer"
        )
    if not isinstance(first_page, jax.Array):
        if not 0 <= int(first_page) <= MOST:
            raise ValueError(f"first_page={show(first_page)}: expected 0 to {MOST}")
        return np.int32(first_page)
    with any_settings():
        return first_page.astype(jnp.int32)


def shifted(page: Int32[Array, " n"], by: Any) -> Int32[Array, " n"]:
    """Page numbers ``by`` higher: of the pool for those of a part of it; the other way where less.

    `NO_PAGE` stays what it is.
    """
    return jnp.where(page == NO_PAGE, NO_PAGE, page + by)


def check_block_words(block_words: Any) -> None:
    """Refuse what is no size of a block."""
    if not isinstance(block_words, int) or not 1 <= block_words <= MOST:
        raise InvalidDeltaError(f"block_words={show(block_words)}: expected 1 to {MOST} words")


def check_pages_and_delta(pages: Any, delta: Any) -> None:
    """Refuse what are no pages, no delta, or not made for each other."""
    check_kind("pages", pages, Pages)
    check_kind("delta", delta, Delta)
    check_fits(pages.words.shape[1], delta)


def check_fits(page_words: int, delta: Delta) -> None:
    """Refuse a delta whose blocks do not divide a page."""
    check_blocks(page_words, delta.block_words)


def _slice_spec(region: Region, values: Any) -> LeafSpec:
    """What a slice of an array is; refuses what is none."""
    spec = None if isinstance(values, jax.ShapeDtypeStruct) else describe(values, "values")
    is_alike = isinstance(spec, LeafSpec) and spec.dtype == region.dtype
    if (
        not isinstance(spec, LeafSpec)
        or not is_alike
        or len(spec.shape) != len(region.shape)
        or any(n > most for n, most in zip(spec.shape, region.shape, strict=True))
    ):
        arrived = show(values) if spec is None else spec
        raise InvalidDeltaError(
            f"values: {arrived} arrived; a slice of {region.name!r}, {region.spec}, was expected, "
            f"of its dtype and number of axes. Cast or reshape it first."
        )
    return spec


def _slice_start(region: Region, lengths: tuple[int, ...], start: Any) -> tuple[Any, ...]:
    """Where a slice begins, as ``int32``; those that are known lie within the array."""
    if is_one_integer(start):
        start = (start,)
    places = tuple(start) if isinstance(start, tuple | list | np.ndarray | jax.Array) else ()
    if len(places) != len(lengths) or not all(map(is_one_integer, places)):
        raise TypeError(
            f"start={show(start)}: expected an integer for each of the {len(lengths)} axes of "
            f"{region.name!r}"
        )
    for place, length, end in zip(places, lengths, region.shape, strict=True):
        if not isinstance(place, jax.Array) and not 0 <= place <= end - length:
            raise InvalidDeltaError(
                f"start={show(start)}: a slice of {list(lengths)} from there does not lie within "
                f"{region.name!r} of {list(region.shape)}"
            )
    with any_settings():
        return tuple(clipped(p) if isinstance(p, jax.Array) else np.int32(p) for p in places)


def _check_capacity(capacity: Any) -> None:
    if capacity is not None:
        check_size("capacity", capacity)


def check_blocks(page_words: int, block_words: int) -> None:
    """Refuse blocks that do not divide a page."""
    check_block_words(block_words)
    if page_words % block_words:
        raise InvalidDeltaError(
            f"block_words={block_words} does not divide a page of {page_words} words"
        )


def bucket(count: int) -> int:
    """A power of two that holds ``count``: sizes are few, and so are compilations."""
    return 1 << max(0, count - 1).bit_length() if count else 0


def _capacity_for(flags: Array, capacity: int | None, caller: str) -> int:
    if capacity is not None:
        return capacity
    if isinstance(flags, Tracer):
        raise InvalidDeltaError(
            f"{caller} needs capacity=… under jit, vmap or scan: the size of an array cannot "
            f"depend on how much changed. Give the most blocks that may change, and check "
            f"delta.overflow."
        )
    return bucket(int(np.count_nonzero(flags)))


@functools.partial(jax.jit, static_argnums=2)
def _differing(
    old: UInt32[Array, "p w"], new: UInt32[Array, "p w"], block_words: int
) -> Bool[Array, "p blocks"]:
    pages, page_words = old.shape
    differ = (old != new).reshape(pages, page_words // block_words, block_words)
    return jnp.any(differ, axis=-1)


def _select(flags: Bool[Array, "p blocks"], capacity: int) -> tuple[Array, Array, Array, Array]:
    """Places of the first ``capacity`` set flags: (page, block, how many, whether there are more).

    The address stays a pair: pages with a flag first, then the blocks of these alone.
    """
    pages, blocks = flags.shape
    if not pages or not blocks or not capacity:
        none = jnp.zeros(capacity, jnp.int32)
        return jnp.full(capacity, NO_PAGE), none, jnp.int32(0), jnp.any(flags)
    has_flag = jnp.any(flags, axis=1)
    (rows,) = jnp.nonzero(has_flag, size=min(capacity, pages), fill_value=pages)
    live = flags.at[rows].get(mode="fill", fill_value=False)
    before = jnp.cumsum(live.sum(axis=1, dtype=jnp.uint32)) - live.sum(axis=1, dtype=jnp.uint32)
    rank = before[:, None] + jnp.cumsum(live, axis=1, dtype=jnp.uint32) - 1
    slot = jnp.where(live, rank, jnp.uint32(2**32 - 1))
    page = jnp.broadcast_to(rows.astype(jnp.int32)[:, None], live.shape)
    block = jnp.broadcast_to(jnp.arange(blocks, dtype=jnp.int32), live.shape)
    out_page = jnp.full(capacity, NO_PAGE).at[slot].set(page, mode="drop")
    out_block = jnp.zeros(capacity, jnp.int32).at[slot].set(block, mode="drop")
    # Each of these rows has a flag: if there are more rows than room, there are more flags too.
    count = live.sum(dtype=jnp.uint32)
    overflow = (count > capacity) | (has_flag.sum(dtype=jnp.uint32) > capacity)
    return out_page, out_block, jnp.minimum(count, capacity).astype(jnp.int32), overflow


def _blocks(words: UInt32[Array, "p w"], block_words: int) -> UInt32[Array, "p blocks b"]:
    pages, page_words = words.shape
    return words.reshape(pages, page_words // block_words, block_words)


def rows_inside(page: Array, block: Array, pages: int, blocks: int) -> Array:
    """``page``, and `NO_PAGE` for every block outside of a pool of ``pages`` by ``blocks``.

    An index must not be negative, which would count from the end, nor in the range of one axis and
    out of that of the other.
    """
    inside = (page >= 0) & (page < pages) & (block >= 0) & (block < blocks)
    return jnp.where(inside, page, NO_PAGE)


def _take(words: UInt32[Array, "p w"], page: Array, block: Array, block_words: int) -> Array:
    """The blocks at ``(page, block)``; zeros outside of the pool."""
    blocks = _blocks(words, block_words)
    if not blocks.size:
        return jnp.zeros((*page.shape, block_words), jnp.uint32)
    page = rows_inside(page, block, *blocks.shape[:2])
    return blocks.at[page, block].get(mode="fill", fill_value=0)


def _byte_mask(mixed: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """``0xFF`` at each byte of ``mixed`` that is not zero."""
    folded = mixed | ((mixed >> 4) & jnp.uint32(0x0F0F0F0F))
    folded = folded | ((folded >> 2) & jnp.uint32(0x33333333))
    folded = folded | ((folded >> 1) & jnp.uint32(0x55555555))
    return (folded & jnp.uint32(0x01010101)) * jnp.uint32(0xFF)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _gather_diff(
    old: Array, new: Array, flags: Array, first: Any, capacity: int, block_words: int
) -> Delta:
    page, block, count, overflow = _select(flags, capacity)
    before = _take(old, page, block, block_words)
    after = _take(new, page, block, block_words)
    mask = _byte_mask(before ^ after)
    page = shifted(page, first)
    return Delta(page, block, mask, after & mask, count, overflow, block_words)


def _pad_bytes(values: Array, page_bytes: int) -> Array:
    pages = -(-values.size // page_bytes)
    return jnp.pad(values, (0, pages * page_bytes - values.size)).reshape(pages, page_bytes)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _flags_of_bytes(mask: Array, page_bytes: int, block_words: int) -> Array:
    rows = _pad_bytes(mask, page_bytes)
    block_bytes = 4 * block_words
    return rows.reshape(rows.shape[0], page_bytes // block_bytes, block_bytes).any(axis=-1)


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _from_bytes(
    mask: Array,
    data: Array,
    flags: Array,
    first_page: Any,
    capacity: int,
    page_bytes: int,
    block_words: int,
) -> Delta:
    masks, words = (
        lax.bitcast_convert_type(
            _pad_bytes(values, page_bytes).reshape(flags.shape[0], page_bytes // 4, 4), jnp.uint32
        )
        for values in (mask.astype(jnp.uint8) * jnp.uint8(255), data)
    )
    page, block, count, overflow = _select(flags, capacity)
    taken = _take(masks, page, block, block_words)
    written = _take(words, page, block, block_words) & taken
    page = shifted(page, first_page)
    return Delta(page, block, taken, written, count, overflow, block_words)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _from_slice(
    grid: SliceGrid, units: Any, start: tuple[Any, ...], first_page: Any, page_blocks: int
) -> Delta:
    found = slice_blocks(grid, jnp.asarray(units), tuple(map(jnp.asarray, start)))
    is_live = jnp.arange(grid.capacity, dtype=jnp.int32) < found.in_use
    page = first_page + (found.block // page_blocks).astype(jnp.int32)
    return Delta(
        jnp.where(is_live, page, NO_PAGE),
        (found.block % page_blocks).astype(jnp.int32),
        found.mask,
        found.data,
        found.in_use,
        ~found.is_inside,
        found.mask.shape[-1],
    )


@custom_vmap
def _apply_words(
    words: Array, versions: Array, page: Array, block: Array, mask: Array, data: Array, number: Any
) -> tuple[Array, Array]:
    """Gather, merge, one dependent scatter: a donated pool is updated in place."""
    if not words.size or not page.size:
        return words, versions
    blocks = _blocks(words, mask.shape[-1])
    page = rows_inside(page, block, *blocks.shape[:2])
    before = blocks.at[page, block].get(mode="fill", fill_value=0)
    after = (before & ~mask) | (data & mask)
    before, after = lax.optimization_barrier((before, after))
    written = blocks.at[page, block].set(after, mode="drop")
    changed = jnp.where(jnp.any(before != after, axis=-1), page, NO_PAGE)
    versions = versions.at[changed].set(number, mode="drop")
    return written.reshape(words.shape), versions


@_apply_words.def_vmap
def _apply_batch(axis_size: int, in_batched: list[bool], *args: Any) -> Any:
    words, versions, page, block, mask, data, number = batch_all(axis_size, in_batched, args)
    if not words.size or not page.size:
        return (words, versions), (True, True)
    pages = words.shape[1]
    if axis_size * pages > int(NO_PAGE):
        raise InvalidDeltaError(
            f"vmap over {axis_size} pools of {pages} pages: more than 2³¹ rows together. Map over "
            f"fewer at a time (jax.lax.map with batch_size)."
        )
    block_words = mask.shape[2]
    row = fold_rows(page, block, pages, words.shape[2] // block_words)
    flat_versions = versions.reshape(-1)
    # Each branch has its own number: pages that change take it from a table by row.
    written, marked = _apply_words(
        words.reshape(-1, words.shape[2]),
        jnp.zeros_like(flat_versions),
        row.reshape(-1),
        block.reshape(-1),
        mask.reshape(-1, block_words),
        data.reshape(-1, block_words),
        jnp.uint32(1),
    )
    versions = jnp.where(marked.reshape(versions.shape) == 1, number[:, None], versions)
    return (written.reshape(words.shape), versions), (True, True)


@jax.jit
def _apply_jit(
    words: Array,
    versions: Array,
    page: Array,
    block: Array,
    mask: Array,
    data: Array,
    number: Any,
    first: Any,
) -> tuple[Array, Array]:
    return _apply_words(words, versions, shifted(page, -first), block, mask, data, number)


def write_blocks(
    words: UInt32[Array, "p w"],
    page: Int32[Array, " n"],
    block: Int32[Array, " n"],
    mask: UInt32[Array, "n b"],
    data: UInt32[Array, "n b"],
) -> UInt32[Array, "p w"]:
    """The words with the bytes under ``mask`` written; blocks outside of the pool are left out."""
    none = jnp.zeros(words.shape[0], jnp.uint32)
    written, _ = _apply_words(words, none, page, block, mask, data, jnp.uint32(1))
    return written


def mark_written(
    words: UInt32[Array, "p w"], delta: Delta
) -> tuple[UInt32[Array, "p w"], Bool[Array, " p"]]:
    """The words with ``delta`` applied, and which pages have a byte that changed."""
    none, yes = jnp.zeros(words.shape[0], jnp.uint32), jnp.uint32(1)
    where = delta.page, delta.block
    written, marked = _apply_words(words, none, *where, delta.mask, delta.data, yes)
    return written, marked == 1


@custom_vmap
def most_of_branches(value: Array) -> Array:
    """``value``, one number or flag; under ``vmap`` the largest of all branches, one for them all.

    So one loop serves them all, and a ``cond`` stays one: on a flag of each branch it would compute
    both sides.
    """
    return value


@most_of_branches.def_vmap
def _most_batch(axis_size: int, in_batched: list[bool], value: Array) -> tuple[Array, bool]:
    return most_of_branches(jnp.max(value)), False


def batch_all(axis_size: int, in_batched: Any, args: Any) -> list[Array]:
    """Every argument with a leading axis of ``axis_size``."""
    return [
        arg if batched else jnp.broadcast_to(arg, (axis_size, *jnp.shape(arg)))
        for arg, batched in zip(args, in_batched, strict=True)
    ]


def fold_rows(
    page: Int32[Array, "batch n"], block: Int32[Array, "batch n"], pages: int, blocks: int
) -> Int32[Array, "batch n"]:
    """Rows of one pool of all branches; a block outside of its own pool stays outside."""
    page = rows_inside(page, block, pages, blocks)
    offset = jnp.arange(page.shape[0], dtype=jnp.int32)[:, None] * pages
    return jnp.where(page == NO_PAGE, NO_PAGE, page + offset)


@jax.jit
def _invert(words: Array, delta: Delta, first: Any) -> Delta:
    page = shifted(delta.page, -first)
    before = _take(words, page, delta.block, delta.block_words)
    return eqx.tree_at(lambda d: d.data, delta, before & delta.mask)


@jax.jit
def _merge(first: Delta, second: Delta) -> Delta:
    page, block = (
        jnp.concatenate([getattr(first, f), getattr(second, f)]) for f in ("page", "block")
    )
    order = jnp.arange(page.size, dtype=jnp.int32)
    page, block, order = lax.sort((page, block, order), num_keys=3)
    mask, data = (
        jnp.concatenate([getattr(first, f), getattr(second, f)])[order] for f in ("mask", "data")
    )
    live = page != NO_PAGE
    same = live[1:] & (page[1:] == page[:-1]) & (block[1:] == block[:-1])
    is_later = jnp.concatenate([jnp.zeros(1, bool), same])[: page.size]
    has_later = jnp.concatenate([same, jnp.zeros(1, bool)])[: page.size, None]
    following = jnp.minimum(jnp.arange(page.size) + 1, max(page.size - 1, 0))
    later_mask = jnp.where(has_later, mask[following], 0)
    later_data = jnp.where(has_later, data[following], 0)
    mask, data = mask | later_mask, (data & ~later_mask) | later_data
    merged = Delta(
        jnp.where(is_later, NO_PAGE, page),
        jnp.where(is_later | ~live, 0, block),
        jnp.where(is_later[:, None], 0, mask),
        jnp.where(is_later[:, None], 0, data),
        (live & ~is_later).sum(dtype=jnp.int32),
        first.overflow | second.overflow,
        first.block_words,
    )
    return _close_gaps(merged, page.size)


def _close_gaps(delta: Delta, capacity: int) -> Delta:
    """The rows in use moved to the front, in order."""
    (rows,) = jnp.nonzero(delta.page != NO_PAGE, size=capacity, fill_value=delta.capacity)
    return Delta(
        delta.page.at[rows].get(mode="fill", fill_value=NO_PAGE),
        delta.block.at[rows].get(mode="fill", fill_value=0),
        delta.mask.at[rows].get(mode="fill", fill_value=0),
        delta.data.at[rows].get(mode="fill", fill_value=0),
        jnp.minimum(delta.count, capacity),
        delta.overflow | (delta.count > capacity),
        delta.block_words,
    )


@functools.partial(jax.jit, static_argnums=1)
def _recapacitate(delta: Delta, capacity: int) -> Delta:
    return _close_gaps(delta, capacity)
