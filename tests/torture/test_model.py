"""Entry 8: a machine that drives a bus against a model of dictionaries and bytes.

The machine of `tests/bus/test_machine.py`, on a simulated disk: it also derives, tags, compacts,
and dies, of a signal or of a power cut.
"""

import random
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import invariant, precondition, rule, run_state_machine_as_test

import mmsb_jax as mmsb
from mmsb_jax._bus import opening
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax.testing._disk import Disk
from tests.bus.test_machine import BusMachine
from tests.torture._scale import scaled

SOURCE, DERIVED = "source", "derived"
HIDDEN = {SOURCE, DERIVED}


def invert(source: Any) -> Any:
    """What is derived."""
    return source ^ 0xFF


class TortureMachine(BusMachine):
    """Logs lie on simulated disks; `places` says on which, and where on it."""

    steps = deaths = lost = 0  # of all runs, to be printed
    most_attached = 1  # how often a function is compiled in one run; that is what takes time

    def __init__(self) -> None:
        self.disk = Disk()
        self.places: dict[Path, tuple[Disk, Path]] = {}
        self.is_attached = False
        self.times_attached = 0
        self.kept_since = 1
        self.tags: dict[str, int] = {}
        self.ever_tagged: set[tuple[str, int]] = set()
        self._patch = mock.patch.object(opening, "DiskFiles", self._files)
        self._patch.start()
        super().__init__()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self._patch.stop()

    def _files(self, place: Path) -> DiskFiles:
        disk, root = self.places[place]
        return DiskFiles(root, disk)

    def _new_path(self) -> Path:
        path = super()._new_path()
        self.places[path] = (self.disk, Path("/") / path.name)
        return path

    def _written(self) -> list[str]:
        return sorted(self.now.keys() - HIDDEN)

    def _by_name(self) -> list[str]:
        return sorted(self.now.keys() - self.leaves - HIDDEN)

    def _versions(self) -> list[int]:
        kept, tagged = self.kept_since, self.tags.values()
        return [v for v in super()._versions() if v >= kept - 1 or v in tagged]

    def _landed(self) -> None:
        type(self).steps += 1
        if DERIVED in self.now and self.is_attached:
            self.now[DERIVED] = _inverted(self.now[SOURCE])
        super()._landed()

    @rule(source=st.binary(min_size=40, max_size=40))
    def write_source(self, source: bytes) -> None:
        if SOURCE not in self.now:
            self.bus.create(SOURCE, nbytes=40)
        self.bus.write(SOURCE, np.frombuffer(source, np.uint8))
        self.now[SOURCE] = source
        self._landed()

    @precondition(lambda self: SOURCE in self.now and self.times_attached < self.most_attached)
    @rule()
    def derive(self) -> None:
        """Derive it, or attach its function; a commit where there was something to compute."""
        self.times_attached += 1
        right, before = _inverted(self.now[SOURCE]), self.now.get(DERIVED)
        if self.bus.derive(DERIVED, [SOURCE], invert) is None:
            assert before == right
            self.is_attached = True
            return
        self.is_attached = True
        self.now[DERIVED] = right
        self._landed()

    def _go_back_to(self, version: int) -> None:
        super()._go_back_to(version)
        self.tags = {name: v for name, v in self.tags.items() if v <= version}
        self.kept_since = min(self.kept_since, version + 1)
        if DERIVED in self.now and self.is_attached:
            self.derive()
        else:
            self.is_attached = False

    @precondition(lambda self: self.path is not None)
    @rule()
    def reopen(self) -> None:
        super().reopen()
        self.is_attached = False

    @precondition(lambda self: self.path is not None)
    @rule(seed=st.integers(0, 2**32), of_power=st.booleans())
    def die(self, seed: int, of_power: bool) -> None:
        """The next process finds a prefix, with all that was durable."""
        self.bus.tree()  # what is queued lands
        rng, engine = random.Random(seed), self.bus._session.writing()
        least = engine.writer.durable_version if of_power else len(self.versions) - 1
        disk, root = self.places[self.path]
        self.disk = disk.after_machine_death(rng) if of_power else disk.after_process_death()
        dead, self.path = self.bus, self._new_path()
        self.places[self.path] = (self.disk, root)
        self.bus = mmsb.open(self.path)
        newest = self.bus.version
        assert least <= newest <= len(self.versions) - 1
        type(self).deaths += 1
        type(self).lost += len(self.versions) - 1 - newest
        self.is_attached = False
        found = self.bus.tags()
        assert found.items() <= self.ever_tagged if of_power else found == self.tags
        self.tags = found
        self._go_back_to(newest)
        dead.close()
        if not newest:
            self._commit_tree({"t/x": bytes(300), "t/y": b"12345"}, wait=True, structure="same")

    @rule(data=st.data(), name=st.sampled_from(["best", "last"]))
    def tag(self, data: st.DataObject, name: str) -> None:
        version = data.draw(st.sampled_from(self._versions()))
        self.bus.tag(name, version)
        self.tags[name] = version
        self.ever_tagged.add((name, version))

    @precondition(lambda self: self.tags)
    @rule(data=st.data())
    def untag(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.tags)))
        self.bus.untag(name)
        del self.tags[name]

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        version = data.draw(st.integers(1, len(self.versions) - 1))
        self.bus.compact(keep_since=version)
        self.kept_since = max(self.kept_since, version)

    @invariant()
    def tags_are_what_was_set(self) -> None:
        assert self.bus.tags() == self.tags

    @invariant()
    def derived_is_what_its_function_makes(self) -> None:
        if DERIVED in self.now:
            found = self.bus.checkout(arrays=[DERIVED])
            found = found[DERIVED] if isinstance(found, dict) else found
            assert np.asarray(found).tobytes() == self.now[DERIVED]


def _inverted(source: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in source)


def _run(examples: int, steps: int, most_attached: int) -> None:
    TortureMachine.most_attached = most_attached
    TortureMachine.steps = TortureMachine.deaths = TortureMachine.lost = 0
    run_state_machine_as_test(
        TortureMachine,
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None),
    )
    print(
        f"{examples} runs of {steps} steps: {TortureMachine.steps:,} commits, "
        f"{TortureMachine.deaths:,} deaths, {TortureMachine.lost} versions gone that were not "
        f"durable; all as the model says"
    )
    assert TortureMachine.deaths


def test_bus_that_derives_compacts_and_dies_equals_the_model():
    _run(examples=12, steps=25, most_attached=1)


@pytest.mark.long
def test_bus_that_derives_compacts_and_dies_for_long_equals_the_model():
    _run(examples=scaled(1000), steps=200, most_attached=3)
