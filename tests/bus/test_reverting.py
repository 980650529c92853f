"""The state of an older version made the newest again, and what each reader sees of it."""

import random
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._steps import run_steps, tree, value_at
from tests.core._compare import assert_same_tree


def same_bytes(bus: mmsb.Bus, old: int, new: int) -> bool:
    """Whether two versions have the same arrays, constants, rules and marks."""
    tables = [bus._session.log.table(version) for version in (old, new)]
    infos = [
        {i.name: (i.kind, i.dtype, i.shape, i.member) for i in t.arrays.values()} for t in tables
    ]
    graphs = [
        {n: v for n, v in t.graph.items() if n != "\0lineage" and not n.startswith("\0note/")}
        for t in tables
    ]
    values = [table.values for table in tables]
    return (
        not bus.diff(old, new)
        and infos[0] == infos[1]
        and graphs[0] == graphs[1]
        and values[0] == values[1]
    )


@pytest.fixture(params=["then", "now"])
def extra(request):
    return request.param


@pytest.fixture
def two_runs(tmp_path, extra):
    """Steps 0 to 30, back to 10, and on to 40: versions 1 to 31, 32, and from 33 on."""
    with mmsb.open(tmp_path / "run.mmsb") as bus:
        run_steps(bus, 0, 30)
        commit = bus.revert_to(bus.at(step=10), extra=extra, source="watch", note={"why": "nan"})
        assert (commit.version, commit.source, commit.note) == (32, "watch", {"why": "nan"})
        assert commit.changed == ("w",)
        state, known = bus.resume(tree(0), {"next": 0})
        assert state["w"][0] == 10
        assert known == {"next": 11 if extra == "then" else 31, "run": 0}
        assert bus.step == commit.step == known["next"] - 1
        run_steps(bus, known["next"], 40, run=1)
        yield bus


@pytest.fixture(params=["writer", "reader", "again", "imported", "fork", "compacted"])
def seen_by(request, two_runs, tmp_path):
    """Who looks."""
    if request.param == "writer":
        yield two_runs
        return
    path = two_runs.path
    if request.param == "imported":
        with mmsb.open() as bus:
            bus.import_(two_runs.export(since=0))
            yield bus
        return
    if request.param == "fork":
        with two_runs.fork(tmp_path / "fork.mmsb") as bus:
            yield bus
        return
    if request.param == "compacted":
        two_runs.compact(keep_since=two_runs.at(step=35))
        two_runs.close()
    if request.param == "again":
        two_runs.close()
    with mmsb.open(path, mode="r" if request.param == "reader" else "a") as bus:
        yield bus


def test_what_lies_between_is_superseded(seen_by, extra):
    first = 11 if extra == "then" else 31
    assert seen_by.at(step=10).version == (32 if extra == "then" else 11)
    assert seen_by.at(step=9).version == 10
    assert seen_by.at(step=40).version == 32 + 41 - first
    assert seen_by.at(step=35).version == 32 + 36 - first
    assert value_at(seen_by, step=36) == 1036
    assert [c.version for c in seen_by.commits] == list(range(1, seen_by.version + 1))
    if extra == "then":
        assert seen_by.at(step=20).version == 42
    else:
        assert seen_by.at(step=30).version == 32  # the state that holds behind step 30
        with pytest.raises(mmsb.VersionError, match="version 21, which is superseded"):
            seen_by.at(step=20)
    assert seen_by.at(step=25, lineage="all").version == (47 if extra == "then" else 26)
    if seen_by._session.log.kept_since <= 32:
        assert seen_by.extra(32) == {"next": first, "run": 0}
    assert seen_by.extra() == {"next": 41, "run": 1}
    assert seen_by.verify(deep=True)


def test_it_is_a_delta_of_what_differs(bus):
    large = np.zeros(100_000, np.float32)
    bus.commit({"large": large, "w": 1.0})
    bus.commit({"large": large, "w": 2.0})
    commit = bus.revert_to(1)
    assert commit.changed == ("w",)
    assert commit.logged_bytes < 2000
    bus.commit({"large": large + np.eye(1, 100_000, 5, np.float32)[0], "w": 1.0})
    assert bus.revert_to(2).logged_bytes < 2000


@pytest.mark.parametrize("save", [None, mmsb.Every(steps=10)])
def test_a_version_without_bytes_is_refused_with_the_nearest_and_one_with_is_had(save, tmp_path):
    with mmsb.open(tmp_path, save=mmsb.Every(steps=10)) as bus:
        for step in range(26):
            number = np.nan if step > 22 else step
            bus.commit(tree(number), step=step, extra={"next": step + 1})
        for ref in (14, bus.at(step=13)):
            with pytest.raises(mmsb.VersionError, match=r"version 14 .* 11 and 21"):
                bus.revert_to(ref)
        assert (bus.version, bus.latest.saved) == (26, False)
        commit = bus.revert_to(bus.at(step=20))  # the newest holds digests alone
        assert commit.saved
        assert not commit.changed  # from the newest bytes
        assert value_at(bus) == 20
        bus.create("named", (2,))
        bus.write("named", np.ones(2, np.float32))
        assert bus.extra() == {"next": 21}
        bus.revert_to(bus.at(step=10))
        assert value_at(bus) == 10
        assert bus.first_nonfinite()[0].step == 23
        assert bus.verify(deep=True)
    with mmsb.open(tmp_path, save=save) as bus:
        assert value_at(bus) == 10
        run_steps(bus, 11, 14)
        assert bus.verify(deep=True)


def test_numbers_that_are_not_finite_are_counted_there_too():
    with mmsb.open(save=mmsb.Every(steps=1)) as bus:
        bus.commit(tree(np.nan), step=0)
        bus.commit(tree(1), step=1)
        bus.compact(keep_since=2)
        bus.tag("bad", 2)
        bus.commit(tree(np.inf), step=2)
        bus.commit(tree(1), step=3)
        bus.revert_to(3)
        counted = bus._session.log.record(5).digests
        assert counted["nonfinite"].tolist() == [4]


def test_structure_goes_back_with_its_classes_and_functions(bus):
    first = {"w": jnp.arange(3.0), "f": jax.nn.relu, "name": "first", "n": 2**70}
    second = {"w": jnp.zeros((2, 2), jnp.int32), "ema": np.ones(5), "f": jax.nn.relu, "name": "b"}
    bus.commit(first)
    bus.commit(second, structure="new")
    bus.revert_to(1)
    assert_same_tree(bus.tree(), first)
    assert same_bytes(bus, 1, 3)
    bus.commit(first | {"w": jnp.ones(3)})  # of the structure that is there again
    assert_same_tree(bus.checkout(version=2), second)
    with pytest.raises(mmsb.StructureError, match="ema"):
        bus.commit(second)
    bus.revert_to(2)
    assert_same_tree(bus.tree(), second)
    assert_same_tree(bus.checkout(version=1), first)
    assert same_bytes(bus, 2, 5)
    assert bus.verify(deep=True)


def test_each_version_comes_back_in_the_class_that_it_had(bus):
    """The leaves of the three have the same names, so that each class fits each version."""
    kinds = [namedtuple(name, ["w"]) for name in ("First", "Second", "Third")]
    for number, kind in enumerate(kinds):
        bus.commit(kind(np.float32(number)), structure="new")
    bus.revert_to(2)
    found = [type(bus.checkout(version=version)).__name__ for version in range(1, 5)]
    assert found == ["First", "Second", "Third", "Second"]
    assert type(bus.tree()) is kinds[1]
    bus.commit(kinds[1](np.float32(7)))


@pytest.mark.parametrize("wait", [True, False])
def test_the_next_commit_of_the_same_arrays_is_compared_with_what_is_there(bus, wait):
    """An array of JAX that was committed before is not taken for unchanged."""
    first, second = {"w": jnp.zeros(4)}, {"w": jnp.ones(4)}
    bus.commit(first)
    bus.commit(second)
    bus.revert_to(1)
    handle = bus.commit(second, wait=wait)
    assert (handle if wait else handle.result()).changed == ("w",)
    np.testing.assert_array_equal(bus.tree()["w"], np.ones(4))
    assert bus.verify(deep=True)


def test_arrays_by_name_go_back_with_their_shapes(bus):
    bus.create("kept", (3,), "int32")
    bus.create("grown", (2,), "int16")
    bus.create("gone", (4,), "uint8")
    bus.commit(tree(1))
    for name, value in (("kept", [1, 2, 3]), ("grown", [4, 5]), ("gone", [6, 7, 8, 9])):
        bus.write(name, np.array(value, bus.layout.region(name).spec.dtype))
    before = {name: bus.read(name) for name in ("kept", "grown", "gone")}
    there = bus.version
    bus.resize("grown", (5,), "int16")
    bus.write("grown", np.arange(5, dtype=np.int16))
    bus.delete("gone")
    bus.create("gone", (1,), "float64")  # of the same name, and another
    bus.write("gone", np.ones(1))
    bus.create("made", (2,))
    bus.write("made", np.ones(2, np.float32))
    bus.create("waiting", (2,))  # and not recorded yet
    newest = bus.version
    bus.revert_to(there)
    for name, value in before.items():
        np.testing.assert_array_equal(bus.read(name), value)
    for name in ("made", "waiting"):
        with pytest.raises(mmsb.ArrayNotFoundError):
            bus.read(name)
    assert same_bytes(bus, there, bus.version)
    bus.create("waiting", (1,))
    bus.revert_to(newest)
    assert bus.read("gone").dtype == np.float64
    assert same_bytes(bus, newest, bus.version)
    np.testing.assert_array_equal(bus.history("grown")[-1].value, np.arange(5))
    assert bus.verify(deep=True)


def test_what_is_derived_goes_back_with_its_functions_and_none_runs(bus):
    ran = []

    def double(w):
        jax.debug.callback(lambda: ran.append("double"))
        return w * 2

    bus.commit(tree(1))
    bus.derive("twice", ["w"], double)
    bus.derive("sum", ["twice"], jnp.sum)
    bus.commit(tree(2))
    there = bus.version
    bus.commit(tree(3))
    jax.effects_barrier()
    ran.clear()
    bus.revert_to(there)
    jax.effects_barrier()
    assert not ran
    assert float(bus.read("sum")) == 16
    assert same_bytes(bus, there, bus.version)
    bus.commit(tree(5))
    assert float(bus.read("sum")) == 40  # it goes on
    bus.delete("sum")
    bus.derive("third", ["w"], lambda w: w * 3)
    bus.commit(tree(6))
    bus.revert_to(there)
    assert bus.derived().keys() == {"twice", "sum"}
    assert same_bytes(bus, there, bus.version)
    assert bus.derived()["twice"].inputs == ("w",)
    bus.commit(tree(7))  # the function of "sum" was let go of with it
    with pytest.warns(UserWarning, match="attach the functions of sum"):
        bus.read("sum")
    bus.derive("sum", ["twice"], jnp.sum)
    assert float(bus.read("sum")) == 56
    assert bus.verify(deep=True, derive=True)


def test_links_and_stale_marks_go_back(bus):
    bus.commit(tree(1))
    bus.create("plot", nbytes=2)
    bus.link("w", "plot", kind="control")
    bus.commit(tree(2))
    assert bus.stale() == ("plot",)
    stale = bus.version
    bus.write("plot", b"ok")
    fresh = bus.version
    bus.unlink("w", "plot", kind="control")
    bus.revert_to(stale)
    assert bus.stale() == ("plot",)
    bus.revert_to(fresh)
    assert bus.stale() == ()
    bus.commit(tree(3))
    assert bus.stale() == ("plot",)
    bus.link("w", "copy", kind="data")
    copied = bus.version
    bus.delete("copy")
    bus.revert_to(copied)
    bus.commit(tree(9))
    np.testing.assert_array_equal(bus.read("copy"), tree(9)["w"])
    assert bus.verify(deep=True)


def test_what_was_said_of_versions_later_and_tags_stay(bus):
    run_steps(bus, 0, 5)
    bus.tag("best", 4)
    bus.annotate(bus.at(step=4), {"accuracy": 0.5})
    bus.revert_to(2)
    assert bus.tags() == {"best": 4}
    assert bus._commit_of(5).note == {"accuracy": 0.5}
    bus.revert_to("best")
    assert value_at(bus) == 3
    assert bus.at(step=2).version == 3  # what led to it lives again


def test_the_newest_version_itself_is_committed_again(bus):
    run_steps(bus, 0, 3)
    for extra in ("then", "now"):
        commit = bus.revert_to(bus.version, extra=extra, note="here")
        assert (commit.changed, commit.note) == ((), "here")
    assert bus.at(step=2).version == 3
    assert value_at(bus) == 3
    assert bus.extra() == {"next": 4, "run": 0}


def test_where_no_extra_was_given_then_none_is_in_force(bus, extra):
    bus.commit(tree(0))
    bus.commit(tree(1), step=7, extra=b"later")
    bus.revert_to(1, extra=extra)
    assert bus.extra() == (None if extra == "then" else b"later")
    assert bus.latest.step == (None if extra == "then" else 7)


def test_random_walk_equals_the_model(extra):
    """Every step is looked up after every commit; the model knows each version's parent."""
    rng = random.Random(5)
    with mmsb.open() as bus:
        parents, steps, values, tip = {}, {}, {}, 0
        for version in range(1, 100):
            if tip and rng.random() < 0.2:
                chosen = rng.randrange(1, version)
                bus.revert_to(chosen, extra=extra)
                values[version] = values[chosen]
                known = chosen if extra == "then" else version - 1
                steps[version] = steps[known]
                tip = chosen if chosen < version - 1 else tip
            else:
                steps[version], values[version] = steps.get(tip, 0) + rng.randrange(2), version
                bus.commit(tree(version), step=steps[version])
            parents[version] = tip
            tip, living, at = version, set(), version
            while at:
                living.add(at)
                at = parents[at]
            assert value_at(bus) == values[version]
            for step in set(steps.values()):
                found = [v for v in sorted(living) if steps[v] == step]
                if found:
                    assert bus.at(step=step).version == found[-1]
                else:
                    with pytest.raises(mmsb.VersionError):
                        bus.at(step=step)
        assert bus.verify(deep=True)


def test_whom_it_is_told_to(bus):
    heard = []
    bus.create("made", (1,))
    bus.commit(tree(1))
    bus.delete("made")
    bus.commit(tree(2))
    with bus.subscribe("*", lambda event: heard.append((event.kind, event.array))):
        bus.revert_to(1)
    assert heard == [("created", "made"), ("changed", "w"), ("commit", None)]


def test_followers_and_replicas_go_along(bus, tmp_path):
    run_steps(bus, 0, 3)
    replica = mmsb.Replica(bus.export(), like=jax.tree.map(jnp.asarray, tree(0)))
    replica.update()
    bus.revert_to(2)
    assert [commit.version for commit in bus.follow(after=4, timeout=0)] == [5]
    newest = replica.update(bus.export(since=4))
    assert replica.version == 5
    np.testing.assert_array_equal(newest["w"], tree(1)["w"])


def test_what_cannot_be_had_is_refused_and_nothing_changes(bus):
    with pytest.raises(mmsb.VersionError):
        bus.revert_to(1)
    run_steps(bus, 0, 5)
    for wrong in (0, 9, -1, "none"):
        with pytest.raises(mmsb.VersionError):
            bus.revert_to(wrong)
    with pytest.raises(ValueError, match="extra="):
        bus.revert_to(1, extra="never")
    with bus.batch(), pytest.raises(mmsb.ClosedError, match="inside a batch"):
        bus.revert_to(1)
    bus.compact(keep_since=5)
    with pytest.raises(mmsb.VersionError, match="dropped"):
        bus.revert_to(2)
    with mmsb.open() as other:
        other.commit(tree(0))
        with pytest.raises(mmsb.VersionError, match="another log"):
            other.revert_to(bus.latest)
    assert value_at(bus) == 5
    newest = bus.version
    bus.revert_to(4)
    assert bus.version == newest + 1


def test_a_reader_does_not_write(tmp_path):
    with mmsb.open(tmp_path) as bus:
        run_steps(bus, 0, 2)
    with mmsb.open(tmp_path, mode="r") as reader, pytest.raises(mmsb.ClosedError, match="mode='r'"):
        reader.revert_to(1)


def test_a_resume_that_was_not_gone_on_from_is_forgotten(bus):
    run_steps(bus, 0, 5)
    bus.resume(tree(0), at=2)
    bus.revert_to(4)
    bus.commit(tree(9), step=4)
    assert bus.at(step=2).version == 3
