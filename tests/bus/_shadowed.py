"""Random programs of commits, the same for every way in which a bus may find what changed."""

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import PartitionSpec as P

import mmsb_jax as mmsb
from tests.bus._records import records_of
from tests.core._compare import assert_same_tree, what

_spoil = jax.jit(lambda x: x ^ 0xFF if x.dtype == jnp.uint8 else x * 0 + 3, donate_argnums=0)
DTYPES = ("float32", "bfloat16", "int8", "bool", "complex64", "int4", "float8_e4m3fn", "uint16")
SHAPES = ((), (1,), (7,), (8, 2), (12, 6), (40, 9), (0, 4), (256, 130), (4096, 18))


class Program:
    """Commits, writes and the like, by a seed.

    Args:
        seed: what it does follows from it alone.
        put: gives an array its place on devices.
    """

    def __init__(self, seed: int, put: Any = lambda name, array: array) -> None:
        self.rng = np.random.default_rng(seed)
        self.put = put
        self.tree = self._new_tree()

    def _new_tree(self) -> dict[str, Any]:
        tree = {}
        for k in range(int(self.rng.integers(2, 7))):
            dtype, shape = self.rng.choice(DTYPES), SHAPES[self.rng.integers(len(SHAPES))]
            tree[f"a{k}"] = self._put(f"a{k}", self._values(dtype, shape))
        tree["big"] = self._put("big", self._values("bfloat16", (512, 96)))
        tree["key"] = jax.random.key(int(self.rng.integers(99)))
        tree["host"] = self.rng.integers(0, 9, 300)
        tree["number"] = int(self.rng.integers(99))
        return tree

    def _put(self, name: str, values: np.ndarray) -> Any:
        return self.put(name, jnp.asarray(values))

    def _values(self, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        return self._cast(self.rng.integers(0, 2, shape), dtype)

    def _cast(self, numbers: np.ndarray, dtype: str) -> np.ndarray:
        return numbers.astype(getattr(ml_dtypes, dtype, None) or dtype)

    def _changed(self, name: str, leaf: Any) -> Any:
        """A leaf after a step: itself, an equal one, one of few or of many other elements."""
        how = self.rng.integers(5)
        if how == 0:
            return leaf
        if name == "key":
            return jax.random.key(int(self.rng.integers(99)))
        if name == "number":
            return int(self.rng.integers(99))
        values = np.array(leaf)
        share = (0, 0, 0.01, 0.2, 1)[how]
        is_hit = self.rng.random(values.shape) < share
        fresh = self._cast(self.rng.integers(-1, 4, values.shape) > 0, str(values.dtype))
        values = np.where(is_hit, fresh, values).astype(values.dtype)
        return values if name == "host" else self._put(name, values)

    def run(self, bus: mmsb.Bus, steps: int) -> None:
        """Do it, and see after each step that what was committed is there."""
        bus.create("apart", (40,))
        for step in range(steps):
            before = self.tree
            self.tree = {name: self._changed(name, leaf) for name, leaf in before.items()}
            structure = "same"
            if self.rng.random() < 0.08:
                self.tree, structure = self._new_tree(), "new"
            wait = bool(self.rng.random() < 0.5) or structure == "new"
            if self.rng.random() < 0.1:
                self._fail(bus)
            expected = {name: what(leaf) for name, leaf in self.tree.items()}
            kept = jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, self.tree)
            handle = bus.commit(self.tree, step=step, wait=wait, structure=structure)
            if self.rng.random() < 0.3:
                self._donate(kept)
            self._write(bus, kept)
            if self.rng.random() < 0.5:
                commit = handle if wait else handle.result()
                found = bus.checkout(version=commit.version)
                assert {name: what(leaf) for name, leaf in found.items() if name in expected} == (
                    expected
                )
            self.tree = kept

    def _donate(self, tree: dict[str, Any]) -> None:
        """Spoil what was committed, and go on with copies of it."""
        for name, leaf in tree.items():
            if isinstance(leaf, jax.Array) and name not in ("key",) and leaf.size:
                copy = self._put(name, np.array(leaf))
                with contextlib.suppress(TypeError):
                    _spoil(leaf)
                if not leaf.is_deleted():
                    leaf.delete()
                tree[name] = copy

    def _write(self, bus: mmsb.Bus, tree: dict[str, Any]) -> None:
        """Now and then write beside the commits: an array of the tree, or another."""
        if self.rng.random() < 0.15:
            values = np.array(tree["big"])
            values[3, 5] = 7
            bus.write("big", values)
            tree["big"] = self._put("big", values)
        if self.rng.random() < 0.15:
            bus.write("apart", self.rng.random(40).astype(np.float32))

    def _fail(self, bus: mmsb.Bus) -> None:
        """A commit that is refused: one of its arrays was deleted."""
        gone = jnp.array(np.array(self.tree["big"]))
        gone.delete()
        for wait in (True, False):
            with contextlib.suppress(mmsb.StructureError):
                bus.commit(self.tree | {"big": gone}, wait=wait)
                raise AssertionError("a deleted array was committed")


def run_program(path: Path, seed: int, shadow: Any, steps: int = 25, put: Any = None) -> Any:
    """Run one on a new log; returns the statistics at its end."""
    program = Program(seed) if put is None else Program(seed, put)
    with mmsb.open(path, shadow=shadow) as bus:
        program.run(bus, steps)
        assert_same_tree(bus.tree(), program.tree)
        return bus.stats()


def main(way: int) -> None:
    """On eight devices, arrays placed in one of five ways: a program gives the same log."""
    assert jax.device_count() == 8
    put = list(_ways(jax.make_mesh((4, 2), ("x", "y"))))[way]
    with tempfile.TemporaryDirectory() as folder, mock.patch("time.time_ns", return_value=10**18):
        records = []
        for shadow in (None, "bytes", "digest"):
            path = Path(folder, str(shadow))
            run_program(path, way, shadow, steps=7, put=put)
            records.append(records_of(path))
        assert records[0] == records[1] == records[2]
    print("done")


def _ways(mesh: jax.sharding.Mesh) -> Iterator[Any]:
    """Ways to place the arrays of a program."""
    specs = [P("x"), P(None, "y"), P("y", "x"), P()]
    for spec in specs:
        yield functools.partial(_placed, [jax.sharding.NamedSharding(mesh, spec)])
    # Odd edges, in each array another way; parts of two arrays share a word.
    flat = jax.make_mesh((8,), ("d",))
    uneven = [jax.sharding.NamedSharding(flat, P(None, "d")), *jax.devices()[:3]]
    yield functools.partial(
        _placed, [jax.sharding.NamedSharding(mesh, spec) for spec in specs] + uneven
    )


def _placed(places: list[Any], name: str, array: jax.Array) -> jax.Array:
    """The array, placed as the first of the ways after that of its name which it can be."""
    start = sum(name.encode()) % len(places)
    for place in (*places[start:], *places[:start]):
        if len(getattr(place, "spec", ())) > array.ndim:
            continue
        with contextlib.suppress(ValueError):
            return jax.device_put(array, place)
    return array
