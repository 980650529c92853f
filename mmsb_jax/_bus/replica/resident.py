"""Arrays of a replica: on the device where they are large, on the host too where they are small.

An array is brought forward without giving up the old one, and with the digest of what it became.
"""

import abc
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Int32, Shaped, UInt, UInt32

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.words import host_words
from mmsb_jax._bus.trees.tree import as_array
from mmsb_jax._core.digest import digest_flat
from mmsb_jax._core.settings import any_settings
from mmsb_jax._core.tree.leaves import (
    LeafSpec,
    host_array,
    is_holdable,
    rebuild,
    view_as,
    with_weak_type,
)
from mmsb_jax._core.tree.words import from_words, to_words
from mmsb_jax._store.encoding.base import unit_of_dtype
from mmsb_jax._store.encoding.decode import decode_all, decode_into
from mmsb_jax._store.encoding.digest import Lanes, digest_words
from mmsb_jax._store.encoding.sparse import read_sparse, sets_elements, sparse_elements
from mmsb_jax._store.format.chunk import SPARSE_CODINGS, ChunkData, Coding, own_data
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.state.state import word_count

_SMALL_BYTES = 1 << 16
_XOR_CODINGS = frozenset({Coding.XOR_ZSTD, Coding.XOR_GROUP})
"""Up to this size an array is moved whole: that costs less than to compile a program for it."""
_MOST_ELEMENTS = 1 << 30
"""Indices, also those of padding behind the last, must fit into 31 bits."""
_LEAST_BUCKET, _BUCKET_FACTOR = 1 << 10, 4
"""Sizes of scatters are rounded up to these times a power of the factor: few are compiled."""


@dataclass(slots=True)
class Pending:
    """What commits do to one array, one after the other, not decoded yet.

    Attributes:
        is_whole: whether they give all of it; what it was before does not matter.
        chunks: chunks with their data, in order.
    """

    is_whole: bool = False
    chunks: list[tuple[np.void, ChunkData]] = field(default_factory=list)

    def put_into(self, words: np.ndarray, nbytes: int) -> None:
        """Bring the words of an array on the host forward."""
        if self.is_whole:
            words[...] = 0
        decode_all(words.view(np.uint8)[:nbytes], self.chunks)


class ResidentArray(abc.ABC):
    """One array of a replica.

    Attributes:
        leaf: the array as the caller has it.
    """

    leaf: Any
    _retyped: Any = None

    def shown(self, is_weak: bool) -> Any:
        """The array for the caller, weakly typed or not."""
        if getattr(self.leaf, "weak_type", is_weak) == is_weak:  # keys and NumPy arrays have none
            return self.leaf
        if self._retyped is None:
            self._retyped = with_weak_type(self.leaf, is_weak)
        return self._retyped

    @property
    def is_there(self) -> bool:
        """Whether nobody has donated or deleted it."""
        return True

    @abc.abstractmethod
    def after(self, pending: Pending) -> "ResidentArray":
        """The array after ``pending``; this one stays as it is."""

    def begin_digest(self) -> None:  # noqa: B027 - most have nothing to begin
        """Begin with `lanes`, where that can be done meanwhile."""

    @abc.abstractmethod
    def lanes(self) -> Lanes:
        """Its digest, from all of its words; waits until it is there."""


def place_array(leaf: Any, words: np.ndarray, spec: LeafSpec, sharding: Any) -> ResidentArray:
    """Hold ``leaf``, whose words on the host are ``words`` (given away)."""
    with jax.enable_x64(True):
        elements = spec.nbytes // unit_of_dtype(spec.dtype)
        is_large = spec.nbytes > _SMALL_BYTES and elements <= _MOST_ELEMENTS
        if is_large and spec.kind == "jax" and is_holdable(parse_dtype(spec.dtype)):
            return OnDevice(leaf, spec, sharding)
    return OnHost(leaf, words, spec, sharding)


class OnHost(ResidentArray):
    """An array with its words on the host: small, no JAX array, or of a dtype that XLA lacks."""

    def __init__(self, leaf: Any, words: np.ndarray, spec: LeafSpec, sharding: Any) -> None:
        self.leaf = leaf
        self._words, self._spec, self._sharding = words, spec, sharding

    def after(self, pending: Pending) -> "OnHost":
        spec, words = self._spec, self._words.copy()
        pending.put_into(words, spec.nbytes)
        leaf = rebuild(spec, as_array(words, spec), self._sharding)
        return OnHost(leaf, words, spec, self._sharding)

    def lanes(self) -> Lanes:
        return digest_words(self._words)


class OnDevice(ResidentArray):
    """A JAX array whose bytes are on its devices alone; what changed travels there, no more."""

    def __init__(self, leaf: jax.Array, spec: LeafSpec, sharding: Any) -> None:
        self.leaf = leaf
        self._spec, self._sharding = spec, sharding
        self._lanes: Array | None = None

    @property
    def is_there(self) -> bool:
        return not self.leaf.is_deleted()

    def after(self, pending: Pending) -> "OnDevice":
        spec = self._spec
        with any_settings(), jax.enable_x64(True):
            if not pending.is_whole:
                unit = unit_of_dtype(spec.dtype)
                found = sparse_elements(pending.chunks, unit, spec.nbytes)
                if found is not None:
                    return self._set(*_latest(*found, spec))
                if self._is_in_one_place and all(
                    sets_elements(chunk, unit) or chunk["coding"] in _XOR_CODINGS
                    for chunk, _ in pending.chunks
                ):
                    return self._mixed(*_masks_of(pending.chunks, spec))
            return self._replaced(pending)

    @property
    def _is_in_one_place(self) -> bool:
        return len(self.leaf.addressable_shards) == 1

    def _set(self, elements: np.ndarray, values: np.ndarray) -> "OnDevice":
        """Some elements (of the codec's unit) become others."""
        shards = []
        for shard in self.leaf.addressable_shards:
            here = _inside(shard.index, self._spec, elements)
            local = LeafSpec(self._spec.kind, self._spec.dtype, shard.data.shape)
            places, after = (elements, values) if here is None else here(values)
            arguments = self._put(_padded(places, after, local), shard.device)
            shards.append(_set(self._near(shard), *arguments, local))
        return self._made_of(shards)

    def _mixed(self, keep: np.ndarray | None, mixed: np.ndarray) -> "OnDevice":
        (shard,) = self.leaf.addressable_shards
        arguments = self._put((mixed,) if keep is None else (mixed, keep), shard.device)
        return self._made_of([_mix(self._near(shard), *arguments, spec=self._spec)])

    def _replaced(self, pending: Pending) -> "OnDevice":
        spec = self._spec
        words = np.zeros(word_count(spec.nbytes), np.uint32)
        if not pending.is_whole:
            old = host_array(self.leaf).reshape(-1).view(np.uint8)
            words.view(np.uint8)[: spec.nbytes] = old
        pending.put_into(words, spec.nbytes)
        return OnDevice(rebuild(spec, view_as(spec, words), self._sharding), spec, self._sharding)

    def _put(self, arrays: Sequence[np.ndarray], device: Any) -> Any:
        # Not committed to a device where the array is not: what is made of both would be.
        return jax.device_put(tuple(arrays), None if self._sharding is None else device)

    def _made_of(self, shards: list[jax.Array]) -> "OnDevice":
        leaf, spec = shards[0], self._spec
        if self._sharding is not None:
            if self._is_far:
                shards = [jax.device_put(s, _memory_of(s, self._memory_kind)) for s in shards]
            leaf = jax.make_array_from_single_device_arrays(spec.shape, self._sharding, shards)
        return OnDevice(leaf, spec, self._sharding)

    @property
    def _memory_kind(self) -> str | None:
        return None if self._sharding is None else self._sharding.memory_kind

    @property
    def _is_far(self) -> bool:
        """Whether it lies in memory of the host that its devices do not compute in."""
        if self._memory_kind is None:
            return False
        (device, *_) = self._sharding.device_set
        return self._memory_kind != device.default_memory().kind

    def _near(self, shard: Any) -> jax.Array:
        """A shard in its device's own memory."""
        if not self._is_far:
            return shard.data
        return jax.device_put(shard.data, _memory_of(shard.data, None))

    def begin_digest(self) -> None:
        """Dispatch the digest, so that it is computed while others are."""
        if self._is_in_one_place:
            with any_settings(), jax.enable_x64(True):
                self._lanes = _digest(self._near(self.leaf.addressable_shards[0]))

    def lanes(self) -> Lanes:
        if self._lanes is None:  # a word may lie on two devices
            with any_settings(), jax.enable_x64(True):
                raw = host_array(self.leaf).reshape(-1).view(np.uint8)
            return digest_words(host_words(raw))
        with any_settings():
            first, second = np.asarray(self._lanes).tolist()
        return first, second


def _memory_of(shard: jax.Array, kind: str | None) -> SingleDeviceSharding:
    """Memory of the device of a shard; its own for None, for which JAX would take the shard's."""
    (device,) = shard.devices()
    return SingleDeviceSharding(device, memory_kind=kind or device.default_memory().kind)


def _latest(
    elements: np.ndarray, after: np.ndarray, spec: LeafSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Elements (int64[n]) ascending and once each, with the latest of their values."""
    if not (elements[1:] > elements[:-1]).all():
        order = np.argsort(elements, kind="stable")
        elements, after = elements[order], after[order]
        is_last = np.ones(elements.size, bool)
        np.not_equal(elements[1:], elements[:-1], out=is_last[:-1])
        elements, after = elements[is_last], after[is_last]
    end = int(elements[-1] + 1) * unit_of_dtype(spec.dtype) if elements.size else 0
    if end > spec.nbytes:
        raise BadFrameError(f"a chunk reaches to byte {end}")
    return elements, after


def _inside(index: tuple[slice, ...], spec: LeafSpec, elements: np.ndarray) -> Any:
    """A function of values that gives those within a part of the array, and where they are in it.

    None where the part is all of it.
    """
    bounds = [part.indices(length) for part, length in zip(index, spec.shape, strict=True)]
    shape = tuple(stop - start for start, stop, _ in bounds)
    if shape == spec.shape:
        return None
    each = parse_dtype(spec.dtype).itemsize // unit_of_dtype(spec.dtype)
    whole, rest = np.divmod(elements, each)
    places = np.unravel_index(whole, spec.shape)
    here = np.ones(elements.size, bool)
    for place, (start, stop, _) in zip(places, bounds, strict=True):
        here &= (place >= start) & (place < stop)
    local = [place[here] - start for place, (start, _, _) in zip(places, bounds, strict=True)]
    flat = np.ravel_multi_index(local, shape) * each + rest[here]
    return lambda values: (flat, values[here])


def _padded(
    elements: np.ndarray, values: np.ndarray, spec: LeafSpec
) -> tuple[np.ndarray, np.ndarray]:
    """Elements and values for a scatter, filled up to its bucket with what is not in the array."""
    total = 4 // values.itemsize * word_count(spec.nbytes)
    size = min(_bucket(elements.size), total)
    index = np.arange(total, total + size, dtype=np.int32)
    index[: elements.size] = elements
    after = np.zeros(size, values.dtype)
    after[: elements.size] = values
    return index, after


def _bucket(items: int) -> int:
    size = _LEAST_BUCKET
    while size < items:
        size *= _BUCKET_FACTOR
    return size


def _masks_of(
    chunks: Sequence[tuple[np.void, ChunkData]], spec: LeafSpec
) -> tuple[np.ndarray | None, np.ndarray]:
    """(keep, mixed) so that ``(words & keep) ^ mixed`` is what chunks make of words.

    ``keep`` is None where it is all ones.
    """
    keep, mixed = None, np.zeros(word_count(spec.nbytes), np.uint32)
    raw = mixed.view(np.uint8)[: spec.nbytes]
    for chunk, part in chunks:
        decode_into(raw, chunk, part)
        if int(chunk["coding"]) in SPARSE_CODINGS:
            keep = np.full_like(mixed, 0xFFFFFFFF) if keep is None else keep
            index, planes = read_sparse(chunk, own_data(part))
            unit = planes.shape[0]
            elements = index + int(chunk["offset"]) // unit
            keep.view(f"<u{unit}")[elements] = 0
    return keep, mixed


# Setting and digesting are two programs: XLA fuses them into one that takes several times as long.


@functools.partial(jax.jit, static_argnums=3)
def _set(
    array: Shaped[Array, "..."],
    index: Int32[Array, " n"],
    values: UInt[Array, " n"],
    spec: LeafSpec,
) -> Array:
    """The array with some elements (of the width of ``values``) set."""
    dtype = values.dtype

    def put(flat: UInt[Array, " m"]) -> UInt[Array, " m"]:
        return flat.at[index].set(values, mode="drop", unique_indices=True, indices_are_sorted=True)

    if _is_as_wide(array.dtype, dtype):
        elements = lax.bitcast_convert_type(array, dtype)
        elements = put(elements.reshape(-1)).reshape(array.shape)
        return lax.bitcast_convert_type(elements, array.dtype)
    elements = put(lax.bitcast_convert_type(to_words(array), dtype).reshape(-1))
    each = 4 // dtype.itemsize
    packed = elements.reshape(-1, each) if each > 1 else elements
    return from_words(lax.bitcast_convert_type(packed, np.uint32), spec)


def _is_as_wide(dtype: Any, unsigned: Any) -> bool:
    """Whether elements of ``dtype`` can be taken for unsigned integers as they are."""
    if dtype == jnp.bool_ or jnp.issubdtype(dtype, jnp.complexfloating):
        return False
    is_integer = jnp.issubdtype(dtype, jnp.integer)
    bits = (jnp.iinfo if is_integer else jnp.finfo)(dtype).bits
    return bits == 8 * unsigned.itemsize


@functools.partial(jax.jit, static_argnames="spec")
def _mix(
    array: Shaped[Array, "..."],
    mixed: UInt32[Array, " n"],
    keep: UInt32[Array, " n"] | None = None,
    *,
    spec: LeafSpec,
) -> Array:
    """The array with ``(words & keep) ^ mixed`` for its words."""
    words = to_words(array)
    return from_words((words if keep is None else words & keep) ^ mixed, spec)


@jax.jit
def _digest(array: Shaped[Array, "..."]) -> UInt32[Array, "2"]:
    return digest_flat(lax.optimization_barrier(to_words(array)))
