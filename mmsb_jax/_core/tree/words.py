"""Words: a typed array as ``uint32`` words, and back, bit for bit, on the device.

The bytes are those of the array in NumPy, little-endian: an element narrower than a byte is a byte
of its own with the high bits zero, a bool is 0 or 1, a complex number its two parts. Only unsigned
integers are moved: a typed ``where`` or ``pad`` may change the payload of a NaN.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Shaped, UInt, UInt32

from mmsb_jax._core.tree.leaves import LeafSpec

_BITS_PER_WORD = 32


def to_words(array: Shaped[Array | np.ndarray, "..."]) -> UInt32[Array, " words"]:
    """The bytes of ``array`` as words, the last one filled with zeros.

    Cost: one pass over the bytes; usually fused into what uses the words.
    """
    elements = _to_unsigned(jnp.asarray(array)).reshape(-1)
    bits = _bits(elements.dtype)
    if bits >= _BITS_PER_WORD:
        return lax.bitcast_convert_type(elements, jnp.uint32).reshape(-1)
    each = _BITS_PER_WORD // bits
    rest = -elements.size % each
    if rest:
        elements = jnp.concatenate([elements, jnp.zeros(rest, elements.dtype)])
    return lax.bitcast_convert_type(elements.reshape(-1, each), jnp.uint32)


def from_words(words: UInt32[Array, " words"], spec: LeafSpec) -> Shaped[Array, "..."]:
    """The array of ``spec`` whose bytes begin ``words``; what is behind its bytes is ignored.

    Cost: one pass over the bytes.
    """
    dtype = jnp.dtype(spec.dtype)
    count = 1
    for length in spec.shape:
        count *= length
    if jnp.issubdtype(dtype, jnp.complexfloating):
        part = jnp.dtype(jnp.finfo(dtype).dtype)
        halves = LeafSpec(spec.kind, _unsigned_of(part).name, (*spec.shape, 2))
        unsigned = from_words(words, halves)
        real, imag = (lax.bitcast_convert_type(unsigned[..., i], part) for i in (0, 1))
        return lax.complex(real, imag)
    unsigned = _unsigned_of(dtype)
    storage = jnp.dtype(jnp.uint8) if _bits(unsigned) < 8 else unsigned
    bits = _bits(storage)
    each = max(1, bits // _BITS_PER_WORD)
    words = words[: -(-count * bits // _BITS_PER_WORD)]
    packed = words.reshape(-1, each) if each > 1 else words
    elements = lax.bitcast_convert_type(packed, storage).reshape(-1)[:count].reshape(spec.shape)
    if dtype == jnp.bool_:
        return elements != 0
    if unsigned != storage:
        elements = elements.astype(unsigned)
    return lax.bitcast_convert_type(elements, dtype)


def to_units(array: Shaped[Array | np.ndarray, "..."]) -> UInt[Array, "..."]:
    """The bytes of ``array`` as its elements, unsigned; those of more than a word along an axis."""
    elements = _to_unsigned(jnp.asarray(array))
    if _bits(elements.dtype) > _BITS_PER_WORD:
        return lax.bitcast_convert_type(elements, jnp.uint32)
    return elements


def host_units(array: np.ndarray) -> np.ndarray:
    """`to_units` of what JAX cannot hold: as many bytes together as divide an element."""
    itemsize = array.dtype.itemsize
    unit = np.dtype(f"uint{8 * math.gcd(itemsize, 4)}")
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).view(unit)
    return raw.reshape(*array.shape, itemsize // unit.itemsize)


def _to_unsigned(array: Array) -> Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint8)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return jnp.stack([_to_unsigned(lax.real(array)), _to_unsigned(lax.imag(array))], axis=-1)
    unsigned = _unsigned_of(array.dtype)
    elements = lax.bitcast_convert_type(array, unsigned)
    return elements.astype(jnp.uint8) if _bits(unsigned) < 8 else elements


def _unsigned_of(dtype: jnp.dtype) -> jnp.dtype:
    if dtype == jnp.bool_:
        return jnp.dtype(jnp.uint8)
    is_integer = jnp.issubdtype(dtype, jnp.integer)
    bits = jnp.iinfo(dtype).bits if is_integer else jnp.finfo(dtype).bits
    return jnp.dtype(f"uint{bits}")


def _bits(unsigned: jnp.dtype) -> int:
    return jnp.iinfo(unsigned).bits
