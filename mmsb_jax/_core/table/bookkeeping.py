"""Bookkeeping of a page table: who holds which page, how many hold it, and which are free.

Nothing here reads or writes a word of the pool.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int32

from mmsb_jax._core.delta import NO_PAGE

_ASSIGNED_AT_ONCE = 32
"""Branches that are given their pages together, so that many take no memory for all of them."""


class Bookkeeping(NamedTuple):
    """What a page table counts; the attributes are those of `PageTable`."""

    table: Int32[Array, "branches length"]
    ref_count: Int32[Array, " pages"]
    free: Int32[Array, " pages"]
    free_count: Int32[Array, ""]
    overflow: Bool[Array, ""]


class Claim(NamedTuple):
    """What `claim` has found for each of its requests.

    Attributes:
        page: ``int32[n]``: the page of the pool that the branch has for itself now; `NO_PAGE` where
            the request is left out.
        is_last: ``bool[n]``: whether no later request is of the same page of the same branch.
        taken_count: ``int32[]``: pages that were taken from the free ones.
        taken: ``int32[n]``: these pages; `NO_PAGE` behind ``taken_count``.
        before: ``int32[n]``: the page that the branch held before each; `NO_PAGE` for none.
    """

    page: Int32[Array, " n"]
    is_last: Bool[Array, " n"]
    taken_count: Int32[Array, ""]
    taken: Int32[Array, " n"]
    before: Int32[Array, " n"]


def claim(
    books: Bookkeeping, branch: Int32[Array, " n"], page: Int32[Array, " n"]
) -> tuple[Bookkeeping, Claim]:
    """Give branches pages of their own: those held alone stay; shared ones, and none, move.

    All or nothing: without enough free pages nothing changes but the overflow. Of several that
    write all references to a page in one call, one keeps it, so that no page comes free here.

    Args:
        books: the bookkeeping.
        branch, page: which page of which branch; outside of the table it is left out.
    """
    branches, length = books.table.shape
    inside = (branch >= 0) & (branch < branches) & (page >= 0) & (page < length)
    branch, page = jnp.where(inside, branch, NO_PAGE), jnp.where(inside, page, NO_PAGE)
    held = books.table.at[branch, page].get(mode="fill", fill_value=NO_PAGE)
    order = jnp.arange(branch.size, dtype=jnp.int32)
    # Now all that is of one page of the pool stands together, and in it what is of one branch.
    held, branch, page, order = lax.sort((held, branch, page, order), num_keys=4)
    is_request = branch != NO_PAGE
    begins_page = _begins(held)
    begins_place = begins_page | _begins(branch) | _begins(page)
    is_first = is_request & begins_place
    place = jnp.cumsum(is_first, dtype=jnp.int32)
    group = jnp.cumsum(begins_page, dtype=jnp.int32) - 1
    writers = jnp.zeros_like(group).at[group].add(is_first.astype(jnp.int32))
    is_last_writer = place == jnp.cumsum(writers, dtype=jnp.int32)[group]
    holders = books.ref_count.at[held].get(mode="fill", fill_value=0)
    stays = is_last_writer & (writers[group] == holders)

    moves = is_first & ~stays
    number = jnp.cumsum(moves, dtype=jnp.int32)
    count = moves.sum(dtype=jnp.int32)
    fits = ~books.overflow & (count <= books.free_count)
    moves, is_request = moves & fits, is_request & fits
    fresh = jnp.where(is_request & ~stays, books.free_count - number, NO_PAGE)
    fresh = books.free.at[fresh].get(mode="fill", fill_value=NO_PAGE)
    own = jnp.where(is_request, jnp.where(stays, held, fresh), NO_PAGE)

    left = jnp.where(moves, held, NO_PAGE)
    taken = jnp.where(moves, own, NO_PAGE)
    ref_count = books.ref_count.at[left].add(-1, mode="drop").at[taken].set(1, mode="drop")
    table = books.table.at[jnp.where(moves, branch, NO_PAGE), page].set(own, mode="drop")
    count = jnp.where(fits, count, 0)
    books = Bookkeeping(
        table, ref_count, books.free, books.free_count - count, books.overflow | ~fits
    )
    slot = jnp.where(moves, number - 1, NO_PAGE)
    none = jnp.full_like(own, NO_PAGE)
    return books, Claim(
        jnp.zeros_like(own).at[order].set(own),
        jnp.zeros_like(is_request).at[order].set(jnp.append(begins_place[1:], True)),
        count,
        none.at[slot].set(own, mode="drop"),
        none.at[slot].set(held, mode="drop"),
    )


@jax.jit
def fork(books: Bookkeeping, source: Int32[Array, "..."], into: Int32[Array, " n"]) -> Bookkeeping:
    """Let each branch of ``into`` hold the pages of its ``source``: of one for all, or of each."""
    branches = books.table.shape[0]
    known = (source >= 0) & (source < branches) & ~books.overflow
    into = last_of_each(jnp.where(known, into, NO_PAGE), branches)
    rows = books.table.at[jnp.where(known, source, NO_PAGE)].get(mode="fill", fill_value=NO_PAGE)
    rows = lax.optimization_barrier(rows)
    is_one = (into != NO_PAGE).astype(jnp.int32)
    if source.ndim:
        gained = books.ref_count.at[rows].add(is_one[:, None], mode="drop")
    else:
        gained = books.ref_count.at[rows].add(is_one.sum(dtype=jnp.int32), mode="drop")
    return _assign(books._replace(ref_count=gained), into, rows)


@jax.jit
def release(books: Bookkeeping, branch: Int32[Array, " n"]) -> Bookkeeping:
    """Let branches hold nothing."""
    branches, length = books.table.shape
    branch = last_of_each(jnp.where(books.overflow, NO_PAGE, branch), branches)
    return _assign(books, branch, jnp.full(length, NO_PAGE))


def _assign(books: Bookkeeping, into: Int32[Array, " n"], rows: Int32[Array, "..."]) -> Bookkeeping:
    """``books`` in which the branches ``into`` hold ``rows``, whose references are counted.

    ``rows`` is one for all of them (``int32[length]``), or one for each (``int32[n, length]``).
    """
    each = min(into.size, _ASSIGNED_AT_ONCE)
    if not each:
        return books
    rounds = -(-into.size // each)
    fill = rounds * each - into.size
    into = jnp.pad(into, (0, fill), constant_values=NO_PAGE).reshape(rounds, each)
    many = jnp.pad(rows, ((0, fill), (0, 0))).reshape(rounds, each, -1) if rows.ndim > 1 else None

    def assign(books: Bookkeeping, few: tuple[Array, Array | None]) -> tuple[Bookkeeping, None]:
        branches, own = few
        return _assign_few(books, branches, rows if own is None else own), None

    return lax.scan(assign, books, (into, many))[0]


def _assign_few(books: Bookkeeping, into: Array, rows: Array) -> Bookkeeping:
    lost = books.table.at[into].get(mode="fill", fill_value=NO_PAGE)
    counts = books.ref_count, books.free, books.free_count
    ref_count, free, free_count = lax.cond(
        jnp.any(lost != NO_PAGE), _give_back, lambda *held: held[:3], *counts, lost
    )
    # What is written follows from all that was read, so that XLA needs no copy of the table.
    written = jnp.where((into != NO_PAGE)[:, None] & (free_count >= 0), rows, lost)
    table = books.table.at[into].set(written, mode="drop")
    return Bookkeeping(table, ref_count, free, free_count, books.overflow)


def _give_back(
    ref_count: Array, free: Array, free_count: Array, lost: Array
) -> tuple[Array, Array, Array]:
    """The counts without the references ``lost``; pages that nobody holds now are free."""
    after = ref_count.at[lost].add(-1, mode="drop")
    comes_free = (ref_count > 0) & (after == 0)
    slot = free_count + jnp.cumsum(comes_free, dtype=jnp.int32) - 1
    pages = jnp.arange(free.size, dtype=jnp.int32)
    free = free.at[jnp.where(comes_free, slot, NO_PAGE)].set(pages, mode="drop")
    return after, free, free_count + comes_free.sum(dtype=jnp.int32)


def _begins(column: Array) -> Array:
    """Where another value begins than the one before it."""
    return jnp.append(jnp.ones(1, bool), column[1:] != column[:-1])[: column.size]


def last_of_each(branch: Int32[Array, " n"], branches: int) -> Int32[Array, " n"]:
    """``branch``, and `NO_PAGE` for what is none, or stands once more behind."""
    branch = jnp.where((branch >= 0) & (branch < branches), branch, NO_PAGE)
    order = jnp.arange(branch.size, dtype=jnp.int32)
    last = jnp.full(branches, -1, jnp.int32).at[branch].max(order, mode="drop")
    is_last = last.at[branch].get(mode="fill", fill_value=-1) == order
    return jnp.where(is_last, branch, NO_PAGE)


def rank_among_equals(branch: Int32[Array, " n"]) -> Int32[Array, " n"]:
    """How many times each branch stood before."""
    order = jnp.arange(branch.size, dtype=jnp.int32)
    sorted_branch, order = lax.sort((branch, order), num_keys=2)
    position = jnp.arange(branch.size, dtype=jnp.int32)
    start = lax.cummax(jnp.where(_begins(sorted_branch), position, 0))
    return jnp.zeros_like(order).at[order].set(position - start)
