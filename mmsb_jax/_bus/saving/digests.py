"""What is said of a tree whose bytes are not logged: a digest of each array, made where it lies."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mmsb_jax._base.words import host_words
from mmsb_jax._bus.device.device_shadow import groups_of
from mmsb_jax._bus.device.programs import without_wide_types
from mmsb_jax._bus.device.shadow import apart
from mmsb_jax._bus.trees.staging import check_readable, held_here
from mmsb_jax._core.digest import lanes_of_lines, lines_of_words, mixed
from mmsb_jax._core.tree.leaves import host_array
from mmsb_jax._core.tree.words import to_words
from mmsb_jax._store.encoding.digest import digest_each, digest_words
from mmsb_jax.kernels.xla import sums_of_rows

Found = tuple[int, int, int]
"""Both lanes of an array, and how many of its numbers are infinite or none."""

_SMALL_WORDS = 1 << 14
"""An array of the CPU of no more words is digested by its bytes: that is less than a dispatch."""
_TOGETHER_WORDS = 1 << 15

_EXPONENTS = {
    "float32": (0x7F800000,),
    "complex64": (0x7F800000,),
    "bfloat16": (0x7F80, 0x7F800000),
    "float16": (0x7C00, 0x7C000000),
}
"""Dtype → where the exponents of its numbers are in a word: all set, one is not finite."""
_WIDE = 0x7FF00000
"""The same of the upper word of a float64."""


class Digesting:
    """The digests of leaves, on their way; the caller may donate them, or change them.

    Args:
        data: the data leaves of a tree.
        places: which of them.
        names: of all.

    Raises:
        StructureError: an array that was donated, is traced, or is not here.
    """

    def __init__(self, data: Sequence[Any], places: Sequence[int], names: Sequence[str]) -> None:
        here, there = dict[int, Any](), dict[int, jax.Array]()
        for i in places:
            leaf = data[i]
            if isinstance(leaf, jax.Array):
                check_readable(leaf, names[i])
                leaf = held_here(leaf)
            (there if _stays(leaf) else here)[i] = leaf
        self._started: list[tuple[list[int], Any]] = []
        with apart():
            for group in _alike(there):
                dtype = there[group[0]].dtype.name
                found = _digest([without_wide_types(there[i]) for i in group], dtype)
                found.copy_to_host_async()
                self._started.append((group, found))
        with jax.transfer_guard("allow"):
            self._found = _digests_here(here)

    def rows(self) -> dict[int, Found]:
        """Leaf → what was found; waits for it."""
        for group, found in self._started:
            rows = np.asarray(found).tolist()
            self._found |= {i: (row[0], row[1], row[2]) for i, row in zip(group, rows, strict=True)}
        self._started.clear()
        return self._found


def _stays(leaf: Any) -> bool:
    """Whether a leaf is digested where it lies."""
    if not isinstance(leaf, jax.Array) or not leaf.size:
        return False
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    is_on_host = all(device.platform == "cpu" for device in leaf.devices())
    return not is_on_host or leaf.nbytes > 4 * _SMALL_WORDS


def _alike(arrays: Mapping[int, jax.Array]) -> list[list[int]]:
    """Arrays of one shape, dtype and sharding, a few together."""
    placed: dict[Any, dict[int, jax.Array]] = {}
    for i, array in arrays.items():
        placed.setdefault(array.sharding, {})[i] = array
    return [group for those in placed.values() for group in groups_of(those)]


@functools.partial(jax.jit, static_argnames="dtype")
def _digest(arrays: Sequence[Array], dtype: str) -> Array:
    """Both lanes of each of some arrays of a dtype, and what is not finite (uint32[k, 3])."""
    return jnp.stack([_digest_one(array, dtype) for array in arrays])


def _digest_one(array: Array, dtype: str) -> Array:
    lines, index = lines_of_words(to_words(array))
    if _is_of_bytes(dtype):
        count = (~jnp.isfinite(array)).sum(dtype=jnp.uint32)
        return jnp.append(lanes_of_lines(lines, index).sum(axis=0, dtype=jnp.uint32), count)
    # Beside the lanes: one pass over the words finds all three.
    counts = _not_finite(lines, index, dtype).astype(jnp.uint32)
    sums = sums_of_rows(*mixed(lines, index), counts)
    return jnp.stack(sums).sum(axis=1, dtype=jnp.uint32)


def _is_of_bytes(dtype: str) -> bool:
    """Whether a dtype is one of the floats of a byte, of which each has its own infinity."""
    return dtype.startswith(("float8_", "float6_", "float4_"))


def _not_finite(words: Any, index: Any, dtype: str) -> Any:
    """How many numbers of each word are not finite, of those that end in it; as NumPy and JAX."""
    if dtype in ("float64", "complex128"):
        is_upper = index & 1 == 1
        return ((words & np.uint32(_WIDE)) == np.uint32(_WIDE)) & is_upper
    total = words & np.uint32(0)
    for mask in map(np.uint32, _EXPONENTS.get(dtype, ())):
        total += (words & mask) == mask
    return total


def _digests_here(leaves: Mapping[int, Any]) -> dict[int, Found]:
    """Of leaves that are, or can be had, on the host: small ones together."""
    found, batches, left = dict[int, Found](), list[list[tuple[int, np.ndarray, int]]](), 0
    for i, leaf in leaves.items():
        array = host_array(leaf)
        words = host_words(array.reshape(-1).view(np.uint8))
        count = _count_here(array, words)
        if words.size > _SMALL_WORDS:
            found[i] = (*digest_words(words), count)
        elif not words.size:
            found[i] = (0, 0, 0)
        else:
            if words.size > left:
                batches.append([])
                left = _TOGETHER_WORDS
            batches[-1].append((i, words, count))
            left -= words.size
    for batch in batches:
        sizes = [words.size for _, words, _ in batch]
        joined = np.concatenate([words for _, words, _ in batch])
        first, second = digest_each(joined, sizes).tolist()
        for (i, _, count), *lanes in zip(batch, first, second, strict=True):
            found[i] = (lanes[0], lanes[1], count)
    return found


def count_not_finite(array: np.ndarray) -> int:
    """How many of its numbers are infinite or none; a complex one has two."""
    return _count_here(array, host_words(array.reshape(-1).view(np.uint8)))


def _count_here(array: np.ndarray, words: np.ndarray) -> int:
    dtype = array.dtype.name
    if _is_of_bytes(dtype):
        return int(np.count_nonzero(~np.isfinite(array)))
    if dtype not in _EXPONENTS and dtype not in ("float64", "complex128"):
        return 0
    return int(np.sum(_not_finite(words, np.arange(words.size, dtype=np.uint32), dtype)))
