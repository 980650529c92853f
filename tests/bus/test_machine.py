"""A machine that drives a bus against a model of dictionaries and bytes."""

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import mmsb_jax as mmsb
from tests.torture._scale import scaled

NAMES = ("a", "b", "c", "d/e")
LEAVES = ("t/x", "t/y", "t/z")
SIZES = (0, 1, 5, 128, 129, 700)

State = dict[str, bytes]


def _tree(leaves: dict[str, bytes]) -> dict[str, Any]:
    """A tree whose leaves have these bytes: one of JAX, the others of NumPy."""
    arrays = {name: np.frombuffer(raw, np.uint8).copy() for name, raw in leaves.items()}
    if "t/x" in arrays:
        arrays["t/x"] = jnp.array(arrays["t/x"])
    return {"t": {name.removeprefix("t/"): array for name, array in arrays.items()}}


def _bytes(flat: dict[str, Any]) -> State:
    return {name: np.asarray(value).tobytes() for name, value in flat.items()}


class BusMachine(RuleBasedStateMachine):
    """`self.versions[v]` is the state after version ``v``; `self.made` is not recorded yet."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._paths = 0
        self.versions: list[State] = [{}]
        self.made: set[str] = set()
        self.now: State = {}
        self.leaves: set[str] = set()
        self.path = self._new_path()
        self.bus = mmsb.open(self.path, page_bytes=128)

    def _new_path(self) -> Path:
        self._paths += 1
        return Path(self._folder.name) / f"run{self._paths}.mmsb"

    def teardown(self) -> None:
        assert self.bus.verify()
        self.bus.close()
        self._folder.cleanup()

    def _landed(self) -> None:
        """One commit has landed, and with it what was made."""
        self.versions.append(dict(self.now))
        self.made.clear()

    def _by_name(self) -> list[str]:
        return sorted(self.now.keys() - self.leaves)

    def _written(self) -> list[str]:
        """What may be written."""
        return sorted(self.now)

    def _versions(self) -> list[int]:
        """What can be checked out, but for the empty version."""
        return list(range(1, len(self.versions)))

    @initialize(x=st.binary(min_size=300, max_size=300))
    def begin(self, x: bytes) -> None:
        self._commit_tree({"t/x": x, "t/y": b"12345"}, wait=True, structure="same")

    def _commit_tree(self, leaves: dict[str, bytes], wait: bool, structure: Any) -> None:
        done = self.bus.commit(_tree(leaves), wait=wait, structure=structure)
        for name in self.leaves:
            del self.now[name]
        self.leaves = set(leaves)
        self.now |= leaves
        self._landed()
        if wait:
            assert done.version == len(self.versions) - 1

    @rule(data=st.data(), wait=st.booleans())
    def commit(self, data: st.DataObject, wait: bool) -> None:
        leaves = {}
        for name in sorted(self.leaves):
            raw = bytearray(self.now[name])
            for place in data.draw(st.lists(st.integers(0, max(0, len(raw) - 1)), max_size=4)):
                if raw:
                    raw[place] ^= 0xFF
            leaves[name] = bytes(raw)
        self._commit_tree(leaves, wait, "same")

    @rule(
        leaves=st.dictionaries(
            st.sampled_from(LEAVES), st.binary(min_size=1, max_size=200), min_size=1
        ),
        wait=st.booleans(),
    )
    def commit_new_structure(self, leaves: dict[str, bytes], wait: bool) -> None:
        before = {name: len(self.now[name]) for name in self.leaves}
        if before != {name: len(raw) for name, raw in leaves.items()}:
            with pytest.raises(mmsb.StructureError):
                self.bus.commit(_tree(leaves), wait=wait)
        self._commit_tree(leaves, wait, "new")

    @rule(name=st.sampled_from(NAMES), size=st.sampled_from(SIZES))
    def create(self, name: str, size: int) -> None:
        if name in self.now:
            with pytest.raises(mmsb.StructureError):
                self.bus.create(name, nbytes=size)
        else:
            self.bus.create(name, nbytes=size)
            self.now[name] = bytes(size)
            self.made.add(name)

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self._written()))
        self._write(name, data)
        self._landed()

    def _write(self, name: str, data: st.DataObject) -> None:
        size = len(self.now[name])
        raw = data.draw(st.binary(min_size=size, max_size=size))
        self.bus.write(name, np.frombuffer(raw, np.uint8))
        self.now[name] = raw

    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        self._apply(data.draw(st.sampled_from(self._written())), data)
        self._landed()

    def _apply(self, name: str, data: st.DataObject) -> None:
        raw = bytearray(self.now[name])
        drawn = st.dictionaries(
            st.integers(0, max(0, len(raw) - 1)), st.integers(0, 255), max_size=5
        )
        mask, values = np.zeros(len(raw), bool), np.zeros(len(raw), np.uint8)
        for place, value in data.draw(drawn).items():
            if raw:
                mask[place], values[place], raw[place] = True, value, value
        region = self.bus.layout.region(name)
        self.bus.apply(mmsb.Delta.from_bytes(region, mask, values))
        self.now[name] = bytes(raw)

    @precondition(lambda self: self._by_name())
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self._by_name()))
        if name in self.made:  # it is recorded before it goes
            self._landed()
        self.bus.delete(name)
        del self.now[name]
        self._landed()

    @precondition(lambda self: self._by_name())
    @rule(data=st.data(), size=st.sampled_from(SIZES))
    def resize(self, data: st.DataObject, size: int) -> None:
        self._resize(data.draw(st.sampled_from(self._by_name())), size)
        self._landed()

    def _resize(self, name: str, size: int) -> None:
        self.bus.resize(name, nbytes=size)
        self.now[name] = self.now[name][:size].ljust(size, b"\0")

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def clone(self, data: st.DataObject, name: str) -> None:
        source = data.draw(st.sampled_from(self._written()))
        if name in self.now:
            with pytest.raises(mmsb.StructureError):
                self.bus.clone(source, name)
        else:
            self.bus.clone(source, name)
            self.now[name] = self.now[source]
            self._landed()

    @rule(data=st.data(), fails=st.booleans())
    def batch(self, data: st.DataObject, fails: bool) -> None:
        before, made = dict(self.now), set(self.made)
        try:
            with self.bus.batch():
                for verb in data.draw(st.lists(st.sampled_from("wardc"), max_size=5)):
                    self._in_batch(verb, data)
                    self._check_reads()
                if fails:
                    raise KeyError
        except KeyError:
            self.now, self.made = before, made
        else:
            self._landed()

    def _in_batch(self, verb: str, data: st.DataObject) -> None:
        recorded = sorted(region.name for region in self.bus.layout.regions)
        name = data.draw(st.sampled_from(self._written()))
        if verb == "w":
            self._write(name, data)
        elif verb == "a":
            sizes = {region.name: region.nbytes for region in self.bus.layout.regions}
            if name in recorded and sizes[name] == len(self.now[name]):
                self._apply(name, data)
        elif verb == "r" and name not in self.leaves:
            self._resize(name, data.draw(st.sampled_from(SIZES)))
        elif verb == "d" and name not in self.leaves:
            self.bus.delete(name)
            del self.now[name]
        elif verb == "c":
            fresh = data.draw(st.sampled_from(NAMES))
            if fresh not in self.now:
                self.bus.create(fresh, nbytes=7)
                self.now[fresh] = bytes(7)

    @rule(data=st.data(), on_disk=st.booleans())
    def fork(self, data: st.DataObject, on_disk: bool) -> None:
        """Go on with a fork; the old bus is closed and stays as it was."""
        version = data.draw(st.sampled_from(self._versions()))
        path = self._new_path() if on_disk else None
        other = self.bus.fork(path, version=version)
        self.bus.close()
        self.bus, self.path = other, path
        self._go_back_to(version)

    def _go_back_to(self, version: int) -> None:
        """The newest version is ``version``; what was made and not recorded is gone."""
        self.versions = self.versions[: version + 1]
        self.now = dict(self.versions[version])
        self.made = set()
        self.leaves = {name for name in self.now if name.startswith("t/")}

    @rule()
    def snapshot(self) -> None:
        self.bus.snapshot()
        if self.made:
            self._landed()

    @rule()
    def sync(self) -> None:
        if self.made:
            self._landed()
        assert self.bus.sync() == len(self.versions) - 1

    @precondition(lambda self: self.path is not None)
    @rule()
    def reopen(self) -> None:
        self.bus.close()
        if self.made:
            self._landed()
        self.bus = mmsb.open(self.path)

    @rule(data=st.data())
    def checkout(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from([0, *self._versions()]))
        with self.bus.fork(version=version) as other:  # flat: it has committed no tree
            assert _bytes(other.checkout(version=version)) == self.versions[version]
        name = data.draw(st.sampled_from([*NAMES, *LEAVES]))
        if name in self.versions[version]:
            part = self.bus.checkout(version=version, arrays=[name])
            part = part.get(name) if isinstance(part, dict) else part
            assert np.asarray(part).tobytes() == self.versions[version][name]

    @rule(data=st.data())
    def diff(self, data: st.DataObject) -> None:
        old, new = (data.draw(st.sampled_from(self._versions())) for _ in range(2))
        found = self.bus.diff(old, new)
        before, after = self.versions[old], self.versions[new]
        changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
        assert changed <= {array.name for array in found.arrays}

    def _check_reads(self) -> None:
        for name in (*NAMES, *LEAVES):
            if name in self.now:
                assert np.asarray(self.bus.read(name)).tobytes() == self.now[name], name
            else:
                with pytest.raises(mmsb.ArrayNotFoundError):
                    self.bus.read(name)

    @invariant()
    def reads_give_what_was_written(self) -> None:
        self._check_reads()
        assert self.bus.version == len(self.versions) - 1


def _run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        BusMachine,
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None),
    )


def test_bus_driven_at_random_equals_the_model():
    _run(examples=20, steps=20)


@pytest.mark.long
def test_bus_driven_at_random_for_long_equals_the_model():
    _run(examples=scaled(1000), steps=200)
