"""PageTable: branches of a state that share their pages until they are written."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int32, UInt32

from mmsb_jax._base.arguments import check_kind, check_size, show
from mmsb_jax._base.errors import StructureError
from mmsb_jax._core.delta import (
    NO_PAGE,
    Delta,
    check_fits,
    check_whole,
    most_of_branches,
    write_blocks,
)
from mmsb_jax._core.layout import Layout
from mmsb_jax._core.pack import leaf_of
from mmsb_jax._core.pages import Pages, clipped
from mmsb_jax._core.region import Region
from mmsb_jax._core.settings import any_settings
from mmsb_jax._core.table.bookkeeping import (
    Bookkeeping,
    Claim,
    claim,
    fork,
    last_of_each,
    rank_among_equals,
    release,
)

_COPIED_AT_ONCE = 64
"""Pages that are copied together, so that a write of many takes no memory for all of them."""


class PageTable(eqx.Module):
    """Branches of one state over one pool: a page is shared until a branch writes it.

    A pytree of fixed shape: it is carried through ``scan``, and batched by ``vmap``. A branch holds
    for each page of its state a page of the pool, or none, which reads as zeros. `fork` lets
    branches hold the pages of another; a write to a page that others hold too copies that page
    alone; `release` gives back what a branch holds.

    A write for which the pool has no room sets ``overflow``, and changes nothing; nor does any
    operation after it. So what is there is right, and stays so: check the flag where you can,
    `grow` the table, and go on from there.

    Numbers of branches and pages are checked where they are of Python or NumPy. In arrays of JAX,
    those that are none (-1) are left out: a batch can be filled up with them.

    Attributes:
        words: ``uint32[pages, page_words]``: the pool; what is in a free page means nothing.
        table: ``int32[branches, length]``: the page of the pool that a branch holds for each page
            of its state; `NO_PAGE` for none.
        ref_count: ``int32[pages]``: how many branches hold each page.
        free: ``int32[pages]``: a stack: its first ``free_count`` are the pages that nobody holds.
        free_count: ``int32[]``: how many these are.
        overflow: ``bool[]``: whether a write found no room, or was of a delta that had overflowed.

    >>> import jax.numpy as jnp
    >>> import mmsb_jax as mmsb
    >>> state = {"w": jnp.zeros(4096)}
    >>> layout = mmsb.Layout.of(state)
    >>> table = mmsb.PageTable.of(layout.pack(state), branches=3, pages=10)
    >>> table = table.fork(0, into=[1, 2])
    >>> four = mmsb.Delta.from_slice(layout.region("w"), jnp.full(4, 7.0), (1024,))
    >>> table = table.apply(1, four)
    >>> table.get(1, layout.region("w"))[1022:1026].tolist()
    [0.0, 0.0, 7.0, 7.0]
    >>> int(table.get(2, layout.region("w")).sum()), int(table.free_count)
    (0, 5)
    """

    words: UInt32[Array, "pages page_words"]
    table: Int32[Array, "branches length"]
    ref_count: Int32[Array, " pages"]
    free: Int32[Array, " pages"]
    free_count: Int32[Array, ""]
    overflow: Bool[Array, ""]

    @classmethod
    def empty(cls, layout: Layout, branches: int, pages: int) -> "PageTable":
        """A table whose branches hold nothing: a page is taken when it is first written.

        Args:
            layout: of the state of a branch.
            branches: rows of the table, at least one.
            pages: pages of the pool, at least one.

        Raises:
            TypeError, ValueError: what is no number of branches or pages.

        Cost: the pool, ``8 * pages`` bytes, and 4 for each page of each branch.
        """
        check_kind("layout", layout, Layout)
        return cls._with_room((layout.pages, layout.page_words), branches, pages)

    @classmethod
    def of(cls, state: Pages, branches: int, pages: int) -> "PageTable":
        """A table whose branch 0 holds ``state``, and the others nothing.

        Args:
            state: pages, as `Layout.pack` makes them.
            branches, pages: as for `empty`; ``pages`` at least those of the state.

        Raises:
            ValueError: fewer pages than the state has.

        Cost: as `empty`, and one pass over the state.
        """
        check_kind("state", state, Pages)
        if state.words.ndim != 2 or state.words.dtype != jnp.uint32:
            raise StructureError(
                f"pages of {state.words.dtype}{list(state.words.shape)} arrived; expected those of "
                f"one state, uint32[length, page_words], as Layout.pack makes them"
            )
        length = state.words.shape[0]
        made = cls._with_room(state.words.shape, branches, pages)
        if pages < length:
            raise ValueError(f"pages={pages}: the state has {length}; expected at least as many")
        with any_settings():
            held = jnp.arange(length, dtype=jnp.int32)
            return cls(
                lax.dynamic_update_slice(made.words, state.words, (0, 0)),
                made.table.at[0].set(held),
                made.ref_count.at[:length].set(1),
                made.free,
                jnp.int32(pages - length),
                made.overflow,
            )

    @classmethod
    def _with_room(cls, shape: tuple[int, ...], branches: Any, pages: Any) -> "PageTable":
        for name, value in (("branches", branches), ("pages", pages)):
            check_size(name, value)
            if value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        length, page_words = shape
        with any_settings():
            return cls(
                jnp.zeros((pages, page_words), jnp.uint32),
                jnp.full((branches, length), NO_PAGE),
                jnp.zeros(pages, jnp.int32),
                jnp.arange(pages, dtype=jnp.int32)[::-1],
                jnp.int32(pages),
                jnp.bool_(False),
            )

    @property
    def branches(self) -> int:
        """Rows of the table."""
        return self.table.shape[-2]

    @property
    def length(self) -> int:
        """Pages of the state of a branch."""
        return self.table.shape[-1]

    @property
    def pages(self) -> int:
        """Pages of the pool."""
        return self.words.shape[-2]

    # ------------------------------------------------------------------------------ branches

    def fork(self, source: Any, into: Any) -> "PageTable":
        """Let each branch of ``into`` hold what its source holds; no page is copied.

        All sources are read first, so that ``table.fork(parents, into=range(branches))`` draws the
        branches anew: beams of a search, particles of a filter.

        Args:
            source: the branch to fork, one for all or ``int32[n]``, one for each.
            into: branches, one or ``int32[n]``. What they held is given back. Of two that are the
                same the later one counts.

        Raises:
            TypeError, ValueError: what is no branch; sources that are not as many.

        Cost: 4 bytes for each page of each fork, and a count for it; where ``into`` held something,
        a look at the counts of the pool. None of the words: they need not be donated.
        """
        sources = _numbers("source", source, self.branches, most_axes=1)
        forks = _numbers("into", into, self.branches, most_axes=1)
        if sources.ndim and sources.shape != forks.shape:
            raise ValueError(
                f"{sources.size} sources for {forks.size} branches: expected one for all of them, "
                f"or one for each"
            )
        with any_settings():
            return PageTable(self.words, *fork(self._books, sources, forks.reshape(-1)))

    def release(self, branch: Any) -> "PageTable":
        """Let branches hold nothing; pages that no other holds are free.

        Args:
            branch: one, or ``int32[n]``.

        Cost: as `fork`.
        """
        branches = _numbers("branch", branch, self.branches, most_axes=1)
        with any_settings():
            return PageTable(self.words, *release(self._books, branches.reshape(-1)))

    def grow(self, pages: int) -> "PageTable":
        """The table with so many more free pages, and without ``overflow``.

        It is as it was before the write that found no room: make that again, and what came after.
        With ``pages=0`` the flag alone is taken back, to `release` something first.

        Cost: a copy of the pool.
        """
        check_size("pages", pages)
        with any_settings():
            return _grown(self, pages)

    # ------------------------------------------------------------------------------- reading

    def gather(self, branch: Any, page: Any) -> UInt32[Array, "... page_words"]:
        """The words of pages of branches: ``uint32[..., page_words]``.

        Args:
            branch, page: numbers of one shape, or that broadcast to one. What is not there, or held
                by none, is zeros.

        Cost: these pages.
        """
        places = self._places(branch, page)
        with any_settings():
            return _gather(self.words, self.table, *places)

    def read(self, branch: Any) -> Pages:
        """The state of one branch, for `Layout.unpack`; of several by ``jax.vmap``.

        Cost: a copy of the state.
        """
        number = self._one_branch(branch)
        with any_settings():
            pages = jnp.arange(self.length, dtype=jnp.int32)
            words = _gather(self.words, self.table, number, pages)
            return Pages(words, jnp.zeros(self.length, jnp.uint32))

    def get(self, branch: Any, region: Region) -> Any:
        """One array of one branch; of several by ``jax.vmap``.

        Args:
            branch: its number.
            region: the array, as ``layout.region(name)``.

        Raises:
            StructureError: a region that is not of this table's pages.

        Cost: the pages of the array.
        """
        number = self._one_branch(branch)
        self._check_region(region)
        with any_settings():
            pages = region.page + jnp.arange(region.pages, dtype=jnp.int32)
            words = _gather(self.words, self.table, number, pages)
            return leaf_of(words, dataclasses.replace(region, page=0))

    # ------------------------------------------------------------------------------- writing

    def scatter(self, branch: Any, page: Any, words: Any) -> "PageTable":
        """Write whole pages of branches; what `gather` gives.

        Args:
            branch, page: numbers of one shape, or that broadcast to one. Of two that are the same
                the later one counts.
            words: ``uint32[..., page_words]``.

        Raises:
            StructureError: words of another shape or dtype.

        Cost: these pages, where the table is donated; else a copy of the pool besides.
        """
        branches, pages = self._places(branch, page)
        shape = (*branches.shape, self.words.shape[-1])
        if np.shape(words) != shape or getattr(words, "dtype", None) != jnp.uint32:
            raise StructureError(
                f"words of {getattr(words, 'dtype', type(words).__name__)}"
                f"{list(np.shape(words))} arrived; expected uint32{list(shape)}, a page for each "
                f"place"
            )
        with any_settings():
            rows = jnp.asarray(words).reshape(-1, shape[-1])
            return _scatter(self, branches.reshape(-1), pages.reshape(-1), rows)

    def write(self, branch: Any, state: Pages) -> "PageTable":
        """Make ``state`` that of a branch; pages that are equal stay shared.

        Args:
            branch: one, or ``int32[n]``. Of two that are the same the later one counts.
            state: pages, as `Layout.pack` makes them: of the one branch, or with a leading axis of
                ``n`` under ``jax.vmap`` of it.

        Raises:
            StructureError: pages of another number or size.

        Cost: a few passes over the state; the pool needs room for the pages that differ alone.
        """
        branches = _numbers("branch", branch, self.branches, most_axes=1)
        check_kind("state", state, Pages)
        shape = (*branches.shape, self.length, self.words.shape[-1])
        if state.words.shape != shape or state.words.dtype != jnp.uint32:
            raise StructureError(
                f"pages of {state.words.dtype}{list(state.words.shape)} arrived; the table has "
                f"uint32{list(shape)} for {show(branch)}. Use the layout that it was made with."
            )
        with any_settings():
            return _write(self, branches.reshape(-1), state.words.reshape(-1, *shape[-2:]))

    def apply(self, branch: Any, delta: Delta) -> "PageTable":
        """Write the bytes of a delta: what is shared of the pages that it touches is copied first.

        Args:
            branch: one, or ``int32[n]``. One that stands twice is written in turn.
            delta: one for all of them, or with a leading axis of ``n``, one for each (as of
                ``jax.vmap``). Blocks outside of the state are left out.

        Raises:
            InvalidDeltaError: blocks that do not divide a page; a delta that overflowed (seen
                outside of transformations only: inside, the table overflows).
            ValueError: deltas that are not as many as the branches.

        Cost: the bytes of the delta and the pages that are copied, where the table is donated; else
        a copy of the pool besides.
        """
        branches = _numbers("branch", branch, self.branches, most_axes=1)
        check_kind("delta", delta, Delta)
        check_fits(self.words.shape[-1], delta)
        check_whole(delta)
        if delta.page.ndim > 1 and delta.page.shape[:-1] != branches.shape:
            raise ValueError(
                f"a delta of a batch of shape {delta.page.shape[:-1]} for branches of shape "
                f"{branches.shape}: expected one for all of them, or one for each"
            )
        with any_settings():
            return _apply(self, branches.reshape(-1), delta)

    # --------------------------------------------------------------------------- what is asked

    @property
    def _books(self) -> Bookkeeping:
        return Bookkeeping(self.table, self.ref_count, self.free, self.free_count, self.overflow)

    def _one_branch(self, branch: Any) -> Int32[Array, ""]:
        number = _numbers("branch", branch, self.branches)
        if number.ndim:
            raise ValueError(
                f"branch={show(branch)}: expected one number; for several, jax.vmap over them"
            )
        return number

    def _places(self, branch: Any, page: Any) -> tuple[Array, Array]:
        """Numbers of branches and pages, of one shape."""
        branches = _numbers("branch", branch, self.branches)
        pages = _numbers("page", page, self.length)
        try:
            shape = np.broadcast_shapes(branches.shape, pages.shape)
        except ValueError:
            raise ValueError(
                f"branches of shape {branches.shape} and pages of shape {pages.shape}: expected "
                f"shapes that broadcast to one"
            ) from None
        with any_settings():
            return jnp.broadcast_to(branches, shape), jnp.broadcast_to(pages, shape)

    def _check_region(self, region: Any) -> None:
        check_kind("region", region, Region, "; layout.region(name) is one")
        page_bytes = 4 * self.words.shape[-1]
        if region.page_bytes != page_bytes or region.page + region.pages > self.length:
            raise StructureError(
                f"{region.name!r} has pages {region.page} to {region.page + region.pages} of "
                f"{region.page_bytes} bytes; a branch has {self.length} of {page_bytes}. Use the "
                f"layout that the table was made with."
            )


def _numbers(name: str, value: Any, end: int, most_axes: int = 32) -> Int32[Array, "..."]:
    """Numbers below ``end``, as ``int32``; those of the device are not looked at."""
    found = value
    if not isinstance(value, jax.Array):
        try:
            found = np.asarray(value) if np.size(value) else np.zeros(np.shape(value), np.int32)
        except Exception:  # what NumPy makes nothing of
            found = np.asarray(None)
    if not jnp.issubdtype(found.dtype, jnp.integer) or found.ndim > most_axes:
        axes = " of one axis" if most_axes == 1 else ""
        raise TypeError(f"{name}={show(value)}: expected an integer, or an array{axes} of them")
    if isinstance(found, np.ndarray) and found.size and not 0 <= found.min() <= found.max() < end:
        raise ValueError(f"{name}={show(value)}: expected 0 to {end - 1}")
    with any_settings():
        return clipped(jnp.asarray(found))


@jax.jit
def _gather(words: Array, table: Array, branch: Array, page: Array) -> Array:
    """Pages of branches; zeros for what is not there."""
    branches, length = table.shape
    inside = (branch >= 0) & (branch < branches) & (page >= 0) & (page < length)
    branch = jnp.where(inside, branch, NO_PAGE)
    held = table.at[branch, page].get(mode="fill", fill_value=NO_PAGE)
    return words.at[held].get(mode="fill", fill_value=0)


def _write_pages(words: Array, page: Int32[Array, " n"], rows: UInt32[Array, "n w"]) -> Array:
    """The pool with whole pages written; none at `NO_PAGE`."""
    ones = jnp.full_like(rows, 0xFFFFFFFF)
    return write_blocks(words, page, jnp.zeros_like(page), ones, rows)


def _copy_pages(words: Array, claimed: Claim) -> Array:
    """The pool in which what was taken has the words that its branch had there before."""
    each = min(claimed.taken.size, _COPIED_AT_ONCE)

    def copy(number: Array, words: Array) -> Array:
        places = number * each + jnp.arange(each, dtype=jnp.int32)
        source, target = (
            pages.at[places].get(mode="fill", fill_value=NO_PAGE)
            for pages in (claimed.before, claimed.taken)
        )
        return _write_pages(words, target, words.at[source].get(mode="fill", fill_value=0))

    rounds = most_of_branches((claimed.taken_count + each - 1) // each)
    return lax.fori_loop(jnp.int32(0), rounds, copy, words)


@jax.jit
def _scatter(table: PageTable, branch: Array, page: Array, rows: Array) -> PageTable:
    if not page.size or not table.table.size:
        return table
    books, claimed = claim(table._books, branch, page)
    target = jnp.where(claimed.is_last, claimed.page, NO_PAGE)
    return PageTable(_write_pages(table.words, target, rows), *books)


@jax.jit
def _write(table: PageTable, branch: Array, words: Array) -> PageTable:
    pages = jnp.arange(table.length, dtype=jnp.int32)
    branch = last_of_each(branch, table.branches)
    before = _gather(table.words, table.table, branch[:, None], pages[None])
    changed = jnp.any(before != words, axis=-1)
    where = jnp.where(changed, branch[:, None], NO_PAGE).reshape(-1)
    return _scatter(table, where, jnp.tile(pages, branch.size), words.reshape(-1, words.shape[-1]))


@jax.jit
def _apply(table: PageTable, branch: Array, delta: Delta) -> PageTable:
    is_branch = (branch >= 0) & (branch < table.branches)
    overflow = table.overflow | jnp.any(delta.overflow & is_branch)
    if not delta.page.size or not table.table.size or not branch.size:
        return PageTable(table.words, *table._books._replace(overflow=overflow))
    shape = (branch.size, delta.capacity)
    page, block = (jnp.broadcast_to(x, shape).reshape(-1) for x in (delta.page, delta.block))
    mask, data = (
        jnp.broadcast_to(x, (*shape, delta.block_words)).reshape(-1, delta.block_words)
        for x in (delta.mask, delta.data)
    )
    owner = jnp.broadcast_to(branch[:, None], shape).reshape(-1)
    books, claimed = claim(table._books._replace(overflow=overflow), owner, page)
    words = _copy_pages(table.words, claimed)
    turn = jnp.repeat(rank_among_equals(branch), delta.capacity)

    def write(number: Array, words: Array) -> Array:
        target = jnp.where(turn == number, claimed.page, NO_PAGE)
        return write_blocks(words, target, block, mask, data)

    rounds = most_of_branches(jnp.max(turn) + 1)
    return PageTable(lax.fori_loop(jnp.int32(0), rounds, write, words), *books)


def _grown(table: PageTable, pages: int) -> PageTable:
    old, more = table.pages, jnp.arange(pages, dtype=jnp.int32)
    free = jnp.pad(table.free, (0, pages)).at[table.free_count + more]
    return PageTable(
        jnp.pad(table.words, ((0, pages), (0, 0))),
        table.table,
        jnp.pad(table.ref_count, (0, pages)),
        free.set(old + pages - 1 - more, mode="drop"),
        table.free_count + pages,
        jnp.zeros_like(table.overflow),
    )
