"""The commit at which something went wrong, found by looks at a few states."""

import copy
import math
import pickle
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmsb_jax as mmsb


def tree(number: float) -> dict[str, np.ndarray]:
    return {"w": np.full(4, number, np.float32)}


def step(state, extra):
    """A step of a run that adds one, so that every state says which it is."""
    return {"w": state["w"] + 1}, {"next": extra["next"] + 1}


def train(bus: mmsb.Bus, until: int, number: int = 0) -> None:
    """Commits the steps from ``number`` on; the state of a step is its number."""
    for at in range(number, until):
        bus.commit(tree(at), step=at, extra={"next": at})


def past(limit: float):
    """A state is bad from the number ``limit`` on."""
    return lambda state: state["w"][0] >= limit


class Looks:
    """A predicate that keeps what it was asked."""

    def __init__(self, limit: float) -> None:
        self.seen: list[int] = []
        self._limit = limit

    def __call__(self, state) -> bool:
        self.seen.append(int(state["w"][0]))
        return self.seen[-1] >= self._limit


@pytest.mark.parametrize("limit", [1, 2, 40, 63, 98, 99])
def test_the_first_bad_commit_is_found_by_few_looks(bus, limit):
    train(bus, 100)
    bad = Looks(limit)
    found = bus.bisect(bad)
    assert (found.good.step, found.bad.step, found.exact) == (limit - 1, limit, True)
    assert found.looks == len(bad.seen) <= 2 + math.ceil(math.log2(100))
    assert bad.seen[:2] == [0, 99]  # the ends are looked at, and first
    assert str(found) == (
        f"good at version {limit} (step {limit - 1}), bad at version {limit + 1} (step {limit})"
    )


@given(
    saved=st.lists(st.booleans(), min_size=1, max_size=30),
    limit=st.integers(1, 30),
    with_rerun=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_whatever_has_bytes_it_finds_what_a_look_at_each_does(saved, limit, with_rerun):
    with mmsb.open() as bus:
        for at, has_bytes in enumerate([True, *saved]):
            bus.commit(tree(at), step=at, extra={"next": at}, save=has_bytes)
        last = len(saved)
        with_bytes = [0, *(at for at, has_bytes in enumerate(saved, 1) if has_bytes)]
        seen = range(last + 1) if with_rerun else with_bytes
        bad = [at for at in seen if at >= limit]
        if not bad:
            with pytest.raises(ValueError, match=r"is not bad|nothing to search"):
                bus.bisect(past(limit), rerun=step if with_rerun else None)
            return
        found = bus.bisect(past(limit), rerun=step if with_rerun else None)
        good = max(at for at in seen if at < limit)
        assert (found.good.step, found.bad.step) == (good, bad[0])
        assert found.exact == (bad[0] == good + 1)


def test_steps_are_taken_between_the_two_versions_with_bytes_alone():
    with mmsb.open(save=mmsb.Every(steps=10)) as bus:
        train(bus, 48)
        taken = []

        def counted(state, extra):
            taken.append(extra["next"])
            return step(state, extra)

        found = bus.bisect(past(27))
        assert (found.good.step, found.bad.step, found.exact) == (20, 30, False)
        assert "no bytes" in str(found)
        found = bus.bisect(past(27), rerun=counted)
        assert (found.good.step, found.bad.step, found.exact) == (26, 27, True)
        assert taken == list(range(20, 27))
        found = bus.bisect(past(45), rerun=step)  # behind the newest bytes
        assert (found.good.step, found.bad.step, found.exact) == (44, 45, True)
        with pytest.raises(ValueError, match="version 41 is not bad"):
            bus.bisect(past(45))
        with pytest.raises(ValueError, match="version 48 is not bad"):
            bus.bisect(past(60), rerun=step)


def test_a_step_that_is_another_is_told_by_its_digest():
    with mmsb.open(save=mmsb.Every(steps=10)) as bus:
        train(bus, 30)

        def other(state, extra):
            state, following = step(state, extra)
            return {"w": state["w"] + (extra["next"] == 13)}, following

        with pytest.raises(mmsb.DigestMismatchError) as caught:
            bus.bisect(past(17), rerun=other)
        assert (caught.value.step, caught.value.arrays) == (14, ("w",))


def test_commits_between_that_are_no_steps_are_passed_over():
    with mmsb.open() as bus:
        train(bus, 1)
        bus.commit(tree(1), step=1, save=False)
        bus.annotate(2, {"later": True})
        bus.commit(tree(2), step=2, save=False)
        bus.commit(tree(3), step=3)
        found = bus.bisect(past(2), rerun=step)
        assert (found.good.version, found.bad.version, found.exact) == (3, 4, True)
        bus.annotate(5, {"later": True})
        assert bus.bisect(past(3), rerun=step).bad.version == 5


def test_ends_may_be_versions_tags_and_commits(bus):
    train(bus, 30)
    bus.tag("good", 11)
    found = bus.bisect(past(15), since="good", until=bus.at(step=20))
    assert found.bad.step == 15
    assert bus.bisect(past(20), until=21).good.step == 19
    assert bus.bisect(past(11), since=11, until=12).looks == 2


def test_ends_that_are_not_good_and_bad_are_refused_with_what_was_found(bus):
    with pytest.raises(mmsb.VersionError, match="the log is empty"):
        bus.bisect(past(1))
    train(bus, 10)
    with pytest.raises(ValueError, match="version 1 is bad already"):
        bus.bisect(past(0))
    with pytest.raises(ValueError, match="version 5 is bad already"):
        bus.bisect(past(3), since=5)
    with pytest.raises(ValueError, match="version 10 is not bad"):
        bus.bisect(past(99))
    with pytest.raises(ValueError, match="version 3 is not bad"):
        bus.bisect(past(3), until=3)
    for since, until in ((5, 5), (6, 5)):
        with pytest.raises(ValueError, match=f"between version {since} and version {until}"):
            bus.bisect(past(3), since=since, until=until)
    for wrong in (0, 11, -1, "none"):
        with pytest.raises(mmsb.VersionError):
            bus.bisect(past(3), since=wrong)
        with pytest.raises(mmsb.VersionError):
            bus.bisect(past(3), until=wrong)
    with pytest.raises(TypeError, match="bad=3"):
        bus.bisect(3)


def test_an_end_without_bytes_is_refused_with_the_nearest():
    with mmsb.open(save=mmsb.Every(steps=10)) as bus:
        train(bus, 35)
        with pytest.raises(mmsb.VersionError, match=r"version 25 .* 21 and 31"):
            bus.bisect(past(12), until=25)
        with pytest.raises(mmsb.VersionError, match=r"version 5 .* 1 and 11"):
            bus.bisect(past(12), since=5, rerun=step)
        assert bus.bisect(past(12), until=25, rerun=step).bad.step == 12
        assert bus.bisect(past(22), until=25, rerun=step).bad.step == 22


def test_an_exception_of_the_function_names_the_version(bus):
    train(bus, 10)

    def breaks(state):
        if 3 < state["w"][0] < 9:
            raise RuntimeError("no such thing")
        return state["w"][0] > 5

    with pytest.raises(RuntimeError, match="no such thing") as caught:
        bus.bisect(breaks)
    assert caught.value.__notes__ == ["raised by `bad` for the state at version 5, of step 4"]
    with pytest.raises(ValueError, match="ambiguous") as caught:
        bus.bisect(lambda state: state["w"] > 5)
    assert "version 1, of step 0" in caught.value.__notes__[0]
    assert bus.bisect(past(3)).bad.step == 3


def test_what_is_superseded_is_left_out(bus):
    """Steps 0 to 30, back to 10, and on to 25: versions 1 to 31 and 32 to 46."""
    train(bus, 31)
    bus.resume(tree(0), at=11)
    for at in range(11, 26):
        bus.commit(tree(1000 + at), step=at)
    bad = Looks(1000)
    found = bus.bisect(bad)
    assert (found.good.version, found.bad.version, found.exact) == (11, 32, True)
    assert not {*range(11, 31)} & {*bad.seen}
    assert bus.bisect(past(1013)).good.version == 33
    assert bus.bisect(past(20), until=31).bad.version == 21  # the run that was left
    with pytest.raises(mmsb.VersionError, match="since=20 is superseded"):
        bus.bisect(past(1013), since=20)


def test_random_runs_that_go_back_equal_the_model():
    rng = random.Random(7)
    for _ in range(20):
        with mmsb.open() as bus:
            parents, tip = {}, 0
            for version in range(1, 40):
                if tip and rng.random() < 0.15:
                    tip = rng.randrange(1, version)
                    bus.resume(tree(0), at=tip)
                bus.commit(tree(version))
                parents[version] = tip
                tip = version
            lineage = []
            while tip:
                lineage.insert(0, tip)
                tip = parents[tip]
            limit = rng.choice(lineage[1:])
            found = bus.bisect(past(limit))
            before = [v for v in lineage if v < limit]
            assert (found.good.version, found.bad.version) == (before[-1], limit)


def test_what_a_compaction_dropped_is_left_out(tmp_path):
    with mmsb.open(tmp_path) as bus:
        train(bus, 40)
        bus.tag("kept", 10)
        bus.compact(keep_since=31)
        found = bus.bisect(past(15))
        assert (found.good.version, found.bad.version, found.exact) == (10, 30, False)
        assert bus.bisect(past(15), rerun=step) == found  # nothing says what the steps were
        assert bus.bisect(past(35)).bad.step == 35
        with pytest.raises(mmsb.VersionError, match="dropped"):
            bus.bisect(past(35), since=12)
    with mmsb.open(tmp_path, mode="r") as reader:
        assert reader.bisect(past(35)).bad.step == 35


def test_like_gives_classes_and_functions_and_the_bus_may_be_used(bus):
    for at in range(8):
        bus.commit({"w": jnp.full(3, float(at)), "f": jax.nn.relu, "n": at})

    def bad(state):
        assert bus.version == 8
        return state["f"](state["w"])[0] >= 5 and state["n"] >= 5

    like = {"w": jax.ShapeDtypeStruct((3,), jnp.float32), "f": jax.nn.relu, "n": 0}
    assert bus.bisect(bad, like=like).bad.version == 6
    with pytest.raises(mmsb.StructureError, match="`like` differs from version 1"):
        bus.bisect(bad, like={"w": 1})


def test_a_bisection_can_be_pickled_and_copied(bus):
    train(bus, 5)
    found = bus.bisect(past(2))
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert (other.good.version, other.bad.version, other.exact) == (2, 3, True)
