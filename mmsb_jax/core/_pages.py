"""Pages: the words of a pool, and the version of each page."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from mmsb_jax._arguments import show
from mmsb_jax._errors import VersionError


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


def as_version(version: Any) -> UInt32[Array, ""]:
    """``version`` as ``uint32``, which versions are on the device.

    Raises:
        VersionError: not an integer, or out of range; nothing is rounded or wrapped.
    """
    is_number = isinstance(version, int | np.integer) and not isinstance(version, bool)
    dtype = getattr(version, "dtype", None) if hasattr(version, "shape") else None
    is_one = dtype is not None and jnp.issubdtype(dtype, np.integer) and version.shape == ()
    if not is_number and not is_one:
        raise VersionError(f"version={show(version)} arrived; expected an integer")
    if is_number:
        if not 0 <= version < 2**32:
            raise VersionError(
                f"version={show(version)} arrived; expected 0 to 2³² − 1, the versions of a "
                f"device. Count from a base that moves."
            )
        return jnp.asarray(int(version), jnp.uint32)
    return jnp.asarray(version).astype(jnp.uint32)
