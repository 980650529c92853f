"""Packing: the words of one leaf, from and to its rows of a pool.

One program a (shape, dtype), with the place in the pool as an argument: one program a layout would
take seconds to compile for a few hundred leaves. What JAX cannot hold (NumPy's 64-bit types while
JAX's are off, strings, dates) is packed on the host.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import StructureError
from mmsb_jax._core.region import Region
from mmsb_jax._core.tree.leaves import LeafSpec, host_array, is_holdable, rebuild
from mmsb_jax._core.tree.words import from_words, to_words


def rows_source(leaf: Any) -> Any:
    """What `put` puts: an array of the device, or the words of one of the host."""
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if is_holdable(np.dtype(leaf.dtype)):
            return _without_axes(leaf)
    raw = host_array(leaf).reshape(-1).view(np.uint8)
    words = np.zeros(-(-raw.size // 4), np.uint32)
    words.view(np.uint8)[: raw.size] = raw
    return words


def _without_axes(array: jax.Array) -> jax.Array:
    """``array``, replicated where its type names axes of a mesh: rows of a pool have no axes."""
    if isinstance(array, Tracer):
        return _traced_without_axes(array)
    sharding = array.sharding
    if not isinstance(sharding, NamedSharding):
        return array
    mesh = sharding.mesh
    if not isinstance(mesh, Mesh) or AxisType.Explicit not in mesh.axis_types:
        return array
    return jax.device_put(
        array, NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec())
    )


def _traced_without_axes(array: Any) -> Any:
    spec = getattr(getattr(jax.typeof(array), "sharding", None), "spec", ())
    if all(axis is None for axis in spec):
        return array
    return jax.sharding.reshard(array, PartitionSpec())


def rows_of_array(source: Any, page_words: int) -> UInt32[Array, "rows w"]:
    """The bytes of ``source`` as whole rows, the last one zero-filled."""
    flat = to_words(source)
    return jnp.pad(flat, (0, -flat.size % page_words)).reshape(-1, page_words)


def _write(words: UInt32[Array, "p w"], source: Any, page: Any) -> UInt32[Array, "p w"]:
    """The pool with the bytes of ``source`` from row ``page`` on."""
    rows = rows_of_array(source, words.shape[1])
    return lax.dynamic_update_slice(words, rows, (page, np.int32(0)))


put = jax.jit(_write)
put_donated = jax.jit(_write, donate_argnums=0)


@jax.jit
def put_versioned(
    words: UInt32[Array, "p w"],
    versions: UInt32[Array, " p"],
    source: Any,
    page: Any,
    number: UInt32[Array, ""],
) -> tuple[UInt32[Array, "p w"], UInt32[Array, " p"]]:
    """`_write`, and ``number`` at the rows that differ."""
    rows = rows_of_array(source, words.shape[1])
    count = rows.shape[0]
    before = lax.dynamic_slice(words, (page, np.int32(0)), rows.shape)
    changed = jnp.any(before != rows, axis=1)
    marked = jnp.where(changed, number, lax.dynamic_slice(versions, (page,), (count,)))
    versions = lax.dynamic_update_slice(versions, marked, (page,))
    # What is written follows from the versions, so that XLA reads the old rows before it writes
    # the new ones, and needs no copy of the pool. Rows that did not change are equal anyway.
    written = lax.dynamic_slice(versions, (page,), (count,)) == number
    rows = jnp.where(written[:, None], rows, before)
    return lax.dynamic_update_slice(words, rows, (page, np.int32(0))), versions


def leaf_of(words: UInt32[Array, "p w"], region: Region) -> Any:
    """One leaf, from its rows."""
    spec = region.spec
    dtype = parse_dtype(spec.dtype)
    if isinstance(words, Tracer):
        if not is_holdable(dtype):
            raise StructureError(
                f"{region.name}: {spec} cannot be held by JAX here, and so not unpacked inside a "
                f"transformation. Turn on 64-bit types (jax_enable_x64), or leave it out."
            )
    elif not (spec.kind == "jax" or spec.kind.startswith("key:")) or not is_holdable(dtype):
        raw = np.asarray(take_rows(words, np.int32(region.page), region.pages))
        raw = raw.reshape(-1).view(np.uint8)[: spec.nbytes].copy()
        return rebuild(spec, raw.view(dtype).reshape(spec.shape))
    array = _read(words, np.int32(region.page), region.pages, spec)
    if spec.kind.startswith("key:"):
        return jax.random.wrap_key_data(array, impl=spec.kind.removeprefix("key:"))
    return array


@functools.partial(jax.jit, static_argnums=2)
def take_rows(words: UInt32[Array, "p w"], page: Any, pages: int) -> UInt32[Array, "rows w"]:
    """``pages`` rows of the pool from ``page`` on."""
    return lax.dynamic_slice(words, (page, np.int32(0)), (pages, words.shape[1]))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _read(words: UInt32[Array, "p w"], page: Any, pages: int, spec: LeafSpec) -> Array:
    return from_words(take_rows(words, page, pages).reshape(-1), spec)
