"""Commits and differences can be copied and pickled: what they say goes along."""

import copy
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb


@pytest.fixture
def commits(any_bus):
    any_bus.commit({"a": np.zeros(100)}, step=3, source="me", note={"x": [1]}, extra={"e": 1})
    any_bus.commit({"a": np.eye(1, 100)[0]}, extra=b"raw")
    any_bus.commit({"a": np.eye(1, 100, 7)[0]})
    return [*any_bus.log(), any_bus.commit({"a": np.zeros(100)})]


def test_commit_unpickled_says_what_it_said(any_bus, commits):
    raw = pickle.dumps(commits)
    durable = [commit.durable for commit in commits]
    any_bus.close()
    for found in (pickle.loads(raw), pickle.loads(pickle.dumps(pickle.loads(raw)))):
        assert found == commits
        assert [commit.logged_bytes for commit in found] == [c.logged_bytes for c in commits]
        assert [commit.extra for commit in found] == [{"e": 1}, b"raw", None, None]
        assert [commit.durable for commit in found] == durable
        with pytest.raises(mmsb.ClosedError, match=r"version 2 was unpickled, .*since=2"):
            found[1].patches()


def test_commit_pickled_without_its_log_says_so_when_extra_is_asked_for(tmp_path):
    with mmsb.open(tmp_path / "run") as bus:
        for number in range(3):
            bus.commit({"a": number}, extra=number)
        first = next(bus.log())
        bus.compact(keep_since=3)
        found = pickle.loads(pickle.dumps(first))
    assert found == first
    with pytest.raises(mmsb.ClosedError, match="the extra of version 1 was not there to be "):
        _ = found.extra


def test_commit_copied_still_reads_its_log(any_bus, commits):
    for found in (copy.copy(commits[1]), copy.deepcopy(commits[1])):
        assert found == commits[1]
        assert found.extra == b"raw"
        assert [name for name, _, _ in found.patches()] == ["a"]
    twin = copy.deepcopy(commits[0])
    twin.note["x"].append(2)
    assert commits[0].note == {"x": [1]}


def test_difference_unpickled_says_what_it_said(any_bus, commits):
    diff = any_bus.diff(1, 2)
    found = pickle.loads(pickle.dumps(diff))
    assert (found, found.summary()) == (diff, diff.summary())
    with pytest.raises(mmsb.ClosedError, match="this difference was unpickled"):
        _ = found.delta
    twin = copy.deepcopy(diff)
    assert int(twin.delta.count) == 1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(twin)).delta.data, twin.delta.data)
    assert jnp.asarray(copy.copy(diff).delta.count) == 1
