"""Staging: copies of a tree's leaves that are the bus's own, made without waiting for them.

A commit with ``wait=False`` returns before its bytes are compared, and the caller may donate or
overwrite every array at once. JAX leaves are copied by one program, dispatched before the call
returns, into buffers that are used again and again: fresh ones would cost a page fault for every
4 KiB, several times the copy. The program adds a zero that is known only when it runs: a plain copy
is so cheap in XLA's eyes that it would run in the caller's thread.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmsb_jax._base.errors import StructureError
from mmsb_jax._core.settings import any_settings
from mmsb_jax._core.tree.leaves import host_array

_SETS_KEPT = 3  # one being compared, one waiting, one being filled


def raw_bytes(leaf: Any, name: str) -> np.ndarray:
    """The bytes of a concrete data leaf (uint8[nbytes]); a view where the leaf allows one.

    A leaf of JAX is read under the caller's transfer guard.
    """
    if isinstance(leaf, jax.Array):
        check_readable(leaf, name)
        leaf = held_here(leaf)
    elif isinstance(leaf, jax.ShapeDtypeStruct):
        raise StructureError(
            f"{name} is a jax.ShapeDtypeStruct, which says what an array is and has no bytes. "
            f"Commit the array itself."
        )
    return host_array(leaf).reshape(-1).view(np.uint8)


def held_here(leaf: Any) -> Any:
    """A readable array as this process holds it: one copy of what every process has whole."""
    return leaf if leaf.is_fully_addressable else leaf.addressable_data(0)


def check_readable(leaf: Any, name: str) -> None:
    """Refuse what cannot be read here: tracers, deleted arrays, parts of arrays elsewhere."""
    if isinstance(leaf, jax.core.Tracer):
        raise StructureError(
            f"{name} is traced: commit was called inside jit, grad, vmap or scan. Call it outside, "
            f"with the arrays that come out; inside a scan, collect deltas in a TLog."
        )
    if leaf.is_deleted():
        raise StructureError(
            f"{name} was donated or deleted before it was committed. Commit before the call that "
            f"donates it, or commit what that call returned."
        )
    if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        raise StructureError(
            f"{name} lies partly on devices of other processes. Expected arrays that this process "
            f"holds whole, or that are replicated: gather it first "
            f"(jax.experimental.multihost_utils.process_allgather)."
        )


@dataclass(slots=True)
class Staged:
    """Leaves that nobody else can change. Read each one once, then `release`."""

    host: list[Any]
    device: list[tuple["_Copier", list[Any]]]
    places: list[tuple[int, int] | None]
    dtypes: list[Any]

    def bytes_of(self, leaf: int) -> np.ndarray:
        """The bytes of a leaf (uint8[nbytes]); waits until they are there."""
        place = self.places[leaf]
        if place is None:
            return self.host[leaf]
        copier, outputs = self.device[place[0]]
        return copier.bytes_of(outputs, place[1])

    def value_of(self, leaf: int) -> np.ndarray:
        """A leaf as the array that it was."""
        place = self.places[leaf]
        if place is None:
            return self.host[leaf]
        return self.bytes_of(leaf).view(self.dtypes[leaf])

    def release(self) -> None:
        """Give the buffers back to be filled again; no view of them may be alive."""
        for copier, outputs in self.device:
            copier.give_back(outputs)
        self.device = []


class Stager:
    """Makes staged copies; one program a structure and set of devices, compiled once.

    Attributes:
        compiled: programs compiled so far.
    """

    def __init__(self) -> None:
        self._copiers: dict[Any, _Copier] = {}

    @property
    def compiled(self) -> int:
        """Programs compiled so far."""
        return len(self._copiers)

    def stage(self, leaves: Sequence[Any], names: Sequence[str]) -> Staged:
        """Copies of ``leaves``: dispatched (JAX arrays) or made (the others) when this returns."""
        groups: dict[Any, list[int]] = {}
        host: list[Any] = [None] * len(leaves)
        inputs = list(leaves)
        for i, leaf in enumerate(leaves):
            if not isinstance(leaf, jax.Array):
                host[i] = raw_bytes(leaf, names[i]).copy()
                continue
            check_readable(leaf, names[i])
            inputs[i] = _plain(held_here(leaf))
            groups.setdefault(_devices_of(inputs[i]), []).append(i)
        dtypes = [getattr(leaf, "dtype", None) for leaf in leaves]
        staged = Staged(host, [], [None] * len(leaves), dtypes)
        for group in groups.values():
            arrays = [inputs[i] for i in group]
            copier = self._copier(arrays)
            for place, i in enumerate(group):
                staged.places[i] = (len(staged.device), place)
            staged.device.append((copier, copier.copy(arrays)))
        return staged

    def _copier(self, arrays: list[Any]) -> "_Copier":
        key = tuple((a.shape, a.dtype, a.sharding) for a in arrays)
        copier = self._copiers.get(key)
        if copier is None:
            copier = self._copiers[key] = _Copier(arrays)
        return copier


def _plain(leaf: Any) -> Any:
    """A leaf that a program compiled ahead of time takes as it is: no key, no narrow element."""
    make_plain = _maker_of_plain(leaf.dtype)
    if make_plain is None:
        return leaf
    with any_settings():
        return make_plain(leaf)


@functools.cache
def _maker_of_plain(dtype: Any) -> Callable[[Any], Any] | None:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.key_data
    if dtype != jnp.bool_ and _bits(dtype) < 8:
        # Arrays of these come in two layouts, packed and not, and one program takes only one.
        return _widen
    return None


def _bits(dtype: Any) -> int:
    info = jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo
    return info(dtype).bits


@jax.jit
def _widen(leaf: Any) -> Any:
    """Elements narrower than a byte, in a byte each with the high bits zero, as in NumPy."""
    return lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{_bits(leaf.dtype)}")).astype(jnp.uint8)


def _devices_of(leaf: Any) -> Any:
    return leaf.sharding._device_assignment


class _Copier:
    """One program that copies arrays of fixed shapes into donated buffers."""

    def __init__(self, arrays: list[Any]) -> None:
        self._lock = threading.Lock()
        self._free: list[list[Any]] = []
        zero = jax.ShapeDtypeStruct((), np.uint8)
        with any_settings(), jax.enable_x64(True), jax.disable_jit(False):
            avals = [_aval(a, a.sharding) for a in arrays]
            outputs = jax.eval_shape(_copy, zero, avals, None)
            self._outputs = [
                tuple(_aval(part, a.sharding) for part in parts)
                for parts, a in zip(outputs, arrays, strict=True)
            ]
            shardings = jax.tree_util.tree_map(lambda out: out.sharding, self._outputs)
            program = jax.jit(_copy, donate_argnums=2, keep_unused=True, out_shardings=shardings)
            self._program = program.lower(zero, avals, self._outputs).compile()
        self._zero = np.uint8(0)

    def copy(self, arrays: list[Any]) -> list[Any]:
        """Dispatch the copy; waits for nothing."""
        with self._lock:
            buffers = self._free.pop() if self._free else None
        with jax.transfer_guard("allow"), jax.disable_jit(False):
            if buffers is None:
                buffers = self._allocate()
            return self._program(self._zero, arrays, buffers)

    def _allocate(self) -> list[Any]:
        with any_settings(), jax.enable_x64(True):
            return jax.tree_util.tree_map(
                lambda out: jax.device_put(
                    np.zeros(out.shape, out.dtype), out.sharding, may_alias=False
                ),
                self._outputs,
            )

    def bytes_of(self, outputs: list[Any], place: int) -> np.ndarray:
        """The bytes of one copy (uint8[nbytes])."""
        with jax.transfer_guard("allow"):
            parts = [np.asarray(_read_once(part)) for part in outputs[place]]
        whole = parts[0] if len(parts) == 1 else np.stack(parts, axis=-1)
        return np.ascontiguousarray(whole).reshape(-1).view(np.uint8)

    def give_back(self, outputs: list[Any]) -> None:
        """Take buffers back, to be filled again."""
        with self._lock:
            if len(self._free) < _SETS_KEPT:
                self._free.append(outputs)


def _read_once(array: jax.Array) -> jax.Array:
    """The buffer of ``array`` as an array that nobody keeps.

    JAX keeps with an array what came to the host of it. A buffer that is used again would hold a
    second copy of the state there, which the caller's thread frees when it donates the buffer.
    """
    return array.addressable_data(0) if array.is_fully_replicated else array


def _copy(zero: Any, leaves: list[Any], buffers: Any) -> list[tuple[Any, ...]]:
    del buffers  # donated: the results take their place
    return [_copied(leaf, zero) for leaf in leaves]


def _copied(leaf: Any, zero: Any) -> tuple[Any, ...]:
    """The bytes of ``leaf`` as unsigned integers of its item size, in buffers of their own.

    One buffer; two for complex numbers, so that each has the shape, and the sharding, of the leaf.
    """
    if leaf.dtype == jnp.bool_:
        return (leaf.astype(jnp.uint8) ^ zero,)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return (*_copied(lax.real(leaf), zero), *_copied(lax.imag(leaf), zero))
    unsigned = jnp.dtype(f"uint{_bits(leaf.dtype)}")
    return (lax.bitcast_convert_type(leaf, unsigned) ^ zero.astype(unsigned),)


def _aval(like: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=sharding)
