"""No commit, write or checkout copies the state or compiles anew."""

import gc
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.engine.queue import CommitQueue
from mmsb_jax._bus.trees.staging import Stager
from mmsb_jax._bus.write import tree_writer
from tests.core._compare import assert_same_tree


def _tree(number: int) -> dict[str, Any]:
    return {
        "w": jnp.arange(4096.0).reshape(64, 64) + number,
        "h": jnp.arange(100, dtype=jnp.bfloat16) * number,
        "c": jnp.arange(10, dtype=jnp.complex64) * number,
        "f": jnp.arange(5) > number,
        "key": jax.random.key(number),
        "n": np.arange(3) + number,
        "bool": number % 2 == 0,
        "int": number,
        "float": number / 3,
        "complex": complex(0, number),
    }


def _pointers(bus: mmsb.Bus) -> dict[str, int]:
    """Where the words of each array of the head are."""
    state = bus._session.engine.head.state
    return {info.name: state.words[i].ctypes.data for i, info in state.table.arrays.items()}


@pytest.mark.parametrize("wait", [True, False])
def test_head_over_commits_and_writes_keeps_its_buffers(any_bus, wait):
    bus = any_bus
    bus.create("x", nbytes=100_000)
    bus.commit(_tree(0))
    before = _pointers(bus)
    for number in range(1, 20):
        bus.commit(_tree(number), wait=wait)
        bus.write("x", np.full(100_000, number, np.uint8))
        with bus.batch():
            bus.write("w", jnp.zeros((64, 64)) + number)
        mask = np.arange(100_000) % 1000 == 0
        region = bus.layout.region("x")
        bus.apply(mmsb.Delta.from_bytes(region, mask, np.full(100_000, 7, np.uint8)))
        bus.checkout(version=1)
        bus.tree()
    bus.sync()
    assert _pointers(bus) == before


def _stager(bus: mmsb.Bus) -> Any:
    return bus._arrays.trees._stager


def test_staging_program_writes_into_its_donated_buffers_and_copies_nothing_else(bus):
    bus.commit(_tree(0))
    bus.commit(_tree(1), wait=False).result()
    ((group, program),) = _stager(bus)._programs.items()
    outputs = [out for pool, count in group for out in pool.outputs * count]
    text = program.as_text()
    assert " copy(" not in text
    assert text.count("may-alias") + text.count("must-alias") == len(outputs)
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes == 0
    assert memory.alias_size_in_bytes >= sum(out.size * out.dtype.itemsize for out in outputs)


def test_staging_buffers_are_filled_again_and_again(bus):
    bus.commit(_tree(0))
    places: dict[int, set[int]] = {}
    for number in range(1, 20):
        bus.commit(_tree(number), wait=False).result()
        bus.commit(_tree(number), wait=False).result()
        for pool in _stager(bus)._pools.values():
            found = places.setdefault(pool.serial, set())
            found.update(x.unsafe_buffer_pointer() for free in pool._free for x in free)
    # One set, or a second where a commit began before the set of the one before was back.
    assert max(map(len, places.values())) <= 2 * 2  # of complex numbers there are two a set


def test_staging_buffers_are_let_go_of_by_sync_and_by_a_commit_that_waits(bus):
    bus.commit(_tree(0))
    own = bus.stats().host_bytes
    assert bus.stats().state_bytes <= own < 2 * bus.stats().state_bytes + 4096
    for number, end in enumerate([bus.sync, lambda: bus.commit(_tree(9))], 1):
        bus.commit(_tree(number), wait=False).result()
        assert bus.stats().host_bytes > own
        end()
        assert bus.stats().host_bytes == own


def test_many_leaves_of_few_shapes_are_copied_by_few_programs(bus, monkeypatch):
    tree = {f"w{i}": jnp.arange(8.0) + i for i in range(150)}
    tree |= {f"b{i}": jnp.arange(3) + i for i in range(37)}
    bus.commit(tree)
    rng = np.random.default_rng(0)
    for number in range(12):
        some = rng.choice(sorted(tree), 1 << number % 8, replace=False)
        tree = tree | {name: tree[name] + 1 for name in some}
        assert set(bus.commit(tree, wait=False).result().changed) == set(some)
    assert_same_tree(bus.checkout(), tree)
    tree = {name: leaf + 1 for name, leaf in tree.items()}
    assert len(bus.commit(tree, wait=False).result().changed) == 187
    assert_same_tree(bus.checkout(), tree)
    # 8 choices; and of each of the two shapes 1, 2, 4 … 64
    assert bus.stats().programs.total <= 8 + 2 * 7
    assert len(bus.stats().to_dict()) == len(set(bus.stats().to_dict()))


def test_copies_of_a_large_state_are_made_one_at_a_time(bus, monkeypatch):
    monkeypatch.setattr(tree_writer, "_LARGE_BYTES", 100)
    bus.commit({"x": jnp.zeros(100)})
    waits = [bus.commit({"x": jnp.zeros(100) + i}, wait=False) for i in range(1, 6)]
    assert [wait.result().version for wait in waits] == [2, 3, 4, 5, 6]
    ((pool,),) = (_stager(bus)._pools.values(),)
    assert len(pool._free) <= 1


def test_copies_that_wait_to_be_committed_are_three_at_most(bus):
    handles, waiting, all_queued = [], [], threading.Event()

    def slow(x: np.ndarray) -> np.ndarray:
        all_queued.wait(0.1)
        waiting.append(sum(not handle.done() for handle in handles))
        return x

    bus.commit({"x": jnp.zeros(3)})
    like = jax.ShapeDtypeStruct((3,), jnp.float32)
    bus.derive("y", ["x"], lambda x: jax.pure_callback(slow, like, x))
    for number in range(1, 9):
        handles.append(bus.commit({"x": jnp.zeros(3) + number}, wait=False))
    all_queued.set()
    assert [handle.result().version for handle in handles] == list(range(3, 11))
    assert 1 <= max(waiting) <= 3
    assert bus.stats().blocked_ms > 0


@pytest.mark.parametrize("wait", [True, False])
def test_hundred_commits_of_one_layout_compile_once(bus, compilations, wait):
    trees = [_tree(number) for number in range(102)]
    bus.commit(trees[0], wait=wait)
    bus.commit(trees[1], wait=wait)
    bus.sync()
    layout = bus.layout
    compilations.clear()
    for tree in trees[2:]:
        bus.commit(tree, wait=wait)
    bus.sync()
    assert bus.version == 102
    assert compilations == []
    assert len(bus.stats().programs) == (0 if wait else 1)
    assert bus.layout == layout
    assert_same_tree(bus.tree(), trees[-1])


def test_first_commit_that_does_not_wait_compiles_one_program(bus, compilations):
    # A shape of its own: JAX keeps the programs of the tests before.
    tree, following = ({"x": jnp.arange(1237), **_tree(number)} for number in (0, 1))
    bus.commit(tree)
    compilations.clear()
    bus.commit(following, wait=False).result()
    assert len(compilations) == 1


def test_commit_of_a_weak_typed_array_compiles_nothing_more(bus, compilations):
    bus.commit({"x": jnp.zeros(())})
    bus.commit({"x": jnp.zeros(())}, wait=False).result()
    weak = jnp.asarray(2.0)
    assert weak.weak_type
    compilations.clear()
    bus.commit({"x": weak}, wait=False).result()
    assert compilations == []
    assert float(bus.tree()["x"]) == 2.0


def test_writes_and_checkouts_of_arrays_compile_nothing(bus, compilations):
    bus.create("x", shape=(100,), dtype="bfloat16")
    bus.write("x", jnp.ones(100, jnp.bfloat16))
    values = [jnp.full(100, number, jnp.bfloat16) for number in range(10)]
    compilations.clear()
    for value in values:
        bus.write("x", value)
        bus.read("x")
        bus.checkout(version=1)
    assert compilations == []


def test_commit_of_an_unchanged_tree_logs_a_frame_alone(bus):
    tree = {"w": jnp.arange(1e6), "n": np.arange(1000)}
    first = bus.commit(tree)
    for wait in (True, False):
        again = bus.commit(tree, wait=wait)
        again = again if wait else again.result()
        assert again.changed == ()
        assert again.changed_bytes == 0
        assert again.logged_bytes < 1024 < first.logged_bytes
    assert bus.version == 3
    assert bus.stats().unchanged_commits == 2


def test_copies_of_a_commit_that_could_not_be_queued_are_held_by_nobody(bus, monkeypatch):
    tree = {f"w{i}": jnp.zeros(100 + i % 2) for i in range(150)}
    bus.commit(tree)
    own, copies, calls = bus.stats().host_bytes, Stager._copies, []

    def fails_later(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return copies(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Stager, "_copies", fails_later)
        with pytest.raises(mmsb.DeviceMemoryError, match="the copy of this commit"):
            bus.commit(jax.tree.map(lambda x: x + 1, tree), wait=False)
    with monkeypatch.context() as patch:
        patch.setattr(CommitQueue, "submit", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bus.commit(jax.tree.map(lambda x: x + 2, tree), wait=False)
    bus.sync()
    gc.collect()
    assert bus.stats().host_bytes == own
    assert bus.commit(jax.tree.map(lambda x: x + 3, tree), wait=False).result().version == 2
