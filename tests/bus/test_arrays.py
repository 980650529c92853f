"""Arrays by name, deltas, batches, history, forks, snapshots."""

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.commit import tally
from tests.core._compare import assert_same_tree, what


def _full(value: int, nbytes: int = 8) -> np.ndarray:
    return np.full(nbytes, value, np.uint8)


# ----------------------------------------------------------------------------- make and write


def test_create_makes_zeros_that_are_recorded_with_the_next_commit(any_bus):
    any_bus.create("x", shape=(2, 3), dtype="bfloat16")
    any_bus.create("raw", nbytes=5)
    any_bus.create("scalar", shape=())
    assert any_bus.version == 0
    assert_same_tree(any_bus.read("x"), jnp.zeros((2, 3), jnp.bfloat16))
    assert_same_tree(any_bus.read("raw"), jnp.zeros(5, jnp.uint8))
    assert_same_tree(any_bus.read("scalar"), jnp.zeros((), jnp.float32))
    commit = any_bus.write("raw", np.arange(5, dtype=np.uint8))
    assert (commit.version, commit.changed, commit.changed_bytes) == (1, ("raw",), 4)
    assert [region.name for region in any_bus.layout.regions] == ["x", "raw", "scalar"]
    assert set(any_bus.checkout(version=1)) == {"x", "raw", "scalar"}


@pytest.mark.parametrize("call", ["sync", "snapshot", "close"])
def test_create_is_recorded_by(tmp_path, call):
    bus = mmsb.open(tmp_path / "run")
    bus.create("x", nbytes=5)
    getattr(bus, call)()
    with mmsb.open(tmp_path / "run", mode="r") as reader:
        assert reader.version == 1
        assert_same_tree(reader.read("x"), jnp.zeros(5, jnp.uint8))
    bus.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "x"}, "there is an array named 'x' already"),
        ({"name": "made"}, "there is an array named 'made' already"),
        ({"name": "leaf"}, "there is an array named 'leaf' already"),
        ({"name": "text"}, "there is an array named 'text' already"),
        ({"name": ""}, "name=''"),
        ({"name": 3}, "name=3"),
        ({"name": "y", "shape": (1,)}, "either shape"),
        ({"name": "y", "nbytes": None}, "either shape"),
        ({"name": "y", "nbytes": -1}, r"\(-1,\) is not the shape of an array"),
        ({"name": "y", "nbytes": 2**60}, "bytes; an array has at most"),
        ({"name": "y", "nbytes": None, "shape": (1, "a")}, "is not the shape"),
        ({"name": "y", "nbytes": None, "shape": (1,), "dtype": "float33"}, "'float33' is not a dt"),
        ({"name": "y", "nbytes": None, "shape": (1,), "dtype": object}, "is not a dtype"),
    ],
)
def test_create_of_what_cannot_be_is_refused(any_bus, arguments, message):
    any_bus.create("x", nbytes=3)
    any_bus.commit({"leaf": 1, "text": "a"})
    any_bus.create("made", nbytes=3)
    with pytest.raises(mmsb.StructureError, match=message):
        any_bus.create(**({"nbytes": 3} | arguments))
    assert any_bus.version == 1
    assert [region.name for region in any_bus.layout.regions] == ["x", "leaf", "made"]


@pytest.mark.parametrize("is_batch", [False, True])
def test_what_the_machine_cannot_hold_is_refused_and_the_bus_goes_on(any_bus, is_batch):
    any_bus.create("y", (4,))
    huge = {"nbytes": 1 << 43}
    with any_bus.batch() if is_batch else contextlib.nullcontext():
        with pytest.raises(mmsb.DeviceMemoryError, match=r"array 'x': .* bytes are needed"):
            any_bus.create("x", **huge)
        with pytest.raises(mmsb.DeviceMemoryError, match=r"array 'y': .* bytes are needed"):
            any_bus.resize("y", **huge)
        any_bus.write("y", jnp.ones(4))
    assert any_bus.read("y").tolist() == [1] * 4
    assert [region.name for region in any_bus.layout.regions] == ["y"]


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(4, np.float32),
        np.zeros((2, 2), np.float64),
        jnp.zeros((2, 2), jnp.int32),
        np.zeros(16, np.uint8),
        bytes(16),
        0.0,
        "text",
        None,
    ],
)
def test_write_of_another_shape_or_dtype_is_refused(any_bus, value):
    any_bus.create("x", shape=(2, 2), dtype="float32")
    with pytest.raises(mmsb.StructureError, match=r"'x': .* arrived, float32\[2,2\] .* was expec"):
        any_bus.write("x", value)
    assert any_bus.version == 0


def test_write_of_a_python_number_casts_within_its_kind_alone(any_bus):
    for name, dtype in (("f", "float32"), ("i", "int8"), ("b", "bool"), ("c", "complex64")):
        any_bus.create(name, shape=(), dtype=dtype)
    for name, value in (("f", 0.5), ("i", -3), ("b", True), ("c", 2j)):
        any_bus.write(name, value)
        assert any_bus.read(name) == value
    for name, value in (("f", 1), ("i", 1.0), ("i", True), ("b", 1), ("f", 1j), ("c", 1.0)):
        with pytest.raises(mmsb.StructureError):
            any_bus.write(name, value)
    with pytest.raises(mmsb.StructureError, match="300 arrived, which is no int8"):
        any_bus.write("i", 300)


def test_write_of_a_leaf_of_the_tree_is_seen_in_the_tree(any_bus):
    any_bus.commit({"w": jnp.zeros(3), "n": 1})
    commit = any_bus.write("w", jnp.ones(3), step=5, source="me", note={"why": 1})
    assert (commit.step, commit.source, commit.note) == (5, "me", {"why": 1})
    assert_same_tree(any_bus.tree(), {"w": jnp.ones(3), "n": 1})
    any_bus.commit({"w": jnp.ones(3), "n": 1}, wait=False)
    assert list(any_bus.log())[-1].changed == ()


def test_arrays_of_the_tree_are_not_deleted_or_resized(any_bus):
    any_bus.commit({"w": jnp.zeros(3)})
    for call in (lambda: any_bus.delete("w"), lambda: any_bus.resize("w", nbytes=3)):
        with pytest.raises(mmsb.StructureError, match="belongs to the committed tree"):
            call()
    for call in (
        lambda: any_bus.delete("v"),
        lambda: any_bus.resize("v", nbytes=3),
        lambda: any_bus.clone("v", "u"),
        lambda: any_bus.write("v", _full(1)),
    ):
        with pytest.raises(mmsb.ArrayNotFoundError, match="no array is named 'v'"):
            call()
    with pytest.raises(mmsb.StructureError, match="there is an array named 'w' already"):
        any_bus.clone("w", "w")
    assert any_bus.version == 1


def test_delete_then_create_makes_another_array_of_zeros(any_bus):
    any_bus.create("x", nbytes=8)
    any_bus.write("x", _full(1))
    any_bus.delete("x")
    with pytest.raises(mmsb.ArrayNotFoundError):
        any_bus.read("x")
    any_bus.create("x", nbytes=8)
    np.testing.assert_array_equal(any_bus.read("x"), _full(0))
    any_bus.delete("x")  # recorded first: its name was on the bus
    assert any_bus.version == 4
    assert any_bus.checkout(version=2) == {}
    np.testing.assert_array_equal(any_bus.checkout(version=1)["x"], _full(1))
    assert any_bus.verify()


def test_resize_keeps_the_first_bytes_and_fills_with_zeros(any_bus):
    any_bus.create("x", nbytes=8)
    any_bus.write("x", _full(7))
    any_bus.resize("x", nbytes=3)
    np.testing.assert_array_equal(any_bus.read("x"), _full(7, 3))
    any_bus.resize("x", nbytes=10_000)
    np.testing.assert_array_equal(any_bus.read("x"), np.r_[_full(7, 3), _full(0, 9_997)])
    any_bus.resize("x", shape=(2, 2), dtype="uint16")
    np.testing.assert_array_equal(any_bus.read("x"), [[0x0707, 0x0007], [0, 0]])
    any_bus.resize("x", shape=(4,))
    assert any_bus.read("x").dtype == np.uint16
    assert any_bus.version == 5
    np.testing.assert_array_equal(any_bus.checkout(version=1)["x"], _full(7))
    assert any_bus.verify()


def test_clone_is_a_copy_of_its_own(any_bus):
    any_bus.commit({"w": jnp.arange(3.0)})
    any_bus.clone("w", "kept")
    any_bus.write("w", jnp.zeros(3))
    assert_same_tree(any_bus.read("kept"), jnp.arange(3.0))
    any_bus.write("kept", jnp.ones(3))
    assert_same_tree(any_bus.tree(), {"w": jnp.zeros(3)})


# -------------------------------------------------------------------------------------- batches


def test_batch_is_one_commit_and_reads_what_was_written(any_bus):
    any_bus.create("a", nbytes=8)
    any_bus.create("gone", nbytes=8)
    any_bus.sync()
    with any_bus.batch(step=3, source="me", note="all") as inside:
        assert inside is any_bus
        assert any_bus.write("a", _full(1)) is None
        any_bus.create("b", nbytes=8)
        any_bus.write("b", _full(2))
        any_bus.clone("b", "c")
        any_bus.write("b", _full(3))
        any_bus.resize("c", nbytes=2)
        any_bus.delete("gone")
        any_bus.create("gone", nbytes=1)
        any_bus.create("never", nbytes=1)
        any_bus.delete("never")
        np.testing.assert_array_equal(any_bus.read("c"), _full(2, 2))
        with pytest.raises(mmsb.ArrayNotFoundError):
            any_bus.read("never")
    commit = list(any_bus.log())[-1]
    assert (commit.version, commit.step, commit.source, commit.note) == (2, 3, "me", "all")
    found = any_bus.checkout(version=2)
    expected = {"a": _full(1), "b": _full(3), "c": _full(2, 2), "gone": _full(0, 1)}
    assert {name: bytes(x) for name, x in found.items()} == {
        k: bytes(x) for k, x in expected.items()
    }
    assert any_bus.verify()


def test_batch_that_raises_changes_nothing(any_bus):
    any_bus.create("a", nbytes=8)
    any_bus.write("a", _full(1))

    def fail() -> None:
        with any_bus.batch():
            any_bus.write("a", _full(2))
            any_bus.create("b", nbytes=1)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert any_bus.version == 1
    np.testing.assert_array_equal(any_bus.read("a"), _full(1))
    any_bus.create("b", nbytes=2)
    assert any_bus.write("b", _full(1, 2)).version == 2


def test_batch_refuses_what_is_a_commit_of_its_own(any_bus):
    any_bus.create("a", nbytes=8)
    any_bus.write("a", _full(1))
    with any_bus.batch():
        for call in (
            lambda: any_bus.commit({"w": 1}),
            lambda: any_bus.commit({"w": 1}, wait=False),
            lambda: any_bus.extend(mmsb.TLog.empty(1, 1)),
            any_bus.sync,
            any_bus.snapshot,
            lambda: any_bus.batch().__enter__(),
        ):
            with pytest.raises(mmsb.ClosedError, match="inside a batch"):
                call()
        any_bus.write("a", _full(2))
    assert any_bus.version == 2
    np.testing.assert_array_equal(any_bus.read("a"), _full(2))


def _delta(bus: mmsb.Bus, name: str, value: int, *places: int, **options: Any) -> mmsb.Delta:
    """The delta that writes ``value`` to these bytes of an array."""
    region = bus.layout.region(name)
    mask = np.zeros(region.nbytes, bool)
    mask[list(places)] = True
    return mmsb.Delta.from_bytes(region, mask, _full(value, region.nbytes), **options)


@pytest.mark.parametrize("first", ["apply", "write", "resize"])
@pytest.mark.parametrize("second", ["apply", "write", "clone", "read", "resize", "delete"])
def test_batch_of_two_changes_of_an_array_equals_one_after_the_other(any_bus, first, second):
    any_bus.create("a", nbytes=9)
    any_bus.write("a", _full(1, 9))
    steps = {
        "apply": lambda bus, value: bus.apply(_delta(bus, "a", value, 0, 3, 7)),
        "write": lambda bus, value: bus.write("a", _full(value, 9)),
        "resize": lambda bus, value: bus.resize("a", shape=(9,), dtype="int8"),
        "clone": lambda bus, value: bus.clone("a", "copy"),
        "read": lambda bus, value: bus.read("a"),
        "delete": lambda bus, value: bus.delete("a"),
    }
    if "resize" in (first, second) and {first, second} & {"write", "apply"}:
        # A delta and a value speak of the array as it is: the second is made before it changes.
        steps["resize"] = lambda bus, value: bus.resize("a", nbytes=9)
    with any_bus.fork() as other:
        steps[first](other, 5)
        steps[second](other, 6)
        with any_bus.batch():
            steps[first](any_bus, 5)
            steps[second](any_bus, 6)
        assert any_bus.version == 2
        names = {region.name for region in other.layout.regions}
        assert {region.name for region in any_bus.layout.regions} == names
        for name in names:
            assert what(any_bus.read(name)) == what(other.read(name))
    assert any_bus.verify()


# --------------------------------------------------------------------------------------- deltas


def test_apply_writes_the_bytes_of_the_delta_alone(any_bus):
    any_bus.commit({"w": jnp.zeros(5000, jnp.uint8), "n": 3})
    commit = any_bus.apply(_delta(any_bus, "w", 9, 0, 4097, 4999), step=1, source="hand", note=[1])
    assert (commit.changed, commit.changed_bytes) == (("w",), 3)
    assert (commit.step, commit.source, commit.note) == (1, "hand", [1])
    found = np.asarray(any_bus.tree()["w"])
    assert np.flatnonzero(found).tolist() == [0, 4097, 4999]
    assert any_bus.apply(_delta(any_bus, "w", 9, 0)).changed == ()
    assert any_bus.apply(mmsb.Delta.empty()).version == 4
    assert any_bus.verify()


def test_apply_of_what_does_not_fit_is_refused(any_bus):
    any_bus.create("x", nbytes=5)
    any_bus.create("other", nbytes=5000)
    any_bus.sync()
    fits = _delta(any_bus, "x", 1, 0)
    old_layout = any_bus.layout

    def pages(delta: mmsb.Delta, page: int) -> mmsb.Delta:
        return dataclasses.replace(delta, page=jnp.where(delta.page < 2**30, page, delta.page))

    mask = jnp.zeros((1, 32), jnp.uint32).at[0, 1].set(0xFFFF)
    behind = mmsb.Delta(
        jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), mask, mask, jnp.int32(1), jnp.bool_(False)
    )
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]) if x.ndim else x * 2, fits)
    overflowed = mmsb.diff(_pages(old_layout, 0), _pages(old_layout, 1), capacity=1)
    for delta, message in (
        (pages(fits, 99), "block 0 of the delta is in page 99, which belongs to no array"),
        (pages(fits, -1), "page -1"),
        (behind, "byte"),
        (twice, "a block of 'x' twice"),
        (overflowed, "the delta overflowed"),
        (jax.tree.map(lambda x: x[None], fits), r"a batch of shape \(1,\)"),
    ):
        with pytest.raises(mmsb.InvalidDeltaError, match=message):
            any_bus.apply(delta)
    any_bus.delete("other")
    with pytest.raises(mmsb.InvalidDeltaError, match="belongs to no array"):
        any_bus.apply(pages(fits, 1))
    with pytest.raises(mmsb.ArrayNotFoundError, match="'other'"):
        any_bus.apply(pages(fits, 1), layout=old_layout)
    any_bus.resize("x", nbytes=6)
    with pytest.raises(mmsb.InvalidDeltaError, match=r"'x' is uint8.6. .* on the bus and uint8.5."):
        any_bus.apply(fits, layout=old_layout)
    assert any_bus.version == 3


def _pages(layout: mmsb.Layout, value: int) -> mmsb.Pages:
    words = jnp.full((layout.pages, layout.page_words), value, jnp.uint32)
    return mmsb.Pages(words, jnp.zeros(layout.pages, jnp.uint32))


def test_diff_tells_what_differs_and_its_delta_leads_there(any_bus):
    trees = [
        {"w": jnp.arange(3000.0), "n": np.arange(5), "k": 1.5},
        {"w": jnp.arange(3000.0).at[2000].set(jnp.nan), "n": np.arange(5), "k": 2.5},
        {"w": jnp.zeros(3000), "n": np.arange(5) + 1, "k": 2.5},
    ]
    for tree in trees:
        any_bus.commit(tree)
    for old in (1, 2, 3):
        for new in (1, 2, 3):
            with any_bus.fork(version=old) as other:
                delta = any_bus.diff(old, new).delta
                other.apply(delta, layout=any_bus.layout)
                assert_same_tree(other.checkout(like=trees[0]), trees[new - 1])
    text = str(any_bus.diff(1, 2))
    assert "w" in text
    assert "k" in text
    assert any_bus.diff(2, 2).delta.changed_bytes == 0


def test_diff_across_structures_has_no_delta_and_says_why(any_bus):
    any_bus.commit({"w": jnp.zeros(3)})
    any_bus.create("x", nbytes=3)
    any_bus.write("x", _full(1, 3))
    with pytest.raises(mmsb.StructureError, match="do not have the same arrays"):
        any_bus.diff(1, 2).delta
    any_bus.resize("x", nbytes=4)
    with pytest.raises(mmsb.StructureError, match="'x' is not at version 2 what it is now"):
        any_bus.diff(1, 2).delta
    assert "x" in str(any_bus.diff(1, 3))


# ------------------------------------------------------------------------- logs of the device


def _rollout(layout: mmsb.Layout, pages: mmsb.Pages, key: jax.Array) -> tuple[Any, mmsb.TLog]:
    """One branch: a random walk in one scan, with a log of each step."""

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        pages, log = carry
        place = layout.get(pages, "place") + jax.random.normal(key, (8,))
        total = layout.get(pages, "total") + place.sum()
        after = layout.set(layout.set(pages, "place", place), "total", total)
        log = log.append(mmsb.diff(pages, after, capacity=2))
        return (after, log), None

    empty = mmsb.TLog.empty(commits=10, blocks=20)
    (pages, log), _ = jax.lax.scan(step, (pages, empty), jax.random.split(key, 10))
    return layout.unpack(pages), log


def test_extend_commits_the_best_of_a_thousand_branches():
    tree = {"place": jnp.zeros(8), "total": jnp.zeros(()), "unused": jnp.arange(4)}
    with mmsb.open(page_bytes=128) as bus:
        bus.commit(tree)
        layout = bus.layout
        pages = layout.pack(tree)
        keys = jax.random.split(jax.random.key(0), 1000)
        ends, logs = jax.jit(jax.vmap(lambda key: _rollout(layout, pages, key)))(keys)
        with pytest.raises(mmsb.InvalidDeltaError, match=r"a batch of shape \(1000,\)"):
            bus.extend(logs)
        best = int(jnp.argmax(ends["total"]))
        log = jax.tree.map(lambda x: x[best], logs)
        commits = bus.extend(log, source="search")
        assert [c.version for c in commits] == list(range(2, 12))
        assert {c.source for c in commits} == {"search"}
        assert_same_tree(bus.tree(), jax.tree.map(lambda x: x[best], ends))
        for version in (1, 5, 11):
            replayed = mmsb.replay(pages, log, until=version - 1)
            assert_same_tree(bus.checkout(version=version), layout.unpack(replayed))
        assert bus.verify()


def test_extend_of_a_log_that_overflowed_or_reaches_outside_commits_nothing(any_bus):
    any_bus.create("x", nbytes=8)
    any_bus.sync()
    delta = _delta(any_bus, "x", 3, 0)
    log = mmsb.TLog.empty(commits=1, blocks=4).append(delta).append(delta)
    with pytest.raises(mmsb.InvalidDeltaError, match="the log overflowed after 1 entries"):
        any_bus.extend(log)
    layout = any_bus.layout
    any_bus.delete("x")
    two = mmsb.TLog.empty(commits=2, blocks=4).append(mmsb.Delta.empty(1)).append(delta)
    with pytest.raises(mmsb.ArrayNotFoundError):
        any_bus.extend(two, layout=layout)
    assert any_bus.version == 2
    assert any_bus.extend(mmsb.TLog.empty(commits=2, blocks=4)) == []


# ------------------------------------------------------------------------- the past and forks


def test_history_gives_each_value_of_an_array(any_bus):
    for number in range(6):
        any_bus.commit({"a": np.arange(3) * (number // 2), "b": number}, step=10 * number)
    history = any_bus.history("a")
    assert history.versions == [1, 3, 5]
    assert len(history) == 3
    entries = list(history)
    assert [(e.version, e.step, e.value.tolist()) for e in entries] == [
        (1, 0, [0, 0, 0]),
        (3, 20, [0, 1, 2]),
        (5, 40, [0, 2, 4]),
    ]
    assert history[1].value.tolist() == history.at(4).value.tolist() == [0, 1, 2]
    assert history[-1].version == 5
    times = {c.version: c.time_ns for c in any_bus.log()}
    assert [e.time_ns for e in entries] == [times[e.version] for e in entries]


def test_history_of_an_array_with_another_digest_is_damage(monkeypatch, bus):
    for number in range(3):
        bus.commit({"x": np.full(3, number)})
    wrong = np.array([[1], [2]], np.uint32)
    monkeypatch.setattr("mmsb_jax._store.state.state.digest_each", lambda *_: wrong)
    for read in (lambda h: list(h), lambda h: h[1], lambda h: h.at(2)):
        with pytest.raises(mmsb.CorruptionError, match="'x'"):
            read(bus.history("x"))


def test_history_of_a_deleted_array_ends_with_none(any_bus):
    any_bus.create("x", nbytes=2)
    any_bus.write("x", _full(1, 2))
    any_bus.delete("x")
    entries = list(any_bus.history("x"))
    assert [e.version for e in entries] == [1, 2]
    np.testing.assert_array_equal(entries[0].value, _full(1, 2))
    assert entries[1].value is None


def test_log_selects_by_array_source_version_and_time(any_bus):
    for number in range(6):
        source = ("even", "odd")[number % 2]
        any_bus.commit({"a": number // 2, "b": number}, source=source)
    every = list(any_bus.log())
    assert [c.version for c in every] == [1, 2, 3, 4, 5, 6]
    assert [c.version for c in any_bus.log(source="odd")] == [2, 4, 6]
    assert [c.version for c in any_bus.log(array="a", since=2)] == [3, 5]
    assert [c.version for c in any_bus.log(since=2, until=4)] == [2, 3, 4]
    times = [c.time_ns for c in every]
    chosen = list(any_bus.log(start_ns=times[1], end_ns=times[4]))
    assert chosen == [c for c in every if times[1] <= c.time_ns < times[4]]
    assert list(any_bus.log(source="nobody")) == []


def test_commit_given_back_equals_that_in_the_log(any_bus):
    given = [
        any_bus.commit({"a": jnp.zeros(3)}, step=3, source="s", note={"x": 1}, extra=[1]),
        any_bus.commit({"a": jnp.ones(3)}, wait=False, note=jnp.float32(2)).result(),
    ]
    assert list(any_bus.log()) == given
    for ours, read in zip(given, any_bus.log(), strict=True):
        assert (ours.changed_bytes, ours.logged_bytes) == (read.changed_bytes, read.logged_bytes)
        assert ours.extra == read.extra


@pytest.mark.parametrize("on_disk", [True, False])
def test_fork_goes_on_from_a_version_and_leaves_the_other_alone(any_bus, tmp_path, on_disk):
    for number in range(5):
        any_bus.commit({"w": jnp.arange(100.0) + number, "n": number}, step=number)
    like = any_bus.tree()
    other = any_bus.fork(tmp_path / "other" if on_disk else None, version=3)
    assert other.version == 3
    assert other.commit({"w": jnp.zeros(100), "n": -1}, step=3).version == 4
    assert any_bus.commit({"w": jnp.ones(100), "n": 7}).version == 6
    assert_same_tree(other.checkout(like=like), {"w": jnp.zeros(100), "n": -1})
    for version in (1, 2, 3):
        same = (bus.checkout(version=version, like=like) for bus in (any_bus, other))
        assert_same_tree(*same)
    assert other.checkout(step=3)["n"] == -1
    with other.fork(version=4) as third, third.fork(version=0) as empty:
        assert third.version == 4
        assert empty.version == 0
        assert third.verify()
    assert other.verify()
    assert any_bus.verify()
    other.close()


def test_snapshot_gives_a_checkout_a_near_start(any_bus):
    for number in range(4):
        any_bus.commit({"w": jnp.arange(1000.0) * number})
        if number == 1:
            any_bus.snapshot()
    assert any_bus.stats().snapshots == 1
    any_bus.snapshot()
    any_bus.snapshot()
    assert any_bus.stats().snapshots == 2
    for number in range(4):
        assert_same_tree(any_bus.checkout(version=number + 1), {"w": jnp.arange(1000.0) * number})
    assert any_bus.verify()


def test_snapshots_make_themselves_by_logged_bytes(tmp_path):
    rng = np.random.default_rng(0)
    trees = [{"w": rng.integers(0, 256, 1 << 20, np.uint8)} for _ in range(4)]
    with mmsb.open(tmp_path / "run") as bus:
        for number in range(80):
            bus.commit(trees[number % 4], wait=False)
        bus.sync()
        assert bus.stats().segments > 1
    with mmsb.open(tmp_path / "run") as bus:
        assert bus.stats().snapshots >= 1
        assert bus.stats().snapshot_fault is None
        for version in (1, 64, 70, 80):
            assert_same_tree(bus.checkout(version=version), trees[(version - 1) % 4])
        assert bus.commit(trees[0]).version == 81


def test_stats_count_what_was_done(any_bus):
    any_bus.create("x", nbytes=5000)
    any_bus.write("x", _full(1, 5000))
    any_bus.commit({"w": jnp.ones(1000)})
    any_bus.commit({"w": jnp.ones(1000)}, wait=False).result()
    any_bus.sync()
    stats = any_bus.stats()
    assert (stats.version, stats.durable_version, stats.arrays) == (3, 3, 2)
    assert (stats.state_bytes, stats.pages) == (9000, 3)
    assert (stats.commits, stats.unchanged_commits, stats.queued) == (3, 1, 0)
    assert stats.changed_bytes == sum(c.changed_bytes for c in any_bus.log())
    assert stats.logged_bytes == sum(c.logged_bytes for c in any_bus.log())
    assert 0 < stats.commit_ms_p50 <= stats.commit_ms_p99
    assert "commits" in str(stats)
    assert "<table>" in stats._repr_html_()
    any_bus.reset_stats()
    assert any_bus.stats().commits == 0
    assert any_bus.stats().commit_ms_p50 is None


def test_layout_is_a_snapshot_whose_rows_are_never_used_again(any_bus):
    any_bus.create("a", nbytes=5000)
    any_bus.create("b", nbytes=1)
    before = any_bus.layout
    assert any_bus.layout is before
    any_bus.write("a", _full(1, 5000))
    assert any_bus.layout == before
    any_bus.delete("a")
    any_bus.create("a", nbytes=5000)
    after = any_bus.layout
    taken = range(before.region("a").page, before.region("a").page + before.region("a").pages)
    assert after.region("a").page not in taken
    assert after.region("b") == before.region("b")


def test_verify_finds_a_changed_byte_and_says_where(tmp_path):
    with mmsb.open(tmp_path / "run") as bus:
        bus.commit({"w": np.arange(1000)})
        bus.commit({"w": np.arange(1000) + 1})
        assert bus.verify()
        (segment,) = (tmp_path / "run" / "log").iterdir()
        raw = bytearray(segment.read_bytes())
        raw[len(raw) // 2] ^= 1
        segment.write_bytes(raw)
        report = bus.verify()
        assert not report
        assert segment.name in str(report)


def test_deep_verify_digests_every_version(any_bus):
    for step in range(5):
        any_bus.commit({"w": np.arange(1000) + step})
    seen = []
    report = any_bus.verify(lambda *done: seen.append(done), deep=True)
    assert (bool(report), report.versions, len(seen)) == (True, 5, 5)


def test_batch_has_what_was_written_as_it_was_then(bus):
    bus.create("x", (3,))
    value = np.ones(3, np.float32)
    with bus.batch():
        bus.write("x", value)
        value[:] = 7
    assert bus.read("x").tolist() == [1, 1, 1]


@pytest.mark.parametrize("snapshots", [True, False])
def test_snapshots_are_made_by_themselves_unless_that_is_refused(monkeypatch, snapshots):
    monkeypatch.setattr(tally, "LEAST_SPARSE_BYTES", 0)
    with mmsb.open(snapshots=snapshots) as bus:
        for number in range(40):
            bus.commit({"w": np.arange(50.0) + number})
        bus.sync()
        assert (bus.stats().segments > 1) == snapshots
