"""A commit that cannot be made says why, changes nothing, and the next one works."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.random import define_prng_impl

import mmsb_jax as mmsb
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.writer.create import create_log
from mmsb_jax.testing._faulty import FaultyFiles, open_on
from tests.core._compare import assert_same_tree, what


def make_tree(number: int = 0) -> dict[str, Any]:
    return {"w": jnp.arange(6.0).reshape(2, 3) + number, "n": np.arange(4) * number, "s": "text"}


def seen(bus: mmsb.Bus) -> tuple[Any, ...]:
    """All that a commit could have changed."""
    leaves = [what(leaf) for leaf in jax.tree.leaves(bus.tree())]  # waits for what is queued
    return (
        bus.version,
        leaves,
        list(bus.log()),
        bus.layout,
        bus.stats().commits,
    )


def _deleted() -> jax.Array:
    array = jnp.zeros((2, 3))
    array.delete()
    return array


REFUSED: dict[str, tuple[Callable[[mmsb.Bus], Any], type[Exception], str]] = {
    "shape": (
        lambda bus: bus.commit(make_tree() | {"w": jnp.zeros((3, 2))}),
        mmsb.StructureError,
        r"1 paths:\n  w: float32\[3,2\] \(jax\), was float32\[2,3\] \(jax\)\n",
    ),
    "dtype": (
        lambda bus: bus.commit(make_tree() | {"w": jnp.zeros((2, 3), jnp.bfloat16)}),
        mmsb.StructureError,
        r"w: bfloat16\[2,3\] \(jax\), was float32",
    ),
    "several paths": (
        lambda bus: bus.commit({"w": jnp.zeros(3), "n": None, "more": {"a": 1, "b": "x"}}),
        mmsb.StructureError,
        r"(?s)5 paths:\n  more/a: new, .*  more/b: new, .*  n: None, was .*  s: missing, .*  w: ",
    ),
    "wait=False": (
        lambda bus: bus.commit({"w": jnp.zeros(3)}, wait=False),
        mmsb.StructureError,
        "3 paths",
    ),
    "donated": (
        lambda bus: bus.commit(make_tree() | {"w": _deleted()}),
        mmsb.StructureError,
        "w was donated or deleted before it was committed",
    ),
    "donated, wait=False": (
        lambda bus: bus.commit(make_tree() | {"w": _deleted()}, wait=False),
        mmsb.StructureError,
        "w was donated or deleted before it was committed",
    ),
    "traced": (
        lambda bus: jax.jit(lambda x: bus.commit(make_tree() | {"w": x}))(jnp.zeros((2, 3))),
        mmsb.StructureError,
        "w is traced: commit was called inside jit",
    ),
    "traced, wait=False": (
        lambda bus: jax.vmap(lambda x: bus.commit(make_tree() | {"w": x}, wait=False))(
            jnp.zeros((2, 2, 3))
        ),
        mmsb.StructureError,
        "w is traced",
    ),
    "object": (
        lambda bus: bus.commit({"w": object()}),
        mmsb.StructureError,
        "w: a leaf of type builtins.object is neither data nor a function",
    ),
    "object array": (
        lambda bus: bus.commit({"w": np.array([None, 1])}, structure="new"),
        mmsb.StructureError,
        "w: a NumPy array of dtype object cannot be recorded",
    ),
    "masked array": (
        lambda bus: bus.commit({"w": np.ma.masked_array([1, 2], [0, 1])}, structure="new"),
        mmsb.StructureError,
        "w: a numpy.ma.*MaskedArray is more than its bytes",
    ),
    "shared Variable": (
        lambda bus: bus.commit({"m": _shared()}, structure="new"),
        mmsb.StructureError,
        r"m/0/kernel and m/1/kernel are one flax\.nnx\..*Param, and would come back as two",
    ),
    "module that is no pytree": (
        lambda bus: bus.commit({"m": _Leaf(rngs=nnx.Rngs(0))}, structure="new"),
        mmsb.StructureError,
        r"m: a .*_Leaf is no pytree in this version of Flax. Commit nnx\.state\(model\)",
    ),
    "note": (
        lambda bus: bus.commit(make_tree(1), note={"x": object()}),
        TypeError,
        "note holds a object. Expected JSON",
    ),
    "note, wait=False": (
        lambda bus: bus.commit(make_tree(1), note={"x": {1}}, wait=False),
        TypeError,
        "note holds a set",
    ),
    "note with an array": (
        lambda bus: bus.commit(make_tree(1), note=jnp.zeros(3), wait=False),
        TypeError,
        r"note holds an array of shape \(3,\)",
    ),
    "note with a donated array": (
        lambda bus: bus.commit(make_tree(1), note=_deleted_scalar()),
        mmsb.StructureError,
        "note was donated",
    ),
    "note with a key that is no string": (
        lambda bus: bus.commit(make_tree(1), note={1: 2}),
        TypeError,
        "a dict with the key 1",
    ),
    "long note": (
        lambda bus: bus.commit(make_tree(1), note="x" * 70_000),
        ValueError,
        r"note takes 70,002 bytes as JSON; at most 65,536",
    ),
    "extra": (
        lambda bus: bus.commit(make_tree(1), extra={"x": jnp.zeros(2)}),
        TypeError,
        "extra holds a",
    ),
    "step": (lambda bus: bus.commit(make_tree(1), step=-1), ValueError, "step=-1"),
    "step of a kind": (lambda bus: bus.commit(make_tree(1), step=1.5), TypeError, "step=1.5"),
    "source": (lambda bus: bus.commit(make_tree(1), source="x" * 2000), ValueError, "source='xxx"),
    "structure": (
        lambda bus: bus.commit(make_tree(1), structure="any"),
        ValueError,
        "structure='any': expected 'same' or 'new'",
    ),
    "twice one name": (
        lambda bus: bus.commit(_TwoAlike(1, 2), structure="new"),
        mmsb.StructureError,
        "several leaves have the name 'x'",
    ),
    "long path": (
        lambda bus: bus.commit({"k" * 100_000: 1}, structure="new"),
        mmsb.StructureError,
        "a path of 100000 bytes: kkk",
    ),
    "shape in the place of an array": (
        lambda bus: bus.commit(make_tree() | {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}),
        mmsb.StructureError,
        r"w is a jax\.ShapeDtypeStruct, which says what an array is and has no bytes",
    ),
    "shape, wait=False": (
        lambda bus: bus.commit(
            make_tree() | {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}, wait=False
        ),
        mmsb.StructureError,
        r"w is a jax\.ShapeDtypeStruct",
    ),
    "key of a generator that is not registered": (
        lambda bus: bus.commit({"k": jax.random.key(5, impl=_generator("mine"))}, structure="new"),
        mmsb.StructureError,
        "k: a key of the implementation 'mine', of which JAX knows no more than this key",
    ),
    "key of a generator named as another": (
        lambda bus: bus.commit({"k": jax.random.key(5, impl=_generator("rbg"))}, structure="new"),
        mmsb.StructureError,
        "k: a key of the implementation 'rbg'",
    ),
    "text that is none": (
        lambda bus: bus.commit(make_tree() | {"s": HALF}),
        mmsb.StructureError,
        r"s: the text 'caf\\udce9' has half of a surrogate pair at 3",
    ),
    "path that is no text": (
        lambda bus: bus.commit({HALF: 1}, structure="new"),
        mmsb.StructureError,
        r"the path 'caf\\udce9' has half",
    ),
    "function with a name that is no text": (
        lambda bus: bus.commit({"f": _named(HALF)}, structure="new"),
        mmsb.StructureError,
        r"f: the text '.*caf\\udce9' has half",
    ),
    "source that is no text": (
        lambda bus: bus.commit(make_tree(), source=HALF),
        mmsb.StructureError,
        r"source= 'caf\\udce9' has half",
    ),
    "note that is no text": (
        lambda bus: bus.commit(make_tree(), note=["a", HALF]),
        mmsb.StructureError,
        r"note holds a string that cannot be written: 'caf\\udce9'",
    ),
    "note with a key that is no text": (
        lambda bus: bus.commit(make_tree(), note={HALF: 1}, wait=False),
        mmsb.StructureError,
        r"note holds a key that cannot be written: 'caf\\udce9'",
    ),
    "extra that is no text": (
        lambda bus: bus.commit(make_tree(), extra={"a": HALF}),
        mmsb.StructureError,
        r"extra holds a string that cannot be written: 'caf\\udce9'",
    ),
    "name that is no text": (
        lambda bus: bus.create(HALF, (3,)),
        mmsb.StructureError,
        r"name 'caf\\udce9' has half",
    ),
    "clone to what is no text": (lambda bus: bus.clone("w", HALF), mmsb.StructureError, "has half"),
    "derive what is no text": (
        lambda bus: bus.derive(HALF, ["w"], jnp.sum),
        mmsb.StructureError,
        r"name=?\s?'caf\\udce9'",
    ),
    "tag that is no text": (lambda bus: bus.tag(HALF), ValueError, r"tag='caf\\udce9'"),
    "clone to None": (lambda bus: bus.clone("w", None), mmsb.StructureError, "name=None"),
    "clone to nothing": (lambda bus: bus.clone("w", ""), mmsb.StructureError, "name=''"),
    "clone to NUL": (lambda bus: bus.clone("w", "\0a"), mmsb.StructureError, r"name='\\x00a'"),
    "clone to a long name": (
        lambda bus: bus.clone("w", "n" * 40_000),
        mmsb.StructureError,
        "name='nnn.* of 40000 bytes: at most 32767",
    ),
    "create NUL": (lambda bus: bus.create("\0a", (3,)), mmsb.StructureError, r"name='\\x00a'"),
    "shape that is no sequence": (
        lambda bus: bus.create("x", 3),
        mmsb.StructureError,
        r"array 'x': 3 is not the shape of an array. Expected a tuple",
    ),
    "shape beyond all bounds": (
        lambda bus: bus.create("x", (2**70,)),
        mmsb.StructureError,
        "at most",
    ),
    "large int": (
        lambda bus: bus.commit({"n": 10**5000}, structure="new"),
        mmsb.StructureError,
        "n: an int of more than 4300 digits",
    ),
    "large int in a note": (
        lambda bus: bus.commit(make_tree(), note={"n": [-(10**5000)]}),
        mmsb.StructureError,
        "note holds an int of more than 4300 digits",
    ),
    "large int as a step": (
        lambda bus: bus.commit(make_tree(), step=10**5000),
        ValueError,
        "step=1000.*: expected 0 to",
    ),
    "keys that cannot be sorted": (
        lambda bus: bus.commit({1: 1, "a": 2}, structure="new"),
        mmsb.StructureError,
        "the tree cannot be taken apart: .*keys of a dict must be of one type that can be sorted",
    ),
    "keys that cannot be sorted, wait=False": (
        lambda bus: bus.commit({1: 1, "a": 2}, wait=False),
        mmsb.StructureError,
        "the tree cannot be taken apart",
    ),
    "key that is known by its address": (
        lambda bus: bus.commit({_Key(): 1}, structure="new"),
        mmsb.StructureError,
        "the key <.*_Key object at 0x.* is known by its place in memory alone",
    ),
    "function as a key": (
        lambda bus: bus.commit({(make_tree, 1): 1}, structure="new"),
        mmsb.StructureError,
        "is known by its place in memory alone",
    ),
    "node that cannot be taken apart": (
        lambda bus: bus.commit({"x": _Closed()}, structure="new"),
        mmsb.StructureError,
        "the tree cannot be taken apart: KeyError: 'closed'",
    ),
}

HALF = os.fsdecode(b"caf\xe9")
"""The name of a file in Latin-1, as Python gives it: no text that UTF-8 can say."""


def _generator(name: str) -> Any:
    return define_prng_impl(
        key_shape=(4,),
        seed=lambda s: jnp.array([s, 7, 1, 1], jnp.uint32),
        split=lambda k, n: jnp.broadcast_to(k, (*n, 4)),
        random_bits=lambda k, w, n: jnp.zeros(n, f"uint{w}"),
        fold_in=lambda k, d: k + d,
        name=name,
        tag=name[:4],
    )


def _named(name: str) -> Any:
    def function() -> None: ...

    function.__qualname__ = name
    return function


class _Key:
    """A key without a repr of its own."""


class _Closed:
    """A node that refuses to be taken apart."""


def _refuse(_: Any) -> Any:
    raise KeyError("closed")


jax.tree_util.register_pytree_node(_Closed, _refuse, lambda _, children: _Closed(*children))


def _shared() -> list[nnx.Module]:
    """Two layers with one kernel."""
    layers = [nnx.Linear(2, 2, rngs=nnx.Rngs(i)) for i in range(2)]
    layers[1].kernel = layers[0].kernel
    return layers


class _Leaf(nnx.Module, pytree=False):
    """As all modules were before they were pytrees."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(2, 3, rngs=rngs)


def _deleted_scalar() -> jax.Array:
    array = jnp.zeros(())
    array.delete()
    return array


@jax.tree_util.register_pytree_with_keys_class
class _TwoAlike:
    def __init__(self, *values: Any) -> None:
        self.values = values

    def tree_flatten_with_keys(self) -> Any:
        return [(jax.tree_util.GetAttrKey("x"), value) for value in self.values], None

    @classmethod
    def tree_unflatten(cls, _: Any, values: Any) -> "_TwoAlike":
        return cls(*values)


@pytest.mark.parametrize("case", REFUSED)
def test_commit_refused_changes_nothing_and_the_next_one_works(any_bus, case):
    call, kind, message = REFUSED[case]
    any_bus.commit(make_tree(0))
    any_bus.commit(make_tree(1), wait=False)
    before = seen(any_bus)
    with pytest.raises(kind, match=message):
        call(any_bus)
    assert seen(any_bus) == before
    assert any_bus.commit(make_tree(2), wait=False).result().version == 3
    assert any_bus.commit(make_tree(3)).version == 4
    assert_same_tree(any_bus.tree(), make_tree(3))
    assert any_bus.verify()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_commit_on_a_full_disk_changes_nothing_and_works_with_room(faulty_bus, faults, code):
    faults.code = code
    faulty_bus.create("x", nbytes=8)
    faulty_bus.commit(make_tree(0))
    before = seen(faulty_bus)
    for is_short in (False, True):
        faults.is_short = is_short
        for change in (
            lambda: faulty_bus.commit(make_tree(1)),
            lambda: faulty_bus.commit({"other": 1}, structure="new"),
            lambda: faulty_bus.write("x", np.ones(8, np.uint8)),
            lambda: faulty_bus.delete("x"),
            lambda: faulty_bus.resize("x", nbytes=9),
            lambda: faulty_bus.clone("x", "y"),
        ):
            faults.arm(0, 0)
            with pytest.raises(mmsb.LocationError, match="nothing was written to the log: the dis"):
                change()
            faults.disarm()
            assert seen(faulty_bus) == before
    assert faulty_bus.commit(make_tree(1)).version == 2
    assert faulty_bus.write("x", np.ones(8, np.uint8)).version == 3
    assert_same_tree(faulty_bus.tree(), make_tree(1))
    assert faulty_bus.verify()


def test_batch_on_a_full_disk_drops_all_of_its_writes(faulty_bus, faults):
    faulty_bus.create("x", nbytes=8)
    faulty_bus.commit(make_tree(0))
    before = seen(faulty_bus)
    faults.arm(0, 0)

    def write() -> None:
        with faulty_bus.batch():
            faulty_bus.write("x", np.ones(8, np.uint8))
            faulty_bus.create("y", nbytes=3)

    with pytest.raises(mmsb.LocationError):
        write()
    assert seen(faulty_bus) == before
    np.testing.assert_array_equal(faulty_bus.read("x"), np.zeros(8, np.uint8))
    with pytest.raises(mmsb.ArrayNotFoundError):
        faulty_bus.read("y")


def test_commits_behind_one_that_fails_fail_and_use_up_no_version(faulty_bus, faults):
    bus = faulty_bus
    bus.commit(make_tree(0))
    before = seen(bus)
    with bus._session.engine.lock:  # nothing lands while all three are handed over
        faults.arm(0, 0)
        handles = [bus.commit(make_tree(number), wait=False) for number in (1, 2, 3)]
    with pytest.raises(mmsb.LocationError, match="the disk is full"):
        handles[0].result()
    for handle in handles[1:]:
        with pytest.raises(
            mmsb.ClosedError, match=r"behind one that failed, and did not land: .*fu"
        ):
            handle.result()
    with pytest.raises(mmsb.LocationError, match="the disk is full"):
        bus.commit(make_tree(4))
    assert seen(bus)[:4] == before[:4]
    assert bus.commit(make_tree(5), wait=False).result().version == 2
    assert bus.commit(make_tree(6)).version == 3
    assert_same_tree(bus.tree(), make_tree(6))
    assert bus.verify()


@pytest.mark.parametrize(
    "call",
    [
        lambda bus: bus.commit(make_tree(9), wait=False),
        lambda bus: bus.create("x", nbytes=3),
        lambda bus: bus.read("w"),
        lambda bus: bus.write("w", jnp.zeros((2, 3))),
        lambda bus: bus.sync(),
        lambda bus: bus.tree(),
        lambda bus: bus.checkout(version=1),
        lambda bus: bus.snapshot(),
        lambda bus: bus.close(),
    ],
)
def test_call_after_a_failure_nobody_saw_raises_it_once(faulty_bus, faults, call):
    faulty_bus.commit(make_tree(0))
    faults.arm(0, 0)
    handle = faulty_bus.commit(make_tree(1), wait=False)
    assert handle.exception() is not None
    with pytest.raises(mmsb.LocationError, match="the disk is full"):
        call(faulty_bus)
    if not faulty_bus.closed:
        assert faulty_bus.commit(make_tree(2)).version == 2


def test_sync_that_fails_poisons_the_bus_and_reopening_recovers(faults):
    files = MemoryFiles()
    create_log(files, 4096)
    bus = open_on(FaultyFiles(files, faults), "fsync")
    bus.commit(make_tree(0))
    faults.kinds = frozenset({"sync"})
    faults.arm(0, 0)
    with pytest.raises(mmsb.ClosedError, match="a sync of the log failed"):
        bus.commit(make_tree(1))
    for call in (lambda: bus.commit(make_tree(1)), bus.sync):
        with pytest.raises(mmsb.ClosedError, match="Close it and open it again"):
            call()
    bus.close()
    with open_on(files) as again:
        assert again.version == 1
        assert_same_tree(again.checkout(like=make_tree(5)), make_tree(0))
        assert again.commit(make_tree(1)).version == 2


@pytest.mark.parametrize("where", ["adopt", "announce"])
def test_what_cannot_follow_the_log_does_so_with_the_next_call_that_has_room(
    tmp_path, monkeypatch, where
):
    bus = mmsb.open(tmp_path / "run")
    bus.commit(make_tree(0))
    head = bus._session.engine.head

    def fail(*_: Any) -> None:
        raise MemoryError

    if where == "adopt":
        monkeypatch.setattr(head, "adopt", fail)
        monkeypatch.setattr(head, "adopt_plain", fail)
    else:
        monkeypatch.setattr(bus._session.engine, "_commit_of", fail)
    calls = [lambda: bus.commit(make_tree(1)), bus.tree, lambda: bus.commit(make_tree(2))]
    for call in calls:
        with pytest.raises(mmsb.DeviceMemoryError, match="a commit that has landed"):
            call()
    assert not bus.closed
    monkeypatch.undo()
    assert_same_tree(bus.tree(), make_tree(1))
    assert bus.commit(make_tree(3)).version == 3
    bus.close()
    with mmsb.open(tmp_path / "run") as again:
        assert_same_tree(again.checkout(version=2, like=make_tree(0)), make_tree(1))
        assert_same_tree(again.checkout(like=make_tree(0)), make_tree(3))
        assert again.verify()


def test_structure_new_records_the_new_one_and_old_versions_stay(any_bus):
    any_bus.commit(make_tree(0))
    other = {"w": jnp.zeros(5, jnp.bfloat16), "t": {"u": 1}, "s": None}
    commit = any_bus.commit(other, structure="new")
    assert set(commit.changed) == {"t/u"}
    assert_same_tree(any_bus.tree(), other)
    with pytest.raises(mmsb.StructureError):
        any_bus.commit(make_tree(1))
    any_bus.commit(make_tree(2), structure="new", wait=False)
    assert_same_tree(any_bus.tree(), make_tree(2))
    assert_same_tree(any_bus.checkout(version=2, like=other), other)
    assert_same_tree(any_bus.checkout(version=1), make_tree(0))
    assert any_bus.verify()


def test_weak_types_strings_and_large_integers_are_no_difference(any_bus):
    any_bus.commit({"x": jnp.zeros(()), "s": "a", "big": 2**80})
    any_bus.commit({"x": jnp.asarray(1.0), "s": "b", "big": 2**81}, wait=False)
    any_bus.commit({"x": jnp.zeros(()) + 2, "s": "c", "big": 2**80})
    for version, (text, big) in enumerate([("a", 2**80), ("b", 2**81), ("c", 2**80)], 1):
        found = any_bus.checkout(version=version)
        assert (float(found["x"]), found["s"], found["big"]) == (version - 1, text, big)


@pytest.mark.parametrize("big", [2**63, 2**63 + 5, -(2**63) - 1, 10**4300 - 1])
@pytest.mark.parametrize("small", [5, 2**63 - 1, -(2**63), np.int32(7), jnp.int32(7)])
def test_int_may_cross_64_bits_both_ways(any_bus, tmp_path, small, big):
    values = [small, big, big - 1 if big > 0 else big, small, small, big]
    for i, value in enumerate(values):
        any_bus.commit({"seed": value, "w": jnp.ones(2)}, wait=i % 2 == 0)
    any_bus.sync()
    for version, value in enumerate(values, 1):
        found = any_bus.checkout(version=version)["seed"]
        assert what(found) == what(value)
        for like in (0, 2**100):
            found = any_bus.checkout(version=version, like={"seed": like, "w": jnp.ones(2)})["seed"]
            assert int(found) == int(value)
    assert any_bus.resume({"seed": 0, "w": jnp.ones(2)})[0]["seed"] == big
    assert any_bus.commit({"seed": small, "w": jnp.ones(2)}).version == len(values) + 1
    assert any_bus.verify()
    with pytest.raises(mmsb.StructureError, match="seed: float64"):
        any_bus.commit({"seed": 1.0, "w": jnp.ones(2)})
    any_bus.commit({"seed": big, "w": jnp.ones(2)})
    with pytest.raises(mmsb.StructureError, match=r"seed: bool.* was int"):
        any_bus.commit({"seed": True, "w": jnp.ones(2)})


def test_replica_follows_an_int_across_64_bits(tmp_path):
    with mmsb.open(tmp_path / "run") as bus:
        bus.commit({"seed": 5, "w": jnp.ones(2)})
        with mmsb.Replica(tmp_path / "run", like={"seed": 0, "w": jnp.ones(2)}) as replica:
            for value in (5, 2**70, 2**71, 7):
                bus.commit({"seed": value, "w": jnp.ones(2)})
                assert what(replica.update()["seed"]) == what(value)


def test_ints_are_read_and_written_whatever_python_allows_itself(bus):
    allowed = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        for number in (10**4300 - 1, -(10**4300) + 1, 10**600, 10**1200 - 1):
            bus.commit({"n": number})
            assert bus.tree() == {"n": number}
            assert bus.checkout(like={"n": 2**100}) == {"n": number}
    finally:
        sys.set_int_max_str_digits(allowed)


def test_tree_with_the_name_of_an_array_made_by_name_is_refused(any_bus):
    any_bus.create("x", nbytes=3)
    for _ in range(2):  # not recorded yet, and recorded
        with pytest.raises(mmsb.StructureError, match="leaves at 'x', and arrays of these names"):
            any_bus.commit({"x": jnp.zeros(3), "y": 1})
        with pytest.raises(mmsb.StructureError, match="leaves at 'x'"):
            any_bus.commit({"x": None, "y": 1})
        any_bus.sync()
    assert any_bus.version == 1
    any_bus.delete("x")
    assert any_bus.commit({"x": jnp.zeros(3), "y": 1}).version == 3


def test_linen_variables_are_plain_trees(bus):
    variables = flax.linen.Dense(3).init(jax.random.key(0), jnp.ones((1, 2)))
    bus.commit(variables)
    assert_same_tree(bus.tree(), variables)
