"""Going back to an older version and on from there: what each search sees."""

import random

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.query.superseded import superseded_in
from tests.bus._steps import run_steps, tree, value_at


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """Steps 0 to 30, back to 10, and on to 25: versions 1 to 31 and 32 to 46."""
    moments = iter(range(10**9, 10**10))
    monkeypatch.setattr("time.time_ns", lambda: next(moments))
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        run_steps(bus, 0, 30)
        state, extra = bus.resume(tree(0), {"next": 0}, at=bus.at(step=10))
        assert state["w"][0] == 10
        assert extra == {"next": 11, "run": 0}
        run_steps(bus, 11, 25, run=1)
        yield bus


@pytest.fixture(params=["writer", "reader", "again"])
def seen_by(request, two_runs):
    """Who looks: the bus itself, a reader beside it, the next to open the log."""
    if request.param == "writer":
        yield two_runs
        return
    path = two_runs.path
    if request.param == "again":
        two_runs.close()
    with mmsb.open(path, mode="r" if request.param == "reader" else "a") as bus:
        yield bus


def test_search_by_step_sees_what_the_newest_version_came_from(seen_by):
    assert [value_at(seen_by, step=step) for step in (0, 10, 11, 25)] == [0, 10, 1011, 1025]
    assert seen_by.at(step=11).version == 32
    assert seen_by.at(step=10).version == 11
    assert value_at(seen_by, step=30, lineage="all") == 30
    assert seen_by.at(step=11, lineage="all").version == 32
    with pytest.raises(mmsb.VersionError, match=r"step 30 .* version 31, which is superseded"):
        seen_by.checkout(step=30)
    with pytest.raises(mmsb.VersionError, match="nearest step is 25"):
        seen_by.at(step=99)
    with pytest.raises(mmsb.VersionError, match="nearest step is 30"):
        seen_by.at(step=99, lineage="all")


def test_search_by_time_passes_over_what_is_superseded(seen_by):
    times = {commit.version: commit.time_ns for commit in seen_by.commits}
    assert seen_by.at(time_ns=times[20]).version == 11
    assert seen_by.at(time_ns=times[20], lineage="all").version == 20
    assert seen_by.at(time_ns=times[32]).version == 32
    assert value_at(seen_by, time_ns=times[31]) == 10


def test_superseded_versions_are_found_by_their_numbers(seen_by):
    assert value_at(seen_by, version=31) == 30
    assert seen_by.extra(31) == {"next": 31, "run": 0}
    assert [commit.version for commit in seen_by.log()] == list(range(1, 47))
    assert len(seen_by.commits) == 46
    assert seen_by.latest.version == 46


def test_followers_and_replicas_see_every_commit(two_runs):
    seen = [commit.step for commit in two_runs.follow(after=0, timeout=0)]
    assert seen == [*range(31), *range(11, 26)]
    with mmsb.open() as other:
        other.import_(two_runs.export(since=0))
        assert value_at(other, step=11) == 1011
        with pytest.raises(mmsb.VersionError, match="superseded"):
            other.at(step=30)


def test_a_fork_of_a_superseded_version_sees_what_led_to_it(two_runs):
    with two_runs.fork(version=25) as fork:
        assert value_at(fork, step=20) == 20
        assert fork.latest.version == 25
    with two_runs.fork() as fork, pytest.raises(mmsb.VersionError, match="superseded"):
        fork.at(step=30)


def test_a_compacted_log_knows_what_is_superseded(two_runs):
    two_runs.compact(keep_since=two_runs.at(step=12))
    assert two_runs.at(step=9).version == 10
    assert two_runs.at(step=20).version == 41
    with pytest.raises(mmsb.VersionError, match="superseded"):
        two_runs.at(step=30)
    two_runs.resume(tree(0), at=two_runs.at(step=15))
    two_runs.commit(tree(7), step=16)
    assert two_runs.at(step=16).version == 47
    with pytest.raises(mmsb.VersionError, match="superseded"):
        two_runs.at(step=20)


def test_going_back_to_a_superseded_version_makes_it_living_again(two_runs):
    two_runs.resume(tree(0), at=31)
    run_steps(two_runs, 31, 32, run=2)
    assert [value_at(two_runs, step=step) for step in (10, 11, 30, 31)] == [10, 11, 30, 2031]
    with mmsb.open(two_runs.path, mode="r") as reader:
        assert reader.at(step=25).version == 26


def test_random_walk_equals_the_model():
    """Every step is looked up after every commit; the model knows each version's parent."""
    rng = random.Random(5)
    with mmsb.open() as bus:
        parents, steps, tip = {}, {}, 0
        for version in range(1, 120):
            if tip and rng.random() < 0.15:
                tip = rng.randrange(1, version)
                bus.resume(tree(0), at=tip)
            steps[version] = steps.get(tip, 0) + rng.randrange(2)
            parents[version] = tip
            bus.commit(tree(version), step=steps[version])
            tip, living, at = version, set(), version
            while at:
                living.add(at)
                at = parents[at]
            for step in set(steps.values()):
                found = [v for v in sorted(living) if steps[v] == step]
                if found:
                    assert bus.at(step=step).version == found[-1]
                else:
                    with pytest.raises(mmsb.VersionError):
                        bus.at(step=step)


def test_step_and_extra_go_back_too(bus):
    run_steps(bus, 0, 3)
    bus.resume(tree(0), at=2)
    bus.commit(tree(9))
    assert bus.step == 1
    assert bus.extra() == {"next": 2, "run": 0}
    assert bus.latest.extra == {"next": 2, "run": 0}
    bus.resume(tree(0), at=3)
    bus.commit(tree(9), step=70, extra={"next": 71})
    assert bus.step == 70
    assert bus.extra() == {"next": 71}


def test_extra_that_was_said_later_is_not_in_force_any_more(bus):
    bus.commit(tree(0))
    bus.commit(tree(1), extra={"next": 2})
    bus.resume(tree(0), {"next": 0}, at=1)
    bus.commit(tree(2))
    assert bus.extra() is None


def test_where_no_extra_was_ever_given_none_is_written(bus):
    for step in range(3):
        bus.commit(tree(step))
    bus.resume(tree(0), {"next": 0}, at=2)
    assert bus.commit(tree(5)).extra is None
    assert bus.resume(tree(0), {"next": 0})[1] == {"next": 0}


@pytest.mark.parametrize("wait", [True, False])
def test_the_next_commit_of_a_tree_goes_on_from_there(bus, wait):
    bus.create("loss", (), "float32")
    run_steps(bus, 0, 5)
    bus.resume(tree(0), at=bus.at(step=2))
    bus.write("loss", 1.0)  # before it: no part of what goes on
    assert bus.at(step=5).version == 6
    handle = bus.commit(tree(3), step=3, wait=wait)
    assert (handle if wait else handle.result()).version == 8
    assert bus.at(step=3).version == 8
    with pytest.raises(mmsb.VersionError, match="superseded"):
        bus.at(step=5)
    bus.commit(tree(4), step=4)
    assert bus.at(step=4).version == 9
    assert bus.at(step=3).version == 8


def test_a_commit_that_is_refused_leaves_it_to_the_next(bus):
    run_steps(bus, 0, 3)
    bus.resume(tree(0), at=1)
    with pytest.raises(mmsb.StructureError):
        bus.commit({"other": 1})
    assert bus.at(step=3).version == 4
    bus.commit(tree(1), step=1)
    with pytest.raises(mmsb.VersionError, match="superseded"):
        bus.at(step=3)


def test_resume_of_the_newest_takes_it_back(bus):
    run_steps(bus, 0, 3)
    bus.resume(tree(0), at=1)
    bus.resume(tree(0))
    bus.commit(tree(4), step=4)
    assert bus.at(step=3).version == 4


def test_going_back_to_another_structure_needs_no_word(bus):
    bus.commit({"w": np.zeros(4, np.float32)}, step=0)
    bus.commit(
        {"w": np.zeros(4, np.float32), "ema": np.ones(4, np.float32)}, step=1, structure="new"
    )
    state, _ = bus.resume(tree(0), at=1)
    bus.commit(state, step=1)
    assert bus.layout.region("w")
    assert list(bus.tree()) == ["w"]
    with pytest.raises(mmsb.StructureError):
        bus.commit({"w": np.zeros(4, np.float32), "ema": np.ones(4, np.float32)})


def test_a_commit_an_extra_and_a_tag_are_versions_everywhere(bus):
    run_steps(bus, 0, 3)
    commit = bus.at(step=1)
    bus.tag("one", commit)
    assert bus.tags() == {"one": 2}
    assert value_at(bus, version=commit) == value_at(bus, version="one") == 1
    assert bus.extra(commit) == bus.extra("one") == {"next": 2, "run": 0}
    assert bus.diff(commit, bus.latest).changed_bytes
    with bus.fork(version=commit) as fork:
        assert fork.version == 2
        assert value_at(fork, version=commit) == 1
    assert bus.resume(tree(0), at="one")[1] == {"next": 2, "run": 0}


def test_a_commit_of_another_log_is_refused(bus):
    run_steps(bus, 0, 3)
    with mmsb.open() as other:
        commit = other.commit(tree(0))
        with pytest.raises(mmsb.VersionError, match="commit of another log"):
            bus.checkout(version=commit)
        with pytest.raises(mmsb.VersionError, match="commit of another log"):
            other.checkout(version=bus.latest)


def test_resume_at_a_version_without_a_tree_is_refused(bus):
    bus.create("x", ())
    bus.write("x", 1.0)
    bus.commit(tree(0))
    with pytest.raises(mmsb.VersionError, match="no tree was committed up to version 1"):
        bus.resume(tree(0), at=1)
    with pytest.raises(mmsb.VersionError, match="9"):
        bus.resume(tree(0), at=9)


@pytest.mark.parametrize(
    "text",
    ["", "7", "[[3]]", "[[3,2]]", "[[1,2],[2,3]]", '[["1",2]]', "[[0,1]]", "[[1,2,3]]", "{}x"],
)
def test_what_is_no_lineage_is_damage(text):
    with pytest.raises(mmsb.CorruptionError, match="superseded"):
        superseded_in({"\0lineage": text})


@pytest.mark.parametrize("spans", [(), ((2, 2),), ((1, 3), (4, 4), (9, 12))])
def test_lineage_is_read_as_it_is_written(spans):
    text = str([list(span) for span in spans])
    assert superseded_in({"\0lineage": text}) == spans
