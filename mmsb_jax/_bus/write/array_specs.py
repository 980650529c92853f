"""Arrays by name: what `create`, `write`, `delete`, `resize` and `apply` ask of the log."""

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.arguments import is_integer, show
from mmsb_jax._base.dtypes import dtype_name, parse_dtype
from mmsb_jax._base.errors import InvalidDeltaError, StructureError
from mmsb_jax._base.memory_limit import check_room
from mmsb_jax._base.texts import encoded, to_decimal
from mmsb_jax._base.words import WORD_BYTES
from mmsb_jax._bus.trees.compare import is_same_kind
from mmsb_jax._bus.trees.staging import raw_bytes
from mmsb_jax._bus.trees.tree import spec_of
from mmsb_jax._core.delta import Delta
from mmsb_jax._core.layout import Layout
from mmsb_jax._core.region import Region
from mmsb_jax._core.tree.leaves import PYTHON_NUMBERS, Constant, LeafSpec, describe
from mmsb_jax._store.format.record import (
    GRAPH_PREFIX,
    MAX_ARRAY_BYTES,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    ArrayInfo,
)

_NUMPY_ONLY = "SUMm"
_RAW = (bytes, bytearray, memoryview)


def check_name(name: Any) -> str:
    """``name``, where an array may be called so."""
    if not isinstance(name, str) or not name or name.startswith(GRAPH_PREFIX):
        raise StructureError(
            f"name={show(name)}: expected a string of 1 to {MAX_NAME_BYTES} bytes that does not "
            f"begin with NUL"
        )
    size = len(encoded(name, "name"))
    if size > MAX_NAME_BYTES:
        raise StructureError(
            f"name={name[:80]!r}… of {size} bytes: at most {MAX_NAME_BYTES} can be recorded"
        )
    return name


def new_spec(name: str, shape: Sequence[int] | None, dtype: Any, nbytes: int | None) -> LeafSpec:
    """What ``bus.create`` was asked to make."""
    check_name(name)
    if (shape is None) == (nbytes is None):
        raise StructureError(
            f"array {name!r} needs either shape=(…) and dtype, or nbytes=…; it got "
            f"shape={show(shape)} and nbytes={show(nbytes)}"
        )
    if nbytes is not None:
        shape, dtype = (nbytes,), "uint8"
    try:
        dimensions = tuple(shape)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise StructureError(
            f"array {name!r}: {show(shape)} is not the shape of an array. Expected a tuple, as (3,)"
        ) from None
    try:
        spec = _checked_spec(dimensions, "float32" if dtype is None else dtype)
    except StructureError as error:
        raise StructureError(f"array {name!r}: {error}") from None
    except TypeError:  # what cannot be hashed
        raise StructureError(
            f"array {name!r}: shape={show(shape)}, nbytes={show(nbytes)}, dtype={show(dtype)}. "
            f"Expected whole numbers, and a dtype such as 'float32'."
        ) from None
    check_room(spec.nbytes, f"array {name!r}")
    return spec


@functools.lru_cache(maxsize=256)
def _checked_spec(shape: tuple[Any, ...], dtype: Any) -> LeafSpec:
    """A spec of that shape and dtype; kept, so that making many arrays alike costs a look-up."""
    if len(shape) > MAX_DIMENSIONS or not all(is_integer(n) and n >= 0 for n in shape):
        raise StructureError(f"{show(shape)} is not the shape of an array")
    dimensions = tuple(map(int, shape))
    spec = LeafSpec("jax", _dtype_name(dtype), dimensions)
    if spec.nbytes > MAX_ARRAY_BYTES:
        raise StructureError(f"{spec.nbytes:,} bytes; an array has at most {MAX_ARRAY_BYTES:,}")
    if parse_dtype(spec.dtype).kind in _NUMPY_ONLY:
        return LeafSpec("numpy", spec.dtype, dimensions)
    return spec


def _dtype_name(dtype: Any) -> str:
    try:
        name = dtype if isinstance(dtype, str) else dtype_name(np.dtype(dtype))
        return dtype_name(parse_dtype(name))
    except Exception:  # NumPy asks the object itself
        raise StructureError(
            f"{show(dtype)} is not a dtype. Expected one such as 'float32', 'bfloat16' or np.int8."
        ) from None


def bytes_for(info: ArrayInfo, value: Any) -> np.ndarray:
    """The bytes of ``value`` (uint8[nbytes]) as a new content of an array."""
    if type(value) is np.ndarray and _is_ready(info, value):
        return value.reshape(-1).view(np.uint8)
    if isinstance(value, _RAW):
        value = np.frombuffer(value, np.uint8)
    elif type(value) in PYTHON_NUMBERS and info.shape == ():
        value = _number_for(info, value)
    spec = describe(value, info.name)
    if isinstance(spec, Constant) or not _is_alike(info, spec):
        raise StructureError(
            f"write to {info.name!r}: {spec} arrived, {spec_of(info)} was expected. Cast or "
            f"reshape it first, or make the array anew with bus.resize."
        )
    if not isinstance(value, jax.Array):
        return raw_bytes(value, info.name)
    with jax.transfer_guard_device_to_host("allow"):
        return raw_bytes(value, info.name)


def _is_ready(info: ArrayInfo, value: np.ndarray) -> bool:
    """Whether a value is of an array's dtype and shape, and lies as its bytes do."""
    is_same = value.dtype == parse_dtype(info.dtype) and value.shape == info.shape
    return is_same and value.flags.c_contiguous and not info.kind.startswith("key:")


def _is_alike(info: ArrayInfo, spec: LeafSpec) -> bool:
    """Whether a value has an array's dtype and shape; a PRNG key is like keys of its kind only."""
    if spec.dtype != info.dtype or spec.shape != info.shape:
        return False
    has_key = spec.kind.startswith("key:") or info.kind.startswith("key:")
    return spec.kind == info.kind or not has_key


def _number_for(info: ArrayInfo, value: Any) -> Any:
    """A Python number in the dtype of a 0-d array of its kind; any other as it is."""
    if not is_same_kind(spec_of(info), LeafSpec(*PYTHON_NUMBERS[type(value)], ())):
        return value
    try:
        return np.asarray(value, parse_dtype(info.dtype))
    except OverflowError:
        raise StructureError(
            f"write to {info.name!r}: {to_decimal(value):.40} arrived, which is no {info.dtype}"
        ) from None


def word_patches_of(
    delta: Delta, layout: Layout, find: Callable[[str], ArrayInfo]
) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Array id → (words, masks, values) of a delta: what it writes where.

    Args:
        delta: the delta.
        layout: where its rows stand.
        find: an array by its name.
    """
    if not isinstance(delta, Delta):
        raise TypeError(f"delta={show(delta)}: expected a Delta, as mmsb_jax.diff makes")
    if not isinstance(layout, Layout):
        raise TypeError(f"layout={show(layout)}: expected a Layout, as bus.layout")
    leaves = (delta.page, delta.block, delta.mask, delta.data, delta.count, delta.overflow)
    with jax.transfer_guard_device_to_host("allow"):
        page, block, mask, data, count, overflow = map(np.asarray, leaves)
    if page.ndim != 1:
        raise InvalidDeltaError(
            f"the delta has a batch of shape {page.shape[:-1]}. Pick one of it first: "
            f"jax.tree.map(lambda x: x[i], delta)."
        )
    if overflow:
        raise _overflowed(page[: int(count)], page.size, layout, delta.block_words)
    block_words, page_words = delta.block_words, layout.page_words
    if page_words % block_words:
        raise InvalidDeltaError(
            f"the delta has blocks of {block_words} words, which do not divide this bus's pages "
            f"of {page_words} words"
        )
    live = slice(int(count))
    pages = page[live].astype(np.int64)
    first = pages * page_words + block[live].astype(np.int64) * block_words
    words = first[:, None] + np.arange(block_words)
    mask, data = mask[live], data[live]
    found = {}
    for region, rows in _rows_by_region(pages, layout):
        place = words[rows] - region.page * page_words
        patch = _patch_of(region, place.reshape(-1), mask[rows].reshape(-1), data[rows].reshape(-1))
        found[_same_array(region, find).id] = patch
    return found


def _overflowed(
    pages: np.ndarray, capacity: int, layout: Layout, block_words: int
) -> InvalidDeltaError:
    """The error for a delta that overflowed, whose blocks are in ``pages``."""
    regions, firsts, _ = layout.by_row
    if pages.size < capacity:
        what = "a slice that did not lie within its array"
    elif capacity and (owner := np.searchsorted(firsts, pages[-1], side="right")):
        what = f"what changed behind the block {capacity - 1}, of {regions[owner - 1].name!r}"
    else:
        what = "all that changed"
    enough = "" if layout.page_words % block_words else f", {layout.capacity(None, block_words)}"
    return InvalidDeltaError(
        f"the delta overflowed its capacity of {capacity} blocks: left out is {what}. Make it "
        f"again with more: Layout.capacity(names) is always enough (for all arrays{enough})."
    )


def _rows_by_region(pages: np.ndarray, layout: Layout) -> Iterator[tuple[Region, np.ndarray]]:
    """The regions that rows of the pool (int64[n]) belong to, and which of ``pages`` these are."""
    regions, firsts, ends = layout.by_row
    owners = np.searchsorted(firsts, pages, side="right") - 1
    inside = owners >= 0
    inside[inside] = pages[inside] < ends[owners[inside]]
    if not inside.all():
        wrong = int(np.flatnonzero(~inside)[0])
        raise InvalidDeltaError(
            f"block {wrong} of the delta is in page {pages[wrong]}, which belongs to no array of "
            f"the layout. Make the delta with bus.layout, or pass the layout that it was made with."
        )
    order = np.argsort(owners, kind="stable")
    owners = owners[order]
    starts = (owners[1:] != owners[:-1]).nonzero()[0] + 1
    for start, end in pairwise([0, *starts.tolist(), owners.size]):
        if end > start:
            yield regions[owners[start]], order[start:end]


def _patch_of(
    region: Region, words: np.ndarray, mask: np.ndarray, data: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is written of one array: its words ascending, their masks, their bytes."""
    (live,) = mask.nonzero()
    words, mask, data = words[live], mask[live], data[live]
    _check_inside(region, words, mask)
    if not (words[1:] > words[:-1]).all():
        order = np.argsort(words)
        words, mask, data = words[order], mask[order], data[order]
        if (words[1:] == words[:-1]).any():
            raise InvalidDeltaError(f"the delta holds a block of {region.name!r} twice")
    return words, mask, data


def _same_array(region: Region, find: Callable[[str], ArrayInfo]) -> ArrayInfo:
    """The array that a region of a layout is, or was."""
    info = find(region.name)
    if (info.dtype, info.shape) != (region.dtype, region.shape):
        raise InvalidDeltaError(
            f"{region.name!r} is {spec_of(info)} on the bus and {region.spec} in the delta's "
            f"layout. Make the delta again with bus.layout."
        )
    return info


def _check_inside(region: Region, words: np.ndarray, mask: np.ndarray) -> None:
    """Refuse a byte behind the end of the array."""
    outside = words >= -(-region.nbytes // WORD_BYTES)
    tail = region.nbytes % WORD_BYTES
    if tail:
        last = words == region.nbytes // WORD_BYTES
        outside |= last & (mask >> np.uint32(8 * tail) != 0)
    if outside.any():
        byte = int(words[outside][0]) * WORD_BYTES
        raise InvalidDeltaError(
            f"the delta writes at byte {max(byte, region.nbytes)} of {region.name!r}, which has "
            f"{region.nbytes} bytes"
        )
