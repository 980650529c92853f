"""Groups of entries that are ⊕-ed together, in a layout made for pull: degree-bucketed, padded.

A group is what flows into one result: the entries of a column for `vecmat`. Groups of about the
same length share a *bucket*, an array ``[width, groups]`` in which the shorter ones are padded, so
that a fold is one gather and one reduction of an array of fixed shape, without a scatter. Widths go
in steps of a quarter to a half, so that about a sixth of the entries is padding.

Source: the padded formats of sparse matrices (ELLPACK, sliced; Bell and Garland 2009), with slices
by degree.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from mmsb_jax._base.errors import StructureError
from mmsb_jax.algebra._values.operations import Operations

MOST_ENTRIES = 2**31 - 1


class Groups(eqx.Module):
    """The entries of each group.

    Attributes:
        met: ``int32[slots]``: what each entry meets, an element of the other operand; the length of
            that operand for padding. Buckets one behind the other, each ``[width, groups]``.
        entry: ``int32[slots]``: where the entry's own value is; None where the values lie in the
            order of the slots.
        place: ``int32[groups]``: where each group's result is among those of all buckets; one
            behind the last for an empty group.
        buckets: ``(width, groups)`` of each bucket, static.
    """

    met: Int32[Array, " slots"]
    entry: Int32[Array, " slots"] | None
    place: Int32[Array, " groups"]
    buckets: tuple[tuple[int, int], ...] = eqx.field(static=True)

    @property
    def rows(self) -> int:
        """Groups that have an entry."""
        return sum(count for _, count in self.buckets)

    def spans(self) -> list[tuple[slice, int, int]]:
        """For each bucket: its slots, its width, its number of groups."""
        found, start = [], 0
        for width, count in self.buckets:
            found.append((slice(start, start + width * count), width, count))
            start += width * count
        return found

    def met_at(self, slot: Array) -> Array:
        """What the entry of each slot meets; 0 where there is no entry at all."""
        return _at(self.met, slot)

    def entry_at(self, slot: Array) -> Array:
        """Where the value of each slot's entry is; 0 where there is no entry at all."""
        return slot if self.entry is None else _at(self.entry, slot)

    def group_of_slot(self) -> Int32[Array, " slots"]:
        """Which group each slot belongs to."""
        groups = jnp.arange(self.place.shape[0], dtype=jnp.int32)
        of_row = jnp.zeros(self.rows + 1, jnp.int32).at[self.place].set(groups)
        tiles, row = [jnp.zeros(0, jnp.int32)], 0
        for width, count in self.buckets:
            tiles.append(jnp.tile(of_row[row : row + count], width))
            row += count
        return jnp.concatenate(tiles)


class Arranged:
    """A layout as it is made on the host, before its arrays go to the device.

    Args:
        offsets: ``[groups + 1]``: where each group's entries begin, in the order of groups.
    """

    def __init__(self, offsets: np.ndarray) -> None:
        degree = np.diff(offsets)
        widths = _widths(int(degree.max(initial=0)))
        bucket = np.where(degree == 0, len(widths), np.searchsorted(widths, degree))
        order = np.argsort(bucket, kind="stable")
        counts = np.bincount(bucket, minlength=len(widths) + 1)[: len(widths)]
        self.buckets = tuple(
            (int(width), int(count)) for width, count in zip(widths, counts, strict=True) if count
        )
        self.rows = int(counts.sum())
        self.place = np.full(len(degree), self.rows, np.int32)
        self.place[order[: self.rows]] = np.arange(self.rows, dtype=np.int32)
        self.slots = sum(width * count for width, count in self.buckets)
        if self.slots >= MOST_ENTRIES:
            raise StructureError(
                f"{self.slots} padded entries; at most {MOST_ENTRIES} are addressed"
            )
        # Where each entry goes: its bucket's start, and then [position in group, row of bucket].
        starts, strides, columns = (np.zeros(len(degree), np.int64) for _ in range(3))
        start = row = 0
        for width, count in self.buckets:
            groups = order[row : row + count]
            starts[groups], strides[groups] = start, count
            columns[groups] = np.arange(count)
            start, row = start + width * count, row + count
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], degree)
        base = np.repeat(starts + columns, degree)
        self.slot_of_entry = (base + within * np.repeat(strides, degree)).astype(np.int32)

    def spread(self, values: np.ndarray, padding: int, dtype: type = np.int32) -> np.ndarray:
        """One value an entry into its slot, ``padding`` elsewhere."""
        out = np.full(self.slots, padding, dtype)
        out[self.slot_of_entry] = values
        return out

    def groups(self, met: np.ndarray, met_padding: int, entry: np.ndarray | None = None,
               entry_padding: int = 0) -> Groups:  # fmt: skip
        """The layout, for entries that meet ``met`` and whose values are at ``entry``."""
        where = None if entry is None else jnp.asarray(self.spread(entry, entry_padding))
        return Groups(
            jnp.asarray(self.spread(met, met_padding)), where, jnp.asarray(self.place), self.buckets
        )


def _at(array: Array, index: Array) -> Array:
    # The layout was made on the host, with every index inside. Of nothing XLA gathers nothing.
    if not array.shape[0]:
        return jnp.zeros(index.shape, array.dtype)
    return array.at[index].get(mode="promise_in_bounds")


def _widths(most: int) -> np.ndarray:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, … until ``most`` fits."""
    widths = [1]
    while widths[-1] < most:
        last = widths[-1]
        power = 1 << (last.bit_length() - 1)
        widths.append(last + max(1, power // 2))
    return np.array(widths)


def with_zero(semiring: Operations, x: Array) -> Array:
    """``x`` and behind it the 0̄ that padding meets."""
    return jnp.concatenate([x, jnp.asarray(semiring.zero_of(x.dtype)).reshape(1)])
