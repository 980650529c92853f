"""TLog: a log of deltas on the device, of fixed capacity, for what happens inside one program."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, UInt32

from mmsb_jax._base.arguments import MOST, check_kind, check_size, show
from mmsb_jax._base.errors import InvalidDeltaError
from mmsb_jax._core.delta import LINE_WORDS, NO_PAGE, Delta, bucket, check_block_words
from mmsb_jax._core.pages import as_version, clipped, is_one_integer
from mmsb_jax._core.settings import any_settings, is_traced


def as_number(name: str, value: Any) -> Int32[Array, ""] | np.int32:
    """The number of an entry, traced or not, as ``int32``; one beyond that is the nearest."""
    if not is_one_integer(value):
        raise TypeError(f"{name}={show(value)}: expected the number of an entry, one integer")
    if not isinstance(value, jax.Array):
        return np.int32(min(max(int(value), -MOST), MOST))
    with any_settings():
        return clipped(value)


class TLog(eqx.Module):
    """Deltas in the order in which they were appended, their blocks one behind the other.

    A pytree of fixed shape: it is carried through ``scan`` and batched by ``vmap``. Entries become
    commits with ``bus.extend(log)``.

    Attributes:
        page: ``int32[blocks]``: row of the pool of each block; `NO_PAGE` behind the last.
        block: ``int32[blocks]``: which block of its page.
        mask: ``uint32[blocks, block_words]``: ``0xFF`` at each byte that is written.
        data: ``uint32[blocks, block_words]``: the bytes.
        entry: ``int32[blocks]``: number of the entry that each block belongs to, from 0.
        ends: ``int32[commits]``: where the blocks of each entry end.
        count: ``int32[]``: entries.
        overflow: ``bool[]``: whether an entry found no room. It and all that followed are not in
            the log, which so stays a whole prefix of what was appended.
        version: ``uint32[]``: the version before the first entry.
        block_words: words of a block, static.
    """

    page: Int32[Array, " blocks"]
    block: Int32[Array, " blocks"]
    mask: UInt32[Array, "blocks block_words"]
    data: UInt32[Array, "blocks block_words"]
    entry: Int32[Array, " blocks"]
    ends: Int32[Array, " commits"]
    count: Int32[Array, ""]
    overflow: Bool[Array, ""]
    version: UInt32[Array, ""]
    block_words: int = eqx.field(static=True, default=LINE_WORDS)

    @classmethod
    def empty(
        cls, commits: int, blocks: int, block_words: int = LINE_WORDS, version: Any = 0
    ) -> "TLog":
        """A log without entries.

        Args:
            commits: entries that there is room for.
            blocks: blocks that there is room for, of all entries together.
            block_words: words of a block; that of the deltas to append.
            version: the version of the pages that the log begins at.

        Cost: ``blocks * (8 * block_words + 12) + 4 * commits`` bytes.
        """
        check_size("commits", commits)
        check_size("blocks", blocks)
        check_block_words(block_words)
        with any_settings():
            return cls(
                jnp.full(blocks, NO_PAGE),
                jnp.zeros(blocks, jnp.int32),
                jnp.zeros((blocks, block_words), jnp.uint32),
                jnp.zeros((blocks, block_words), jnp.uint32),
                jnp.zeros(blocks, jnp.int32),
                jnp.zeros(commits, jnp.int32),
                jnp.int32(0),
                jnp.bool_(False),
                as_version(version),
                block_words,
            )

    @property
    def blocks(self) -> Int32[Array, ""]:
        """Blocks in use."""
        with any_settings():
            return self._end_of(self.count)

    def _end_of(self, entries: Any) -> Int32[Array, ""]:
        """Where the blocks of the first ``entries`` entries end."""
        if not self.ends.shape[-1]:
            return jnp.zeros_like(self.count)
        last = jnp.maximum(entries - 1, 0)
        return jnp.where(entries > 0, self.ends.at[last].get(mode="clip"), 0)

    def append(self, delta: Delta) -> "TLog":
        """The log with one more entry; or the same log with ``overflow``, where there is no room.

        Raises:
            InvalidDeltaError: blocks of another size.

        Cost: the capacity of ``delta``, where the log is donated or carried by a ``scan``.
        """
        check_kind("delta", delta, Delta)
        if delta.block_words != self.block_words:
            raise InvalidDeltaError(
                f"append of blocks of {delta.block_words} words to a log of blocks of "
                f"{self.block_words}; make both with the same block_words"
            )
        with any_settings():
            return _append(self, delta)

    def delta(self, entry: Any, capacity: int | None = None) -> Delta:
        """The delta of one entry, counted from 0.

        Args:
            entry: its number; one that the log does not have gives the empty delta.
            capacity: blocks to make room for; needed under a transformation, else as many as the
                entry has, rounded up to a power of two.

        Raises:
            InvalidDeltaError: under a transformation, no capacity.
        """
        number = as_number("entry", entry)
        if capacity is None:
            if is_traced((self, entry)):
                raise InvalidDeltaError(
                    "TLog.delta needs capacity=… under a transformation: the most blocks that an "
                    "entry has"
                )
            with any_settings():
                ends = np.asarray(self.ends)[: len(self)]
            sizes = np.diff(ends, prepend=0)
            capacity = bucket(int(sizes[entry])) if 0 <= entry < len(self) else 0
        check_size("capacity", capacity)
        with any_settings():
            return _delta(self, number, capacity)

    def __len__(self) -> int:
        """Entries; outside of transformations only."""
        with any_settings():
            return int(self.count)

    def __getitem__(self, index: Any) -> Any:
        """The delta of an entry, or the log of a slice of entries; outside of transformations.

        Raises:
            IndexError: no such entry.
            ValueError: a slice with a step.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"a slice of a log has no step; got step={step}")
            return self.slice(start, max(start, stop))
        if not -len(self) <= index < len(self):
            raise IndexError(f"entry {index} of a log with {len(self)} entries")
        return self.delta(index % len(self))

    def slice(self, start: Any, stop: Any) -> "TLog":
        """The log of the entries ``start … stop - 1``, of the same capacity."""
        first, end = as_number("start", start), as_number("stop", stop)
        with any_settings():
            return _slice(self, first, end)


@jax.jit
def _append(log: TLog, delta: Delta) -> TLog:
    blocks, commits = log.page.shape[0], log.ends.shape[0]
    start = log.blocks
    end = start + delta.count
    fits = (end <= blocks) & (log.count < commits)
    fits &= ~(log.overflow | delta.overflow)
    rank = jnp.arange(delta.capacity, dtype=jnp.int32)
    # Every row has a place of its own, so that the scatter is defined on every backend.
    slot = jnp.where(fits & (rank < delta.count), start + rank, blocks + rank)

    ends = log.ends
    if commits:
        ends = ends.at[jnp.where(fits, log.count, commits)].set(end, mode="drop")

    def put(column: Array, rows: Array) -> Array:
        return column.at[slot].set(rows, mode="drop", unique_indices=True)

    return TLog(
        put(log.page, delta.page),
        put(log.block, delta.block),
        put(log.mask, delta.mask),
        put(log.data, delta.data),
        put(log.entry, jnp.broadcast_to(log.count, rank.shape)),
        ends,
        log.count + fits.astype(jnp.int32),
        ~fits,
        log.version,
        log.block_words,
    )


def _window(log: TLog, start: Array, count: Array, size: int) -> tuple[Array, ...]:
    """``size`` rows of each column from ``start`` on; `NO_PAGE` and zeros behind ``count``."""
    rank = jnp.arange(size, dtype=jnp.int32)
    rows = jnp.where(rank < count, start + rank, np.int32(log.page.shape[0]))
    return tuple(
        column.at[rows].get(mode="fill", fill_value=fill)
        for column, fill in (
            (log.page, int(NO_PAGE)),
            (log.block, 0),
            (log.mask, 0),
            (log.data, 0),
            (log.entry, 0),
        )
    )


@functools.partial(jax.jit, static_argnums=2)
def _delta(log: TLog, entry: Array, capacity: int) -> Delta:
    if not log.page.shape[0]:
        return Delta.empty(capacity, log.block_words)
    is_there = (entry >= 0) & (entry < log.count)
    start = log._end_of(entry)
    count = jnp.where(is_there, log._end_of(entry + 1) - start, 0)
    page, block, mask, data, _ = _window(log, start, count, capacity)
    kept = jnp.minimum(count, capacity)
    return Delta(page, block, mask, data, kept, count > capacity, log.block_words)


@jax.jit
def _slice(log: TLog, start: Array, stop: Array) -> TLog:
    stop = jnp.clip(stop, 0, log.count)
    start = jnp.clip(start, 0, stop)
    first = log._end_of(start)
    count = log._end_of(stop) - first
    page, block, mask, data, entry = _window(log, first, count, log.page.shape[0])
    rank = jnp.arange(log.ends.shape[0], dtype=jnp.int32)
    ends = log.ends.at[rank + start].get(mode="fill", fill_value=0) - first
    return TLog(
        page,
        block,
        mask,
        data,
        jnp.where(page == NO_PAGE, 0, entry - start),
        jnp.where(rank < stop - start, ends, 0),
        stop - start,
        log.overflow,
        log.version + start.astype(jnp.uint32),
        log.block_words,
    )
