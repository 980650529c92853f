"""Pages: the words of a pool, and the version of each page."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt32

from mmsb_jax._base.arguments import MOST, is_integer, show
from mmsb_jax._base.errors import VersionError


class Pages(eqx.Module):
    """The bytes of a state: a pool of pages of ``uint32`` words.

    A pytree of two arrays; it says nothing of what the bytes mean (a `Layout` does). Words carry
    no gradient.

    Attributes:
        words: ``uint32[pages, page_words]``; a byte that no array owns is zero.
        version: ``uint32[pages]``: the commit that last changed a byte of the page; 0 for none.
    """

    words: UInt32[Array, "pages page_words"]
    version: UInt32[Array, " pages"]


def is_one_integer(value: Any) -> bool:
    """Whether ``value`` is an integer, or an array, traced or not, of one; True is none."""
    if isinstance(value, int | np.integer):
        return is_integer(value)
    dtype = getattr(value, "dtype", np.dtype(object))
    return getattr(value, "shape", None) == () and jnp.issubdtype(dtype, np.integer)


def clipped(numbers: Any) -> Int32[Array, "..."]:
    """Integers of the device as ``int32``; one beyond that is the nearest."""
    ends = jnp.iinfo(numbers.dtype)
    low, high = (
        np.array(end, numbers.dtype) for end in (max(ends.min, -MOST), min(ends.max, MOST))
    )
    return jnp.clip(numbers, low, high).astype(jnp.int32)


def as_version(version: Any) -> UInt32[Array, ""]:
    """``version`` as ``uint32``, which versions are on the device."""
    if not is_one_integer(version):
        raise VersionError(f"version={show(version)} arrived; expected an integer")
    if isinstance(version, int | np.integer):
        if not 0 <= version < 2**32:
            raise VersionError(
                f"version={show(version)} arrived; expected 0 to 2³² − 1, the versions of a "
                f"device. Count from a base that moves."
            )
        return jnp.asarray(int(version), jnp.uint32)
    return jnp.asarray(version).astype(jnp.uint32)
