"""What differs between a version of one log and a version of another."""

import threading

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmsb_jax as mmsb
from mmsb_jax._store.query import diff as _diff


def tree(number: float, n: int = 4) -> dict:
    return {"w": np.full(n, number, np.float32), "same": np.arange(50_000), "name": "x"}


@pytest.fixture
def runs(tmp_path):
    """Two runs that are one up to step 2."""
    with mmsb.open(tmp_path / "one") as one, mmsb.open(tmp_path / "two", page_bytes=256) as two:
        for step in range(5):
            one.commit(tree(step), step=step)
            two.commit(tree(step + (step > 2)), step=step)
        yield one, two


@pytest.mark.parametrize("as_path", [False, True, str])
def test_versions_of_two_logs_are_compared_by_name(runs, as_path):
    one, two = runs
    other = (str(two.path) if as_path is str else two.path) if as_path else two
    assert not one.diff(3, 3, other=other)
    found = one.diff(5, two.latest, other=other)
    assert [(entry.name, entry.changed_elements) for entry in found.arrays] == [("w", 4)]
    assert found.summary() == (
        f"version 5 → 5 of {two.path}: 1 of 2 arrays differ, {found.changed_bytes} bytes"
    )
    assert found.to_dict()["new_log"] == str(two.path)
    assert found == one.diff(5, 5, other=two)
    back = two.diff(5, one.at(step=4), other=one)
    assert back.changed_bytes == found.changed_bytes
    assert one.diff(5, 1).to_dict()["new_log"] is None


def test_the_delta_leads_to_the_bytes_of_the_other_log(runs):
    one, two = runs
    for other in (two, two.path):
        one.commit(tree(4))
        found = one.diff(one.version, 5, other=other)
        one.apply(found.delta)
        assert not one.diff(one.version, 5, other=two)
    assert one.verify()


def test_tags_and_the_empty_state_are_versions_of_the_log_asked(runs):
    one, two = runs
    one.tag("here", 5)
    two.tag("there", 4)
    assert one.diff("here", "there", other=two).new_version == 4
    with pytest.raises(mmsb.VersionError, match="'here'"):
        one.diff("here", "here", other=two)
    assert {entry.change for entry in one.diff(0, 5, other=two).arrays} == {"created"}
    assert {entry.change for entry in one.diff(5, 0, other=two.path).arrays} == {"deleted"}
    with pytest.raises(mmsb.VersionError, match="commit of another log"):
        one.diff(1, one.latest, other=two)
    with pytest.raises(mmsb.VersionError, match="version 9 does not exist"):
        one.diff(1, 9, other=two)


def test_structures_dtypes_and_shapes_that_differ_are_named(bus):
    bus.commit({"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros((2, 3)), "text": "here"})
    with mmsb.open() as other:
        other.create("first", (3,))  # ids are not the same there
        other.commit(
            {"a": np.zeros(2), "b": np.zeros(2, "f4"), "c": np.zeros(6), "d": 1, "text": "there"}
        )
        found = bus.diff(1, 1, other=other)
        shown = str(found)
    assert {entry.name: entry.change for entry in found.arrays} == {
        "b": "changed", "c": "changed", "d": "created", "first": "created",
    }  # fmt: skip
    for part in ("float64[2] → float32[2]", "float64[2,3] → float64[6]", "text: 'here' → 'there'"):
        assert part in shown
    with pytest.raises((mmsb.StructureError, mmsb.ClosedError)):
        _ = found.delta


def test_arrays_of_one_digest_are_not_read(runs, monkeypatch):
    one, two = runs
    held = []
    wrapped = _diff.diff_states
    monkeypatch.setattr(_diff, "diff_states", lambda *args: held.append(args[:2]) or wrapped(*args))
    one.diff(5, 5, other=two)
    names = [{s.table.arrays[i].name for i in s.words} for s in held[0]]
    assert names == [{"w"}, {"w"}]


def test_versions_without_bytes_are_refused_with_the_nearest():
    with mmsb.open(save=mmsb.Every(steps=4)) as bus, mmsb.open() as other:
        for step in range(9):
            bus.commit(tree(step), step=step)
            other.commit(tree(step), step=step)
        with pytest.raises(mmsb.VersionError, match=r"version 4 .* 1 and 5"):
            bus.diff(4, 4, other=other)
        with pytest.raises(mmsb.VersionError, match=r"version 4 .* 1 and 5"):
            other.diff(4, 4, other=bus)
        assert not bus.diff(5, 5, other=other)


def test_what_is_no_log_is_refused(bus, tmp_path):
    bus.commit(tree(1))
    with pytest.raises(mmsb.LocationError, match="nowhere"):
        bus.diff(1, 1, other=tmp_path / "nowhere")
    with pytest.raises(mmsb.LocationError):
        bus.diff(1, 1, other=tmp_path)
    with pytest.raises(TypeError):
        bus.diff(1, 1, other=3)
    with mmsb.open() as closed:
        pass
    with pytest.raises(mmsb.ClosedError):
        bus.diff(1, 1, other=closed)


def test_two_buses_may_be_compared_both_ways_at_once(runs):
    one, two = runs
    found = []
    both = ((one, two), (two, one))
    threads = [
        threading.Thread(
            target=lambda a=a, b=b: found.extend(bool(a.diff(5, 5, other=b)) for _ in range(20))
        )
        for a, b in both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 40


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_it_is_what_the_trees_say(numbers):
    with mmsb.open() as one, mmsb.open() as two:
        for ours, theirs in numbers:
            for bus, number in ((one, ours), (two, theirs)):
                bus.commit({"a": jnp.full(3, number), "b": np.uint8([number > 1])})
        for version, (ours, theirs) in enumerate(numbers, 1):
            found = one.diff(version, version, other=two)
            names = [entry.name for entry in found.arrays]
            assert names == ["a"] * (ours != theirs) + ["b"] * ((ours > 1) != (theirs > 1))
