"""Packing: trees into the words of a pool, and back; the functions behind `Layout`'s methods.

On the device one program a (shape, dtype), with the place in the pool as an argument: one program a
layout would take seconds to compile for a few hundred leaves. What JAX cannot hold (NumPy's 64-bit
types while JAX's are off, strings, dates) is packed on the host.
"""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

from mmsb_jax._arguments import check_kind, show
from mmsb_jax._dtypes import parse_dtype
from mmsb_jax._errors import StructureError
from mmsb_jax.core._leaves import Constant, LeafSpec, describe, host_array, is_holdable, rebuild
from mmsb_jax.core._names import flatten_with_names, is_same_treedef, put_together
from mmsb_jax.core._pages import Pages, as_version
from mmsb_jax.core._words import from_words, to_words

if TYPE_CHECKING:
    from mmsb_jax.core._layout import Layout, Region


@contextmanager
def any_settings() -> Iterator[None]:
    """Inside, the user's settings of JAX neither stop nor change a move of bytes."""
    with (
        jax.transfer_guard("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        _no_mesh(),
    ):
        yield


def _no_mesh() -> AbstractContextManager[Any]:
    """No mesh in scope, so that pages and constants do not take its axes into their types."""
    if jax.sharding.get_abstract_mesh().empty:
        return nullcontext()
    try:
        return jax.set_mesh(None)  # pyright: ignore[reportArgumentType]
    except ValueError:  # inside a transformation the mesh is a part of the program
        return nullcontext()


def is_traced(tree: Any) -> bool:
    """Whether any leaf is a tracer, that is, whether we are inside a JAX transformation."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree_util.tree_leaves(tree))


def pack(layout: "Layout", tree: Any) -> Pages:
    """The pages of ``tree``; see `Layout.pack`."""
    leaves = _data_leaves(layout, tree)
    # Under vmap the pool of zeros is not batched, its successor is: nothing to donate.
    put = _put if is_traced(leaves) else _put_donated
    with any_settings():
        words = jnp.zeros((layout.pages, layout.page_words), jnp.uint32)
        for region, leaf in zip(layout.regions, leaves, strict=True):
            if region.pages:
                words = put(words, _rows_source(leaf), np.int32(region.page))
        return Pages(words, jnp.zeros(layout.pages, jnp.uint32))


def unpack(layout: "Layout", pages: Pages) -> Any:
    """The tree in ``pages``; see `Layout.unpack`."""
    check_pages(layout, pages)
    with any_settings():
        arrays = [_leaf_of(pages.words, region) for region in layout.regions]
    if layout.treedef is None:
        return {region.name: x for region, x in zip(layout.regions, arrays, strict=True)}
    constants = dict(layout.constants)
    data = iter(arrays)
    count = len(arrays) + len(constants)
    leaves = [constants[i] if i in constants else next(data) for i in range(count)]
    return put_together(layout.treedef, leaves, "the tree of the layout")


def get(layout: "Layout", pages: Pages, name: str) -> Any:
    """One array; see `Layout.get`."""
    region = layout.region(name)
    check_pages(layout, pages)
    with any_settings():
        return _leaf_of(pages.words, region)


def set_array(layout: "Layout", pages: Pages, name: str, value: Any, version: Any) -> Pages:
    """The pages with one array replaced; see `Layout.set`."""
    region = layout.region(name)
    check_pages(layout, pages)
    _check_has_bytes(name, value)
    fault = _misfit(region.spec, describe(value, name))
    if fault:
        raise StructureError(f"set({name!r}): {fault}. Nothing is cast: convert it first.")
    if not region.pages:
        return pages
    with any_settings():
        source, page = _rows_source(value), np.int32(region.page)
        if version is None:
            return Pages(_put(pages.words, source, page), pages.version)
        return Pages(*_put_versioned(pages.words, pages.version, source, page, as_version(version)))


def check_pages(layout: "Layout", pages: Pages) -> None:
    """Refuse pages that are not those of ``layout``."""
    check_kind("pages", pages, Pages)
    if isinstance(layout, type) or not hasattr(layout, "page_words"):
        raise TypeError(f"layout={show(layout)}: expected a Layout")
    expected = (layout.pages, layout.page_words)
    if pages.words.shape != expected or pages.words.dtype != jnp.uint32:
        raise StructureError(
            f"pages of {pages.words.dtype}{list(pages.words.shape)} arrived; the layout has "
            f"uint32{list(expected)}. Use the layout that packed them; for a batch, jax.vmap."
        )


def _data_leaves(layout: "Layout", tree: Any) -> list[Any]:
    """The data leaves of ``tree``, one a region, in order.

    Raises:
        StructureError: the tree is not of the layout's structure (every path is named), or it has
            shapes in the place of arrays.
    """
    if layout.treedef is None:
        wanted = [region.name for region in layout.regions]
        if not isinstance(tree, dict) or set(tree) != set(wanted):
            raise StructureError(
                f"this layout was made by hand. Expected a dict with the names {wanted}, got "
                f"{sorted(tree) if isinstance(tree, dict) else type(tree).__name__}."
            )
        arriving = {name: describe(tree[name], name) for name in wanted}
        leaves, treedef = [tree[name] for name in wanted], None
    else:
        names, all_leaves, treedef = flatten_with_names(tree)
        arriving = {n: describe(leaf, n) for n, leaf in zip(names, all_leaves, strict=True)}
        leaves = [
            leaf
            for leaf, spec in zip(all_leaves, arriving.values(), strict=True)
            if isinstance(spec, LeafSpec)
        ]
    faults = list(_misfits(layout, arriving))
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise StructureError(
            f"the tree differs from the layout at {len(faults)} path{'s'[: len(faults) > 1]}:\n"
            f"{listed}\nMake the layout of this tree with Layout.of(tree)."
        )
    if treedef is not None and not is_same_treedef(treedef, layout.treedef):
        raise StructureError(
            f"the tree has the paths of the layout, and other nodes or static fields:\n"
            f"  arrived  {treedef}\n  expected {layout.treedef}\n"
            f"Make the layout of this tree with Layout.of(tree)."
        )
    for region, leaf in zip(layout.regions, leaves, strict=True):
        _check_has_bytes(region.name, leaf)
    return leaves


def _check_has_bytes(name: str, leaf: Any) -> None:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise StructureError(
            f"{name}: a ShapeDtypeStruct arrived, which has no bytes. Expected an array: "
            f"Layout.of takes shapes, pack and set take values."
        )


def _misfits(layout: "Layout", arriving: dict[str, LeafSpec | Constant]) -> Iterator[str]:
    expected: dict[str, LeafSpec | Constant] = {r.name: r.spec for r in layout.regions}
    expected |= layout.constant_specs
    for name in sorted(expected.keys() | arriving.keys()):
        if name not in arriving:
            yield f"{name}: missing, the layout has {expected[name]}"
        elif name not in expected:
            yield f"{name}: {arriving[name]}, which the layout does not have"
        else:
            fault = _misfit(expected[name], arriving[name])
            if fault:
                yield f"{name}: {fault}"


def _misfit(expected: LeafSpec | Constant, arriving: LeafSpec | Constant) -> str | None:
    """What is wrong with a leaf; the kind of array may differ, its bytes may not."""
    if isinstance(expected, LeafSpec) and isinstance(arriving, LeafSpec):
        keys = {s.kind for s in (expected, arriving) if s.kind.startswith("key:")}
        same = (expected.shape, expected.dtype) == (arriving.shape, arriving.dtype)
        if same and (not keys or expected.kind == arriving.kind):
            return None
    elif expected == arriving:
        return None
    return f"{arriving} arrived, the layout has {expected}"


def _rows_source(leaf: Any) -> Any:
    """What `_write` puts: an array of the device, or the words of one of the host."""
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
    sharding = None if isinstance(array, Tracer) else array.sharding
    if not isinstance(sharding, NamedSharding):
        return array
    mesh = sharding.mesh
    if not isinstance(mesh, Mesh) or AxisType.Explicit not in mesh.axis_types:
        return array
    return jax.device_put(
        array, NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec())
    )


def _rows_of(source: Any, page_words: int) -> UInt32[Array, "rows w"]:
    """The bytes of ``source`` as whole rows, the last one zero-filled."""
    flat = to_words(source)
    return jnp.pad(flat, (0, -flat.size % page_words)).reshape(-1, page_words)


def _write(words: UInt32[Array, "p w"], source: Any, page: Any) -> UInt32[Array, "p w"]:
    """The pool with the bytes of ``source`` from row ``page`` on."""
    rows = _rows_of(source, words.shape[1])
    return lax.dynamic_update_slice(words, rows, (page, np.int32(0)))


_put = jax.jit(_write)
_put_donated = jax.jit(_write, donate_argnums=0)


@jax.jit
def _put_versioned(
    words: UInt32[Array, "p w"],
    versions: UInt32[Array, " p"],
    source: Any,
    page: Any,
    number: UInt32[Array, ""],
) -> tuple[UInt32[Array, "p w"], UInt32[Array, " p"]]:
    """`_write`, and ``number`` at the rows that differ."""
    rows = _rows_of(source, words.shape[1])
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


def _leaf_of(words: UInt32[Array, "p w"], region: "Region") -> Any:
    spec = region.spec
    dtype = parse_dtype(spec.dtype)
    if isinstance(words, Tracer):
        if not is_holdable(dtype):
            raise StructureError(
                f"{region.name}: {spec} cannot be held by JAX here, and so not unpacked inside a "
                f"transformation. Turn on 64-bit types (jax_enable_x64), or leave it out."
            )
    elif not (spec.kind == "jax" or spec.kind.startswith("key:")) or not is_holdable(dtype):
        raw = np.asarray(_rows(words, np.int32(region.page), region.pages))
        raw = raw.reshape(-1).view(np.uint8)[: spec.nbytes].copy()
        return rebuild(spec, raw.view(dtype).reshape(spec.shape))
    array = _read(words, np.int32(region.page), region.pages, spec)
    if spec.kind.startswith("key:"):
        return jax.random.wrap_key_data(array, impl=spec.kind.removeprefix("key:"))
    return array


@functools.partial(jax.jit, static_argnums=2)
def _rows(words: UInt32[Array, "p w"], page: Any, pages: int) -> UInt32[Array, "rows w"]:
    return lax.dynamic_slice(words, (page, np.int32(0)), (pages, words.shape[1]))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _read(words: UInt32[Array, "p w"], page: Any, pages: int, spec: LeafSpec) -> Array:
    return from_words(_rows(words, page, pages).reshape(-1), spec)
