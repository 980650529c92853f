"""`Commit.patches`: what a commit did; put into the state before, they give that after."""

import doctest

import ml_dtypes
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus import bus as bus_module
from mmsb_jax._bus.replica import replica
from mmsb_jax._store.query import commit as _commit

SHAPES = {
    "bf16": (5000, ml_dtypes.bfloat16),
    "f64": ((100, 30), np.float64),
    "c64": ((30, 5), np.complex64),
    "i8": (301, np.int8),
    "int4": (64, ml_dtypes.int4),
    "bool": (9, np.bool_),
    "text": (4, "<U3"),
    "none": (0, np.float32),
}


def filled(shape, dtype, rng) -> np.ndarray:
    if np.dtype(dtype).kind == "U":
        return rng.choice(["a", "bb", "ccc"], shape)
    return rng.integers(0, 5, shape).astype(dtype)


def changed(x: np.ndarray, count: int, rng) -> np.ndarray:
    x = x.copy()
    if x.size:
        places = rng.integers(0, x.size, count)
        x.reshape(-1)[places] = filled(count, x.dtype, rng)
    return x


def check(commit: mmsb.Commit, before: dict, after: dict) -> None:
    """The patches of ``commit`` lead from ``before`` to ``after``, and hold what differs alone."""
    touched = {}
    for name, indices, values in commit.patches():
        assert values.dtype == after[name].dtype
        assert (np.diff(indices) > 0).all()
        known = before.get(name, np.zeros_like(after[name]))
        if name in before:
            items = known.reshape(-1)[indices], values
            left, right = (np.ascontiguousarray(i).view(np.uint8) for i in items)
            size = values.dtype.itemsize
            assert (left.reshape(-1, size) != right.reshape(-1, size)).any(axis=1).all()
        flat = known.reshape(-1).copy()
        flat[indices] = values
        touched[name] = flat.reshape(known.shape)
    for name, expected in (before | touched).items():
        assert expected.tobytes() == after[name].tobytes(), name


@pytest.mark.parametrize("reads", ["its own commit", "the log", "another process's log"])
def test_patches_lead_from_one_version_to_the_next(tmp_path, reads):
    rng = np.random.default_rng(0)
    state: dict[str, np.ndarray] = {}
    tree = {name: filled(shape, dtype, rng) for name, (shape, dtype) in SHAPES.items()}
    with mmsb.open(tmp_path / "x.mmsb") as bus:
        for i in range(12):
            commit = bus.commit(tree, step=i)
            if reads != "its own commit":
                mode = "a" if reads == "the log" else "r"
                with mmsb.open(tmp_path / "x.mmsb", mode) if mode == "r" else bus.fork() as reader:
                    commit = list(reader.log())[-1]
                    check(commit, state, tree)
            else:
                check(commit, state, tree)
            state, count = tree, (3, 10_000, 40, 0)[i % 4]
            tree = {name: changed(x, count, rng) for name, x in tree.items()}


def test_patches_of_a_new_shape_are_all_its_elements(bus):
    bus.create("x", (4,))
    bus.write("x", np.arange(4, dtype=np.float32))
    commit = bus.resize("x", (6,))
    ((name, indices, values),) = commit.patches()
    assert (name, indices.tolist(), values.tolist()) == ("x", [*range(6)], [0, 1, 2, 3, 0, 0])
    assert list(bus.delete("x").patches()) == []


def test_patches_of_the_oldest_version_after_a_late_join_are_all_elements(bus):
    with mmsb.open() as sender:
        for i in range(3):
            sender.commit({"x": np.full(3, i, np.int64)})
        (commit,) = bus.import_(sender.export())
        ((_, indices, values),) = commit.patches()
        assert (indices.tolist(), values.tolist()) == ([0, 1, 2], [2, 2, 2])


def test_patches_of_a_version_that_was_compacted_away_are_refused(bus):
    commits = [bus.commit({"x": np.full(30, i, np.float32)}) for i in range(5)]
    bus.compact(keep_since=4)
    with pytest.raises(mmsb.VersionError, match="nearest"):
        list(commits[1].patches())
    assert [len(p.indices) for p in commits[3].patches()] == [30]


@pytest.mark.parametrize("module", [_commit, bus_module, replica])
def test_examples_print_what_they_say(module):
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 3
    assert result.failed == 0
