"""What a loop has stacked, and a log with steps and notes: a commit each, or nothing at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._threads import in_another_thread, interrupted_at
from tests.core._compare import assert_same_tree


def stacked(count=3):
    """States as a scan stacks them, each leaf of another kind."""
    return {
        "w": jnp.arange(4.0 * count).reshape(count, 4),
        "half": jnp.ones((count, 2), jnp.bfloat16),
        "n": jnp.arange(count),
        "host": np.arange(2 * count).reshape(count, 2),
        "key": jax.random.split(jax.random.key(0), count),
        "name": "adam",
        "none": None,
    }


def tree_of(states, i):
    return {
        name: leaf if name in ("name", "none") else leaf[i, ...] for name, leaf in states.items()
    }


def a_log(bus, count=3):
    log, region = mmsb.TLog.empty(commits=count, blocks=count), bus.layout.region("w")
    for i in range(count):
        log = log.append(mmsb.Delta.from_slice(region, jnp.full(1, i + 1.0), (i,)))
    return log


def test_stacked_states_are_committed_as_the_trees_one_by_one(any_bus):
    states = stacked()
    commits = any_bus.extend_stacked(
        states,
        steps=jnp.arange(10, 13),
        notes={"loss": jnp.array([0.5, 0.25, 0.125]), "ok": np.array([True, False, True])},
        extras=[{"next": i} for i in range(3)],
        source="loop",
    )
    with mmsb.open() as other:
        for i in range(3):
            other.commit(tree_of(states, i))
            assert_same_tree(any_bus.checkout(version=i + 1), other.checkout(version=i + 1))
    assert [commit.step for commit in commits] == [10, 11, 12]
    assert [commit.note for commit in commits] == [
        {"loss": 0.5, "ok": True}, {"loss": 0.25, "ok": False}, {"loss": 0.125, "ok": True},
    ]  # fmt: skip
    assert [any_bus.extra(version) for version in (1, 2, 3)] == [{"next": i} for i in range(3)]
    assert {commit.source for commit in commits} == {"loop"}
    assert any_bus.verify()


def test_stacked_states_follow_a_commit_of_the_same_tree_and_a_policy():
    states = stacked()
    with mmsb.open(save=mmsb.Every(steps=2)) as bus:
        bus.commit(tree_of(states, 0), step=0)
        bus.extend_stacked(stacked(4), steps=range(1, 5))
        assert [commit.saved for commit in bus.commits] == [True, False, True, False, True]
        assert_same_tree(bus.checkout(step=4), bus.tree())


def test_stack_without_a_place_commits_nothing(any_bus):
    assert any_bus.extend_stacked(stacked(0), steps=[], notes=[]) == []
    assert any_bus.version == 0


@pytest.mark.parametrize(
    ("states", "said", "error", "message"),
    [
        (
            {"a": jnp.ones((2, 3)), "b": jnp.ones(3)},
            {},
            mmsb.StructureError,
            "a 2, b 3",
        ),
        ({"a": jnp.ones((2, 3)), "b": 1.5}, {}, mmsb.StructureError, "b is 1.5"),
        ({"a": jnp.ones((2, 3)), "b": jnp.ones(())}, {}, mmsb.StructureError, "leading axis"),
        ({"a": "text"}, {}, mmsb.StructureError, "there is no array"),
        ({"w": jnp.ones((2, 5))}, {}, mmsb.StructureError, "w"),
        (None, {"steps": [1, 2]}, ValueError, "steps: 2 arrived; expected one for each of 3"),
        (None, {"steps": [1, 2, -3]}, ValueError, "step=-3"),
        (None, {"steps": [1, 2, 3.5]}, TypeError, "step=3.5"),
        (None, {"steps": jnp.ones((3, 1), int)}, TypeError, "expected one axis"),
        (None, {"steps": 5}, TypeError, "steps=5"),
        (None, {"notes": {"loss": jnp.ones(2)}}, ValueError, "notes: 2 arrived"),
        (None, {"notes": {"loss": jnp.ones((3, 2))}}, TypeError, "a tree of arrays of one axis"),
        (None, {"notes": {"loss": 1.0}}, TypeError, "a list with one for each commit"),
        (None, {"notes": [1, 2, object()]}, TypeError, "note"),
        (None, {"extras": ["a"]}, ValueError, "extras: 1 arrived"),
        (None, {"source": 5}, ValueError, "source=5"),
    ],
)
def test_what_is_refused_of_a_stack_is_refused_whole(any_bus, states, said, error, message):
    any_bus.commit(tree_of(stacked(), 0))
    with pytest.raises(error, match=message):
        any_bus.extend_stacked(stacked() if states is None else states, **said)
    assert any_bus.version == 1
    assert any_bus.commit(tree_of(stacked(), 1)).version == 2


def test_stack_of_64_bit_arrays_keeps_its_dtypes(any_bus):
    with jax.enable_x64(True):
        states = {"x": jnp.arange(2**40, 2**40 + 3), "y": jnp.ones((3, 2), "float64")}
    any_bus.extend_stacked(states)
    for i in range(3):
        tree = any_bus.checkout(version=i + 1)
        assert (int(tree["x"]), tree["x"].dtype, tree["y"].dtype) == (2**40 + i, "int64", "float64")


def test_stack_that_was_donated_is_refused_whole(any_bus):
    states = stacked()
    states["w"].delete()
    with pytest.raises(mmsb.StructureError, match="w"):
        any_bus.extend_stacked(states)
    assert any_bus.version == 0


def test_entries_of_a_log_have_steps_and_notes(any_bus):
    any_bus.commit({"w": jnp.zeros(5)}, step=0)
    losses = {"loss": jnp.array([3.0, 2.0, 1.0])}
    commits = any_bus.extend(a_log(any_bus), steps=[4, 5, 6], notes=losses, source="loop")
    assert [(c.step, c.note["loss"], c.source) for c in commits] == [
        (4, 3.0, "loop"), (5, 2.0, "loop"), (6, 1.0, "loop"),
    ]  # fmt: skip
    assert any_bus.checkout(step=5)["w"].tolist() == [1, 2, 0, 0, 0]
    assert any_bus.read("w").tolist() == [1, 2, 3, 0, 0]


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        ({"steps": [1, 2]}, ValueError, "steps: 2 arrived; expected one for each of 3 commits"),
        ({"steps": [1, 2, "3"]}, TypeError, "step='3'"),
        ({"notes": [1, 2]}, ValueError, "notes: 2 arrived"),
        ({"notes": [1, 2, object()]}, TypeError, "note"),
    ],
)
def test_what_is_refused_of_a_log_is_refused_whole(any_bus, said, error, message):
    any_bus.commit({"w": jnp.zeros(5)})
    with pytest.raises(error, match=message):
        any_bus.extend(a_log(any_bus), **said)
    assert any_bus.version == 1


def test_overflow_of_a_log_says_which_entry_and_why(any_bus):
    any_bus.commit({"w": jnp.zeros(500)})
    log, delta = (
        a_log(any_bus, 2),
        mmsb.Delta.from_slice(any_bus.layout.region("w"), jnp.ones(1), (3,)),
    )
    with pytest.raises(mmsb.InvalidDeltaError) as error:
        any_bus.extend(log.append(delta))
    assert str(error.value) == (
        "the log overflowed after 2 entries: the next, entry 2, which would be version 4, found no "
        "room: there is room for 2 commits. Make a larger one."
    )
    short = mmsb.TLog.empty(commits=2, blocks=1).append(delta).append(delta)
    with pytest.raises(mmsb.InvalidDeltaError, match=r"0 of 1 blocks .* of at most 16, or its own"):
        any_bus.extend(short)
    assert any_bus.version == 1


def test_overflow_of_a_delta_says_what_is_left_out_and_what_is_enough(any_bus):
    any_bus.commit({"a": jnp.zeros(100), "b": jnp.zeros(40)})
    layout = any_bus.layout
    old, new = (layout.pack({"a": jnp.full(100, v), "b": jnp.full(40, v)}) for v in (0.0, 1.0))
    with pytest.raises(mmsb.InvalidDeltaError) as error:
        any_bus.apply(mmsb.diff(old, new, capacity=3))
    assert str(error.value) == (
        "the delta overflowed its capacity of 3 blocks: left out is what changed behind the block "
        "2, of 'a'. Make it again with more: Layout.capacity(names) is always enough (for all "
        "arrays, 6)."
    )
    assert any_bus.version == 1
    assert any_bus.apply(mmsb.diff(old, new, capacity=layout.capacity())).version == 2
    outside = mmsb.Delta.from_slice(layout.region("a"), jnp.ones(2), (jnp.int32(99),))
    with pytest.raises(mmsb.InvalidDeltaError, match="a slice that did not lie within its array"):
        any_bus.apply(outside)


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("where", ["compare", "_write", "adopt", "_announce"])
@pytest.mark.parametrize("event", ["call", "return"])
@pytest.mark.parametrize("method", ["extend", "extend_stacked"])
def test_interrupt_leaves_the_commits_that_have_landed(any_bus, method, where, event):
    any_bus.commit({"w": np.zeros(5, np.float32)}, step=0)
    if method == "extend":
        call = lambda: any_bus.extend(log, steps=[1, 2, 3])  # noqa: E731
        log, values = a_log(any_bus), [0, 1, 3, 6]
    else:
        states = {"w": np.arange(1, 16, dtype=np.float32).reshape(3, 5)}
        call = lambda: any_bus.extend_stacked(states, steps=[1, 2, 3])  # noqa: E731
        values = [0, 15, 40, 65]
    with interrupted_at(where, event):
        call()
    landed = any_bus.version - 1
    assert landed == (where in ("adopt", "_announce") or (where, event) == ("_write", "return"))
    assert in_another_thread(lambda: any_bus.read("w").sum()) == values[landed]
    assert [commit.step for commit in any_bus.commits] == list(range(landed + 1))
    assert len(call()) == 3
    assert any_bus.read("w").sum() == values[3]
    assert any_bus.verify()
