"""Versions of pages: of the head, of a log, in a batch, of arrays that are not recorded yet."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.graph._graphs import F

PAGE = 4096


def test_page_versions_are_those_of_the_last_commit_that_changed_a_byte(any_bus):
    raw, wanted = np.zeros(5 * PAGE - 7, np.uint8), np.zeros(5, np.uint64)
    any_bus.create("x", nbytes=raw.size)
    rng = np.random.default_rng(0)
    for _ in range(12):
        before = raw.copy()
        for place in rng.integers(0, raw.size, rng.integers(0, 3)):
            raw[place] = rng.integers(0, 3)
        version = any_bus.write("x", raw).version
        for page in range(5):
            part = slice(page * PAGE, (page + 1) * PAGE)
            if not np.array_equal(before[part], raw[part]):
                wanted[page] = version
        found = any_bus.page_versions("x")
        assert (found.dtype, found.tolist()) == (np.uint64, wanted.tolist())
    with any_bus.fork() as fork:
        assert fork.page_versions("x").tolist() == wanted.tolist()


def test_page_versions_are_the_callers_own(any_bus):
    any_bus.commit({"x": F(1, 2)})
    any_bus.page_versions("x")[:] = 99
    assert any_bus.page_versions("x").tolist() == [1]


def test_page_versions_of_trees_derived_arrays_and_empty_ones(any_bus):
    any_bus.commit({"x": jnp.zeros(3000), "none": jnp.zeros((0, 4)), "step": 0})
    any_bus.derive("y", ["x"], lambda x: x + 1)
    any_bus.commit({"x": jnp.zeros(3000).at[-1].set(1), "none": jnp.zeros((0, 4)), "step": 0})
    assert any_bus.page_versions("x").tolist() == [0, 0, 3]  # zeros are as it was made
    assert any_bus.page_versions("y").tolist() == [2, 2, 3]
    assert any_bus.page_versions("none").tolist() == []
    assert any_bus.page_versions("step").tolist() == [0]


def test_page_versions_in_a_batch_and_of_what_is_not_recorded_yet(any_bus):
    any_bus.commit({"x": F(1, 2)})
    any_bus.create("made", nbytes=PAGE + 1)
    assert any_bus.page_versions("made").tolist() == [0, 0]
    with any_bus.batch():
        any_bus.write("x", F(3, 4))
        any_bus.create("inside", (3,))
        assert any_bus.page_versions("x").tolist() == [1]
        assert any_bus.page_versions("inside").tolist() == [0]
        assert any_bus.page_versions("made").tolist() == [0, 0]
    assert any_bus.page_versions("x").tolist() == [2]


def test_reader_finds_the_page_versions_of_the_writer_in_the_log(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.create("x", nbytes=3 * PAGE)
        raw = np.zeros(3 * PAGE, np.uint8)
        reader = mmsb.open(tmp_path / "run.mmsb", mode="r")
        for place in (0, 2 * PAGE, 5, PAGE + 9):
            raw[place] += 1
            bus.write("x", raw)
            assert reader.page_versions("x").tolist() == bus.page_versions("x").tolist()
        bus.snapshot()
        bus.resize("x", nbytes=4 * PAGE)
        wanted = bus.page_versions("x").tolist()
        assert wanted == [3, 4, 2, 0]
        assert reader.page_versions("x").tolist() == wanted
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        assert bus.page_versions("x").tolist() == wanted
    reader.close()


def test_page_versions_come_with_commits_of_another_log(tmp_path):
    with mmsb.open() as source, mmsb.open(tmp_path / "copy.mmsb") as copy:
        source.create("x", nbytes=2 * PAGE)
        for place in (0, PAGE, PAGE + 1):
            raw = np.zeros(2 * PAGE, np.uint8)
            raw[place] = 7
            source.write("x", raw)
        path = tmp_path / "stream"
        source.export(path=path)
        copy.import_(path)
        assert copy.page_versions("x").tolist() == source.page_versions("x").tolist() == [2, 3]


@pytest.mark.parametrize("name", ["nothing", "", "\0x"])
def test_page_versions_of_no_array_are_not_found(tmp_path, name):
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        bus.commit({"x": F(1)})
        with mmsb.open(tmp_path / "run.mmsb", mode="r") as reader:
            for one in (bus, reader):
                with pytest.raises(mmsb.ArrayNotFoundError):
                    one.page_versions(name)


@pytest.mark.parametrize("name", [None, 3, b"x", ["x"]])
def test_page_versions_of_what_is_no_name_say_so(bus, name: Any):
    with pytest.raises(TypeError, match="expected the name of an array"):
        bus.page_versions(name)
