"""Leaves of a pytree: what each one is, its bytes, and the same leaf back from its bytes.

A leaf is *data* (it has bytes: arrays, NumPy scalars, Python numbers, PRNG keys) or a
*constant* (kept by value: strings, ``None``, integers beyond 64 bits, functions).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import SingleDeviceSharding

from mmsb_jax._base.arguments import show
from mmsb_jax._base.dtypes import dtype_name, parse_dtype
from mmsb_jax._base.errors import StructureError

PYTHON_NUMBERS: dict[type, tuple[str, str]] = {
    bool: ("bool", "bool"),
    int: ("int", "int64"),
    float: ("float", "float64"),
    complex: ("complex", "complex128"),
}
"""Python number type → (kind, dtype of its bytes)."""

_HOST_ONLY = frozenset({"int1", "uint1", "float6_e2m3fn", "float6_e3m2fn"})
"""Dtypes that JAX lets in, and whose bytes XLA does not give."""

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

_NUMPY_LEAVES = (np.ndarray, np.generic)
_JAX_LEAVES = (jax.Array, jax.ShapeDtypeStruct)


@dataclass(frozen=True, slots=True)
class LeafSpec:
    """What a data leaf is, without its bytes.

    Attributes:
        kind: ``jax``, ``key:<implementation>``, ``numpy``, ``scalar`` (a NumPy scalar),
            ``bool``, ``int``, ``float`` or ``complex`` (Python numbers).
        dtype: name of the dtype of the bytes; for a PRNG key that of its data.
        shape: shape of the array of bytes; for a PRNG key that of its data.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the leaf."""
        return math.prod(self.shape) * parse_dtype(self.dtype).itemsize

    def __str__(self) -> str:
        shape = ",".join(map(str, self.shape))
        return f"{self.dtype}[{shape}] ({self.kind})"


@dataclass(frozen=True, slots=True)
class Constant:
    """A leaf that is kept by value: ``kind`` is ``none``, ``str``, ``int`` or ``function``.

    ``value`` is ``None``, the string, the integer, or the qualified name of the function.
    """

    kind: str
    value: str | int | None

    def __str__(self) -> str:
        return "None" if self.kind == "none" else f"{self.kind} {show(self.value)}"


def describe(leaf: Any, name: str) -> LeafSpec | Constant:
    """What ``leaf`` is: a `LeafSpec` for data, a `Constant` for what is kept by value."""
    if isinstance(leaf, _NUMPY_LEAVES):
        return _describe_numpy(leaf, name)
    if isinstance(leaf, _JAX_LEAVES):
        if _is_key(leaf):
            return _describe_key(leaf, name)
        return LeafSpec("jax", dtype_name(np.dtype(leaf.dtype)), tuple(leaf.shape))
    if type(leaf) is int and not _INT64_MIN <= leaf <= _INT64_MAX:
        return Constant("int", leaf)
    if type(leaf) in PYTHON_NUMBERS:
        kind, dtype = PYTHON_NUMBERS[type(leaf)]
        return LeafSpec(kind, dtype, ())
    if leaf is None:
        return Constant("none", None)
    if type(leaf) is str:
        return Constant("str", leaf)
    if callable(leaf):
        return Constant("function", qualified_name(leaf))
    raise StructureError(
        f"{name}: a leaf of type {qualified_name(type(leaf))} is neither data nor a function. "
        f"Expected arrays, Python numbers, strings, None or functions: leave it out, or register "
        f"its type as a pytree (jax.tree_util.register_dataclass, or make it an eqx.Module)."
    )


def _describe_numpy(leaf: np.ndarray | np.generic, name: str) -> LeafSpec:
    """Spec of a NumPy array or scalar."""
    dtype = leaf.dtype
    if isinstance(leaf, np.bytes_ | np.str_) and (not leaf or leaf[-1] in (0, "\0")):
        raise StructureError(
            f"{name}: the NumPy string {leaf!r} is empty or ends with a NUL, which NumPy drops. "
            f"Expected a Python str, or a uint8 array for bytes."
        )
    if not _is_plain(dtype):
        raise StructureError(
            f"{name}: a NumPy array of dtype {dtype} cannot be recorded. Expected a dtype of plain "
            f"numbers or fixed-size strings: split it into plain arrays."
        )
    if isinstance(leaf, np.ndarray):
        if type(leaf) not in (np.ndarray, np.memmap):
            raise StructureError(
                f"{name}: a {qualified_name(type(leaf))} is more than its bytes and would come "
                f"back as a numpy.ndarray. Expected a plain array: record what it holds as arrays "
                f"(np.asarray(x); for a masked array x.data and x.mask)."
            )
        return LeafSpec("numpy", dtype_name(dtype), leaf.shape)
    return LeafSpec("scalar", dtype_name(dtype), ())


@functools.cache
def _is_plain(dtype: np.dtype) -> bool:
    """Whether an array of ``dtype`` is its bytes, and has some."""
    is_whole = not dtype.hasobject and dtype.names is None and not _is_void(dtype)
    return is_whole and dtype.itemsize > 0


def _is_void(dtype: np.dtype) -> bool:
    """Whether ``dtype`` is raw memory; numbers of ml_dtypes are of kind V too."""
    return dtype.kind == "V" and not hasattr(ml_dtypes, dtype.name)


def _is_key(leaf: Any) -> bool:
    """Whether a leaf of JAX is a typed PRNG key: no NumPy dtype is, which is quick to see."""
    dtype = leaf.dtype
    return not isinstance(dtype, np.dtype) and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _describe_key(key: Any, name: str) -> LeafSpec:
    """Spec of a typed PRNG key, from its data."""
    implementation = key.dtype._impl.name
    if not _is_registered(key.dtype, implementation):
        raise StructureError(
            f"{name}: a key of the implementation {implementation!r}, of which JAX knows no more "
            f"than this key: by its name it would come back as another generator, or not at all. "
            f"Expected a key of an implementation that jax.random.key(seed, impl={implementation!r}"
            f") makes; or record jax.random.key_data(key), and wrap it yourself."
        )
    data = jax.eval_shape(jax.random.key_data, key)
    return LeafSpec(f"key:{implementation}", "uint32", tuple(data.shape))


@functools.lru_cache(maxsize=64)
def _is_registered(dtype: Any, implementation: str) -> bool:
    """Whether the name of a key's implementation gives that very implementation."""
    try:
        found = jax.eval_shape(lambda: jax.random.key(0, impl=implementation))
    except ValueError:
        return False
    return found.dtype == dtype


def qualified_name(function: Callable[..., Any]) -> str:
    """Name by which two functions are compared: ``module.qualname``, through ``partial``."""
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}.{name}"


def host_array(leaf: Any) -> np.ndarray:
    """A concrete data leaf as a C-contiguous NumPy array; a view where the leaf allows one.

    Cost: nothing for a contiguous NumPy array or a JAX array on a CPU device; else one copy.
    """
    if type(leaf) in PYTHON_NUMBERS:
        return np.array(leaf, dtype=PYTHON_NUMBERS[type(leaf)][1])
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf, order="C")  # np.ascontiguousarray would make a 0-d array 1-d


def view_as(spec: LeafSpec, raw: np.ndarray) -> np.ndarray:
    """The array of ``spec`` whose bytes begin ``raw`` (bytes or words, contiguous); a view."""
    raw = raw.view(np.uint8)[: spec.nbytes]
    return raw.view(parse_dtype(spec.dtype)).reshape(spec.shape)


def rebuild(spec: LeafSpec, array: np.ndarray, sharding: Any = None, is_weak: bool = False) -> Any:
    """The leaf that ``spec`` describes, from an array of its bytes.

    The inverse of `host_array`: same bytes, dtype, shape and Python type. JAX arrays are copies,
    placed by ``sharding`` (the default device when None), weakly typed where ``is_weak``, with
    their dtype kept even where JAX's 64-bit types are off; a NumPy array is ``array`` itself.

    Cost: for JAX arrays one copy of the bytes; else none.
    """
    if spec.kind == "numpy":
        return array
    if spec.kind == "scalar":
        return array[()]
    if spec.kind in ("bool", "int", "float", "complex"):
        return array.item()
    is_key = spec.kind.startswith("key:")
    with jax.enable_x64(True), jax.transfer_guard("allow"):
        placed = jax.device_put(array, None if is_key else sharding)
        if _shares_memory(placed, array):
            placed = jax.device_put(array.copy(), None if is_key else sharding)
        if is_key:
            placed = jax.random.wrap_key_data(placed, impl=spec.kind.removeprefix("key:"))
            placed = placed if sharding is None else jax.device_put(placed, sharding)
        elif is_weak:
            placed = with_weak_type(placed, True)
        return jax.block_until_ready(placed)


def with_weak_type(array: jax.Array, is_weak: bool) -> jax.Array:
    """A copy of ``array`` that is weakly typed, as what is made of Python numbers alone, or is not.

    Cost: a program a shape, dtype and sharding, compiled once.
    """
    with jax.enable_x64(True), jax.transfer_guard("allow"), jax.disable_jit(False):
        sharding = array.sharding if getattr(array, "_committed", False) else None
        return _copier(array.shape, array.dtype, sharding, is_weak)(array)


@functools.lru_cache(maxsize=256)
def _copier(shape: tuple[int, ...], dtype: Any, sharding: Any, is_weak: bool) -> Any:
    # Compiled ahead of time, a program takes arrays of either type for what it was lowered for.
    like = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding, weak_type=is_weak)
    return jax.jit(lambda x: x, out_shardings=sharding).lower(like).compile()


def _shares_memory(placed: jax.Array, array: np.ndarray) -> bool:
    """Whether JAX took over the memory of ``array``: on a CPU it does so where that is aligned.

    ``device_put(…, may_alias=False)`` does not prevent it for NumPy arrays (JAX 0.10.2, 0.12).
    """
    first = array.ctypes.data
    return any(
        shard.device.platform == "cpu"
        and first <= shard.data.unsafe_buffer_pointer() < first + array.nbytes
        for shard in placed.addressable_shards
    )


def is_deleted(array: jax.Array) -> bool:
    """Whether an array was donated or deleted, or a shard of it, of which JAX's own says nothing.

    Cost: 0.1 µs; 1 µs a shard of one on several devices.
    """
    if array.is_deleted():
        return True
    return type(array.sharding) is not SingleDeviceSharding and any(
        shard.data.is_deleted() for shard in array.addressable_shards
    )


def is_holdable(dtype: np.dtype) -> bool:
    """Whether JAX can hold ``dtype`` on a device as things stand (64-bit types may be off)."""
    if dtype.kind in "SUMmO" or not dtype.isnative or _is_void(dtype):
        return False
    is_long = dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16)
    if is_long or dtype.name in _HOST_ONLY:
        return False
    return jax.dtypes.canonicalize_dtype(dtype) == dtype
