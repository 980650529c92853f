"""Staging: copies of a tree's leaves that are the bus's own, made without waiting for them.

A commit with ``wait=False`` returns before its bytes are compared, and the caller may donate or
overwrite every array at once. JAX leaves are copied by one program, dispatched before the call
returns, into buffers that are used again and again: fresh ones would cost a page fault for every
4 KiB, several times the copy. The program adds a zero that is known only when it runs: a plain copy
is so cheap in XLA's eyes that it would run in the caller's thread.
"""

import functools
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmsb_jax._base.errors import StructureError
from mmsb_jax._compile.made import CompileTime, ProgramLog
from mmsb_jax._core.settings import any_settings
from mmsb_jax._core.tree.leaves import host_array, is_deleted

_MOST_TOGETHER = 64  # arrays that one program copies: a power of two
_MOST_CHOICES = 8
"""So many choices of few leaves have a program of their own."""
_ZERO = np.uint8(0)

Buffers = tuple[Any, ...]
"""A copy of one array: see `_copied`."""


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
    if is_deleted(leaf):
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


@dataclass(slots=True, eq=False, weakref_slot=True)
class Staged:
    """Leaves that nobody else can change. Read each one once, then `release`."""

    host: list[Any]
    device: list[tuple["_Pool", Buffers] | None]
    dtypes: list[Any]

    def bytes_of(self, leaf: int) -> np.ndarray:
        """The bytes of a leaf (uint8[nbytes]); waits until they are there."""
        copy = self.device[leaf]
        return self.host[leaf] if copy is None else _bytes_of(copy[1])

    def value_of(self, leaf: int) -> np.ndarray:
        """A leaf as the array that it was."""
        if self.device[leaf] is None:
            return self.host[leaf]
        return self.bytes_of(leaf).view(self.dtypes[leaf])

    @property
    def nbytes(self) -> int:
        """Bytes of its copies on devices."""
        return sum(copy[0].nbytes for copy in self.device if copy is not None)

    def release(self) -> None:
        """Give the buffers back to be filled again; no view of them may be alive."""
        device, self.device = self.device, []
        for copy in device:
            if copy is not None:
                pool, buffers = copy
                pool.give_back(buffers)


class Stager:
    """Makes staged copies: a program copies many arrays into buffers that are there.

    A tree of few leaves is copied by one program, and so are the first few choices of its leaves.
    Many leaves, and further choices, are copied in groups of one shape, whose sizes are powers of
    two: so few programs are compiled, however many leaves there are, and whichever change.

    Attributes:
        log: the programs, and why each was compiled.
    """

    def __init__(self) -> None:
        self._pools: dict[Any, _Pool] = {}
        self._programs: dict[tuple[tuple[_Pool, int], ...], Any] = {}
        self.log = ProgramLog()
        self._choices = 0
        self._staged: set[int] = set()
        self._living: weakref.WeakSet[Staged] = weakref.WeakSet()

    @property
    def held_bytes(self) -> int:
        """Bytes of the buffers, those that are filled and those that wait."""
        waiting = sum(pool.free_bytes for pool in self._pools.values())
        return waiting + sum(staged.nbytes for staged in self._living)

    def give_up(self) -> None:
        """Let go of the buffers that wait to be filled."""
        for pool in self._pools.values():
            pool.give_up()

    def stage(self, leaves: Sequence[Any], names: Sequence[str]) -> Staged:
        """Copies of ``leaves``: dispatched (JAX arrays) or made (the others) when this returns."""
        places: dict[Any, dict[_Pool, list[int]]] = {}
        host: list[Any] = [None] * len(leaves)
        inputs = list(leaves)
        for i, leaf in enumerate(leaves):
            if not isinstance(leaf, jax.Array):
                host[i] = raw_bytes(leaf, names[i]).copy()
                continue
            check_readable(leaf, names[i])
            inputs[i] = _plain(held_here(leaf))
            pool = self._pool(inputs[i])
            places.setdefault(pool.devices, {}).setdefault(pool, []).append(i)
        dtypes = [getattr(leaf, "dtype", None) for leaf in leaves]
        staged = Staged(host, [None] * len(leaves), dtypes)
        self._living.add(staged)
        try:
            for there in places.values():
                for group in self._groups(there):
                    where = [(pool, i) for pool, some in group for i in some]
                    copies = self._copies(group, [inputs[i] for _, i in where])
                    for (pool, i), copy in zip(where, copies, strict=True):
                        staged.device[i] = pool, copy
        except Exception:
            staged.release()
            raise
        return staged

    def _copies(self, group: "Group", arrays: list[Any]) -> list[Buffers]:
        program = self._program(group)
        buffers = [free for pool, some in group for free in pool.take(len(some))]
        with jax.transfer_guard("allow"), jax.disable_jit(False):
            return program(_ZERO, arrays, buffers)

    def _pool(self, array: Any) -> "_Pool":
        key = array.shape, array.dtype, array.sharding
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = _Pool(array, len(self._pools))
        return pool

    def _groups(self, places: dict["_Pool", list[int]]) -> list["Group"]:
        """What one program each copies."""
        together = sorted(places.items(), key=lambda item: item[0].serial)
        if sum(map(len, places.values())) <= _MOST_TOGETHER:
            is_known = _key_of(together) in self._programs
            if is_known or self._choices < _MOST_CHOICES:
                self._choices += not is_known
                return [together]
        groups = []
        for pool, some in together:
            done = 0
            while done < len(some):
                size = 1 << min(_MOST_TOGETHER, len(some) - done).bit_length() - 1
                groups.append([(pool, some[done : done + size])])
                done += size
        return groups

    def _program(self, group: "Group") -> Any:
        """The program that copies arrays as those of a group; compiled once."""
        key = _key_of(group)
        program = self._programs.get(key)
        if program is None:
            begun, why = time.perf_counter_ns(), self._why(group)
            pools = [pool for pool, some in group for _ in some]
            program = self._programs[key] = _compiled(pools)
            self._staged |= {pool.serial for pool in pools}
            took = CompileTime()
            self.log.add(f"a copy of {_named(group)}", why, took)
            took.ms = (time.perf_counter_ns() - begun) / 1e6
        return program

    def _why(self, group: "Group") -> str:
        """Why there is no program for a group yet."""
        if not self._programs:
            return "the first commit that does not wait"
        new = [pool for pool, _ in group if pool.serial not in self._staged]
        if new:
            shapes = ", ".join(dict.fromkeys(pool.title for pool in new[:4]))
            return f"leaves of another shape, dtype or place: {shapes}"
        return "another choice of leaves changed"


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


class _Pool:
    """Buffers for arrays of one shape, dtype and place: as many as were filled at one time.

    Attributes:
        serial: tells pools apart, in the order in which they were made.
        like: such an array, abstract.
        outputs: the buffers of one, abstract.
        nbytes: bytes of these.
        devices: where they lie.
    """

    def __init__(self, array: Any, serial: int) -> None:
        self.serial = serial
        self._lock = threading.Lock()
        self._free: list[Buffers] = []
        self.devices = array.sharding._device_assignment
        self.like = _aval(array, array.sharding)
        with any_settings(), jax.enable_x64(True), jax.disable_jit(False):
            parts = jax.eval_shape(_copied, self.like, _ZERO)
        self.outputs = tuple(_aval(part, array.sharding) for part in parts)
        self.nbytes = sum(part.size * part.dtype.itemsize for part in self.outputs)

    @property
    def title(self) -> str:
        """What one array is: ``float32[3,4]``."""
        return f"{self.like.dtype}[{','.join(map(str, self.like.shape))}]"

    @property
    def free_bytes(self) -> int:
        """Bytes of the buffers that wait to be filled."""
        return len(self._free) * self.nbytes

    def take(self, count: int) -> list[Buffers]:
        """Buffers for so many arrays: some that were filled before, and new ones."""
        with self._lock:
            there = len(self._free) - min(count, len(self._free))
            found, self._free = self._free[there:], self._free[:there]
        if len(found) < count:
            with any_settings(), jax.enable_x64(True):
                found += [self._new() for _ in range(count - len(found))]
        return found

    def _new(self) -> Buffers:
        return tuple(
            jax.device_put(np.zeros(out.shape, out.dtype), out.sharding, may_alias=False)
            for out in self.outputs
        )

    def give_back(self, buffers: Buffers) -> None:
        """Take buffers back, to be filled again."""
        with self._lock:
            self._free.append(buffers)

    def give_up(self) -> None:
        """Let go of the buffers that wait to be filled."""
        with self._lock:
            self._free.clear()


Group = list[tuple[_Pool, list[int]]]
"""Pools, each with the places of the leaves that are to be copied into its buffers."""


def _named(group: Group) -> str:
    texts = [f"{len(some):,} {pool.title}" for pool, some in group[:4]]
    return ", ".join(texts) + (f" and {len(group) - 4:,} more shapes" if len(group) > 4 else "")


def _key_of(group: Group) -> tuple[tuple[_Pool, int], ...]:
    return tuple((pool, len(some)) for pool, some in group)


def _compiled(pools: Sequence[_Pool]) -> Any:
    outputs = [pool.outputs for pool in pools]
    shardings = jax.tree_util.tree_map(lambda out: out.sharding, outputs)
    with any_settings(), jax.enable_x64(True), jax.disable_jit(False):
        program = jax.jit(_copy, donate_argnums=2, keep_unused=True, out_shardings=shardings)
        return program.lower(_ZERO, [pool.like for pool in pools], outputs).compile()


def _bytes_of(buffers: Buffers) -> np.ndarray:
    """The bytes of one copy (uint8[nbytes])."""
    with jax.transfer_guard("allow"):
        parts = [np.asarray(_read_once(part)) for part in buffers]
    whole = parts[0] if len(parts) == 1 else np.stack(parts, axis=-1)
    return np.ascontiguousarray(whole).reshape(-1).view(np.uint8)


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
