"""Commits of which digests alone are logged: by a policy, or because they were asked to."""

import math
import shutil
import threading

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.saving import digests
from tests.bus._records import records_of
from tests.bus._script import run_script
from tests.core._compare import assert_same_tree

NEVER = lambda moment: False  # noqa: E731
waits = pytest.mark.parametrize("wait", [True, False])


def tree(number: float) -> dict[str, jax.Array]:
    return {"w": jnp.full((4, 5), float(number)), "fixed": jnp.arange(7)}


def land(bus, value, **said):
    handle = bus.commit(value, **said)
    return handle if said.get("wait", True) else handle.result()


def run(bus: mmsb.Bus, steps: range, wait: bool = True) -> list[bool]:
    return [land(bus, tree(s), step=s, extra={"next": s + 1}, wait=wait).saved for s in steps]


# Policies.


def saved_at(policy, *steps, seconds=1) -> list:
    """The steps, or versions, at which a policy says so; a commit takes a second."""
    found, last = [], None
    for version, step in enumerate(steps, 1):
        moment = mmsb.Moment(step, version, version * seconds * 10**9, last)
        if policy(moment):
            found.append(version if step is None else step)
            last = mmsb.Saved(version, step, moment.time_ns, 1000, 10**9)
    return found


def test_every_so_many_steps_is_at_their_multiples_and_behind_what_was_passed_over():
    assert saved_at(mmsb.Every(steps=4), *range(10)) == [0, 4, 8]
    assert saved_at(mmsb.Every(steps=4), *range(3, 20, 3)) == [3, 6, 9, 12, 18]
    assert saved_at(mmsb.Every(steps=3), *[None] * 8) == [1, 4, 7]
    assert saved_at(mmsb.Every(steps=1), 5, 5, 6) == [5, 5, 6]
    assert saved_at(mmsb.Every(steps=10), 5, 7, 3, 12) == [5, 12]
    assert saved_at(mmsb.Every(steps=50), None, *range(20, 121)) == [1, 50, 100]


def test_every_so_many_seconds_goes_by_the_clock():
    assert saved_at(mmsb.Every(seconds=2.5), *range(8)) == [0, 3, 6]
    assert saved_at(mmsb.Every(seconds=1e9), *range(8)) == [0]


def test_at_most_is_a_price():
    assert saved_at(mmsb.AtMost(time_share=0.5), *range(8)) == [0, 2, 4, 6]
    assert saved_at(mmsb.AtMost(time_share=2), *range(4)) == [0, 1, 2, 3]
    assert saved_at(mmsb.AtMost(bytes_per_hour=3600 * 250), *range(9)) == [0, 4, 8]


def test_policies_are_joined():
    either = mmsb.Every(steps=4) | mmsb.Every(seconds=3)
    assert saved_at(either, *range(10)) == [0, 3, 4, 7, 8]
    with_function = (lambda moment: moment.step == 6) | mmsb.Every(steps=4)
    assert saved_at(with_function, *range(10)) == [0, 4, 6, 8]
    assert saved_at(mmsb.Every(steps=4) | (lambda m: m.step == 6), *range(10)) == [0, 4, 6, 8]


@pytest.mark.parametrize("kind", [mmsb.Every, mmsb.AtMost])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "3", True, None])
def test_a_policy_of_nothing_is_refused(kind, value):
    for name in ("steps", "seconds") if kind is mmsb.Every else ("time_share", "bytes_per_hour"):
        with pytest.raises((ValueError, TypeError), match=f"{kind.__name__}"):
            kind(**{name: value})


def test_two_measures_in_one_policy_are_refused():
    with pytest.raises(ValueError, match="one of steps and seconds"):
        mmsb.Every(steps=2, seconds=3)
    with pytest.raises(TypeError, match="integer"):
        mmsb.Every(steps=2.5)
    with pytest.raises(TypeError):
        mmsb.Every(steps=2) | 3


def test_what_is_no_policy_is_refused(bus):
    with pytest.raises(TypeError, match="save="):
        mmsb.open(save=50)
    with mmsb.open(save=lambda moment: "yes") as odd:
        odd.commit(tree(0))
        with pytest.raises(TypeError, match="Expected a bool"):
            odd.commit(tree(1))
        assert odd.version == 1
    with pytest.raises((TypeError, ValueError), match="save="):
        bus.commit(tree(0), save="no")


# What is logged.


@waits
def test_bytes_are_logged_when_the_policy_says_so(wait):
    with mmsb.open(save=mmsb.Every(steps=3)) as bus:
        assert run(bus, range(8), wait) == [True, False, False, True, False, False, True, False]
        assert [commit.saved for commit in bus.commits] == [s % 3 == 0 for s in range(8)]
        assert_same_tree(bus.checkout(step=6), tree(6))
        assert_same_tree(bus.tree(), tree(6))
        stats = bus.stats()
        assert (stats.commits, stats.unsaved_commits, stats.unchanged_commits) == (8, 5, 0)
        assert bus.version == 8
        assert bus.step == 7
        assert bus.extra() == {"next": 8}
        assert bus.verify()


@waits
def test_a_commit_says_so_itself(wait):
    with mmsb.open(save=mmsb.Every(steps=100)) as bus, mmsb.open() as other:
        asked = [None, None, True, None, False, True]
        said = [land(bus, tree(s), step=s, save=a, wait=wait).saved for s, a in enumerate(asked)]
        assert said == [True, False, True, False, False, True]
        said = [land(other, tree(s), save=a, wait=wait).saved for s, a in enumerate(asked)]
        assert said == [True, True, True, True, False, True]


def arrays_of_every_dtype(number: int) -> dict:
    rng = np.random.default_rng(number)
    found = {}
    for name in ("float32", "float16", "bfloat16", "int8", "uint16", "int32", "bool", "complex64",
                 "int4", "float8_e4m3fn", "float8_e5m2"):  # fmt: skip
        values = rng.standard_normal((9, 5)) * 100
        dtype = np.dtype(getattr(ml_dtypes, name, name))
        with np.errstate(all="ignore"):
            made = (values > 0 if name == "bool" else values).astype(dtype)
        found[name] = jnp.asarray(made)
        found[f"numpy/{name}"] = made[:7, :3].copy()
    found |= {"f64": rng.standard_normal(11), "c128": rng.standard_normal(3) * 1j, "n": number}
    found |= {"x": 0.5 * number, "key": jax.random.key(number), "empty": jnp.zeros((0, 3))}
    found |= {"large": jnp.asarray(rng.standard_normal((300, 301)), jnp.float32)}
    found |= {"half": jnp.asarray(rng.standard_normal(100_003), jnp.bfloat16)}
    return found | {"rows": rng.standard_normal((200, 301)).astype(np.float32)}


@waits
def test_digests_are_those_of_the_bytes(wait):
    """Every version has the digest that it has in a log of all bytes."""
    with mmsb.open(save=mmsb.Every(steps=3)) as bus, mmsb.open() as other:
        for step in range(7):
            value = arrays_of_every_dtype(step if step != 5 else 4)
            commits = [land(b, value, step=step, wait=wait) for b in (bus, other)]
            if step % 3:
                assert commits[0].changed_bytes == 0
            if step % 3 != 0:
                assert set(commits[0].changed) == set(commits[1].changed)
        logs = [b._session.log for b in (bus, other)]
        assert len({log.record(v).state_digest for log in logs for v in range(1, 8)}) == 6
        for version in range(1, 8):
            ours, theirs = (log.record(version).state_digest for log in logs)
            assert ours == theirs, version
        assert bus.verify(deep=True)


def test_digests_in_wide_types_and_under_settings(bus):
    with jax.enable_x64(True):
        value = {"d": jnp.arange(40_000.0) / 3, "z": jnp.arange(20_000) * 1j, "i": jnp.arange(9**5)}
        bus.commit(value)
        value = {name: leaf + 1 for name, leaf in value.items()}
    with jax.disable_jit(), jax.debug_nans(True):
        bus.commit(value, save=False)
    record = bus._session.log.record(2)
    bus.commit(value)
    assert bus._session.log.record(3).state_digest == record.state_digest
    assert len(record.digests) == 3


FLOATS = ("float32", "float16", "bfloat16", "complex64", "float8_e5m2", "float8_e4m3fn", "float64")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [50, 70_001])
def test_numbers_that_are_not_finite_are_counted(bus, dtype, size):
    is_wide = dtype == "float64"
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    good = np.ones(size, dtype)
    bad = good.copy()
    bad[[0, 3, size - 1]] = [np.nan, 1, np.nan]
    if np.isinf(np.array(np.inf).astype(dtype)):
        bad[7] = -np.inf
    for number, array in enumerate((good, bad)):
        with jax.enable_x64(is_wide):
            leaves = {"numpy": array, "jax": jnp.asarray(array), "int": jnp.arange(size) - number}
        bus.commit(leaves, save=False)
    log = bus._session.log
    found = {log.name_of(row[0]): row[3] for row in log.record(2).digests.tolist()}
    count = int((~np.isfinite(bad)).sum())
    assert found == {"numpy": count, "jax": count, "int": 0}


def test_arrays_that_are_the_same_are_not_read_again(bus, monkeypatch):
    asked = []
    start = digests.Digesting.__init__

    def spied(self, data, places, names):
        asked.append([names[i] for i in places])
        start(self, data, places, names)

    monkeypatch.setattr(digests.Digesting, "__init__", spied)
    value = tree(0)
    bus.commit(value)
    bus.commit(value | {"w": tree(1)["w"]}, save=False)
    again = value | {"w": tree(0)["w"]}
    bus.commit(again, save=False)
    bus.commit(again, save=False)
    assert asked == [["w"], ["w"], []]
    assert [commit.changed for commit in bus.commits[1:]] == [("w",), ("w",), ()]
    assert bus.commit(value).changed == ()
    assert bus.verify()


@waits
def test_what_was_committed_may_be_donated_or_changed_at_once(wait):
    spoil = jax.jit(lambda x: x * 0 - 7, donate_argnums=0)
    expected = []
    with mmsb.open(snapshots=False) as bus, mmsb.open() as other:
        for number in range(40):
            large = jnp.full((200, 200), float(number)) + 0
            here = np.full(30_000, number, np.float32)
            other.commit({"large": large + 0, "here": here})
            expected.append(bus.commit({"large": large, "here": here}, save=False, wait=wait))
            spoil(large)
            here[:] = -1
        digests_of = [b._session.log for b in (bus, other) if b.sync()]
        for version in range(1, 41):
            ours, theirs = (log.record(version).state_digest for log in digests_of)
            assert ours == theirs


@pytest.mark.parametrize("shadow", ["bytes", "digest"])
def test_a_shadow_finds_what_changed_since_the_last_bytes(tmp_path, shadow, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    for name in (None, shadow):
        with mmsb.open(tmp_path / str(name), shadow=name, save=mmsb.Every(steps=4)) as bus:
            for step in range(14):
                large = jnp.zeros((256, 128)).at[step, :7].set(step)
                bus.commit({"w": large, "v": jnp.arange(5) + step // 6}, step=step)
    assert records_of(tmp_path / "None") == records_of(tmp_path / shadow)


def test_sharded_arrays_have_the_digest_of_the_whole():
    code = """
        import jax, jax.numpy as jnp, numpy as np, mmsb_jax as mmsb
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
        specs = [P("a"), P("b", "a"), P(None, "b"), P(), P(("a", "b"))]
        for dtype in (jnp.float32, jnp.bfloat16, jnp.int8):
            with mmsb.open() as bus, mmsb.open() as other:
                for step in range(3):
                    x = np.arange(64 * 72).reshape(64, 72) % 100 + step
                    one = {f"{i}": jnp.asarray(x, dtype) for i in range(len(specs))}
                    put = lambda i, leaf: jax.device_put(leaf, NamedSharding(mesh, specs[int(i)]))
                    bus.commit({i: put(i, leaf) for i, leaf in one.items()}, save=False)
                    other.commit(one)
                for version in (1, 2, 3):
                    logs = [b._session.log.record(version) for b in (bus, other)]
                    assert logs[0].state_digest == logs[1].state_digest, (dtype, version)
        print("done")
    """
    assert run_script(code, XLA_FLAGS="--xla_force_host_platform_device_count=8") == "done"


def test_a_commit_that_would_have_to_wait_is_skipped_where_that_was_asked(bus, monkeypatch):
    bus.commit(tree(0))
    engine, gate, moments = bus._session.engine, threading.Event(), []
    land = engine.land

    def slow(*said, **more):
        gate.wait(60)
        return land(*said, **more)

    monkeypatch.setattr(engine, "land", slow)
    handles = [bus.commit(tree(n), wait=False, busy="skip") for n in range(1, 6)]
    assert [handle is None for handle in handles] == [False] * 3 + [True] * 2
    gate.set()
    assert [handle.result().version for handle in handles[:3]] == [2, 3, 4]
    assert bus.commit(tree(6), wait=False, busy="skip").result().version == 5
    assert_same_tree(bus.tree(), tree(6))
    assert bus.commit(tree(7), busy="skip").version == 6
    with mmsb.open(save=lambda moment: moments.append(moment) or True) as other:
        other.commit(tree(0))
        other.commit(tree(1), step=5)
    assert [(m.version, m.step, m.busy, m.first) for m in moments] == [(2, 5, False, False)]


# What has bytes all the same.


@waits
def test_another_structure_has_bytes(wait):
    with mmsb.open(save=NEVER) as bus:
        assert land(bus, {"a": 1.0, "s": "x"}, wait=wait).saved
        assert not land(bus, {"a": 2.0, "s": "x"}, wait=wait).saved
        assert land(bus, {"a": 3.0, "s": "y"}, wait=wait).saved
        assert land(bus, {"a": 3.0, "b": 1.0, "s": "y"}, structure="new", wait=wait).saved
        assert not land(bus, {"a": 4.0, "b": 1.0, "s": "y"}, wait=wait).saved
        assert land(bus, {"a": 4.0, "b": jnp.ones(()), "s": "y"}, wait=wait).saved
        bus.create("x", ())
        assert land(bus, {"a": 5.0, "b": jnp.ones(()), "s": "y"}, wait=wait).saved
        assert bus.verify()


def test_the_newest_has_bytes_when_the_bus_is_closed(tmp_path):
    with mmsb.open(tmp_path, save=mmsb.Every(steps=10)) as bus:
        run(bus, range(5))
    with mmsb.open(tmp_path, mode="r") as bus:
        assert [commit.saved for commit in bus.commits] == [True, False, False, False, False, True]
        assert_same_tree(bus.tree(), tree(4))
        assert bus.latest.step == 4
        assert bus.extra() == {"next": 5}


@waits
def test_the_commit_at_the_end_says_what_the_one_before_it_said(tmp_path, wait):
    with mmsb.open(tmp_path, save=NEVER) as bus:
        for step in range(3):
            said = {"extra": {"next": step + 1}, "note": {"loss": jnp.float32(step)}, "source": "t"}
            land(bus, tree(step), step=step, wait=wait, **said)
    with mmsb.open(tmp_path, mode="r") as bus:
        last = bus.latest
        assert (last.version, last.step, last.source) == (4, 2, "t")
        assert last.extra == {"next": 3}
        assert last.note == {"loss": 2.0}


def test_what_was_donated_meanwhile_has_none(tmp_path):
    with mmsb.open(tmp_path, save=NEVER) as bus:
        run(bus, range(2))
        value = tree(2)
        bus.commit(value, step=2)
        value["w"].delete()
    with mmsb.open(tmp_path, mode="r") as bus:
        assert [commit.saved for commit in bus.commits] == [True, False, False]


@waits
@pytest.mark.parametrize("change", ["dict", "key", "numpy", "none"])
def test_bytes_at_the_end_are_those_that_were_committed(tmp_path, wait, change):
    value = {"w": jnp.zeros(3), "here": np.zeros(3)}
    with mmsb.open(tmp_path, save=NEVER) as bus:
        land(bus, value, step=0, wait=wait)
        value |= {"w": jnp.ones(3), "here": np.ones(3)}
        land(bus, value, step=1, wait=wait)
        if change == "dict":
            value["w"] = jnp.full(3, 99.0)
        if change == "key":
            value["other"] = 1
        if change == "numpy":
            value["here"][1] = 99
    with mmsb.open(tmp_path, mode="r") as bus:
        assert bus.version == (2 if change == "numpy" else 3)
        number = 0.0 if change == "numpy" else 1.0
        assert_same_tree(bus.tree(), {"w": jnp.full(3, number), "here": np.full(3, number)})


@pytest.mark.parametrize("rename", [None, {"w": "v"}])
def test_what_was_given_up_by_resuming_has_none(tmp_path, rename):
    with mmsb.open(tmp_path, save=NEVER) as bus:
        run(bus, range(3))
        wanted = tree(0)
        if rename:
            wanted["v"] = wanted.pop("w")
        with pytest.warns(UserWarning, match="versions 2 to 3 hold digests only"):
            bus.resume(wanted, rename=rename)
    with mmsb.open(tmp_path, mode="r") as bus:
        assert [commit.saved for commit in bus.commits] == [True, False, False]


def test_a_commit_that_failed_is_not_made_good_at_the_end(tmp_path, monkeypatch):
    with mmsb.open(tmp_path, save=mmsb.Every(steps=10)) as bus:
        run(bus, range(2))
        with monkeypatch.context() as patch:
            patch.setattr(bus._session.engine.writer, "append", lambda commit: 1 / 0)
            for step in (2, 10):
                with pytest.raises(ZeroDivisionError):
                    land(bus, tree(step), step=step, wait=False)
                with pytest.raises(ZeroDivisionError):
                    bus.sync()
        assert land(bus, tree(11), step=11, wait=False).saved  # step 10 has not landed
        run(bus, range(12, 14))
        with monkeypatch.context() as patch:
            patch.setattr(bus._session.engine.writer, "append", lambda commit: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                bus.commit(tree(20), step=20)
    with mmsb.open(tmp_path, mode="r") as bus:
        assert [commit.step for commit in bus.commits] == [0, 1, 11, 12, 13, 13]
        assert_same_tree(bus.tree(), tree(13))


def test_the_first_commit_of_a_process_goes_by_what_the_log_has(tmp_path):
    with mmsb.open(tmp_path, save=mmsb.Every(steps=10)) as bus:
        run(bus, range(5))
    with mmsb.open(tmp_path, save=mmsb.Every(steps=10)) as bus:
        bus.resume(tree(0))
        assert run(bus, range(5, 12)) == [False] * 5 + [True, False]


def test_a_reader_and_a_replica_of_a_log_stand_on_what_has_bytes(tmp_path):
    with mmsb.open(tmp_path, save=NEVER) as bus:
        run(bus, range(3))
        with mmsb.open(tmp_path, mode="r") as reader:
            assert reader.version == 3
            assert_same_tree(reader.tree(), tree(0))
            with pytest.warns(UserWarning, match="versions 2 to 3 hold digests only"):
                assert_same_tree(reader.resume(tree(0))[0], tree(0))
            with mmsb.Replica(tmp_path, like=tree(0)) as replica:
                assert_same_tree(replica.update(), tree(0))
                bus.commit(tree(4), save=False)
                bus.commit(tree(5), save=True)
                assert_same_tree(replica.update(), tree(5))
            assert_same_tree(reader.tree(), tree(5))


# Going on.


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_log_that_ends_without_bytes_is_opened_and_gone_on_with(tmp_path, steps):
    with mmsb.open(tmp_path / "run", save=mmsb.Every(steps=3)) as bus:
        run(bus, range(steps))
        shutil.copytree(tmp_path / "run", tmp_path / "copy")  # as a crash leaves it
    saved = (steps - 1) // 3 * 3
    with mmsb.open(tmp_path / "copy", save=mmsb.Every(steps=3)) as bus:
        if saved != steps - 1:
            with pytest.warns(UserWarning, match=f"goes on from version {saved + 1}"):
                state, extra = bus.resume(tree(0), {"next": 0})
        else:
            state, extra = bus.resume(tree(0), {"next": 0})
        assert_same_tree(state, tree(saved))
        assert extra == {"next": saved + 1}
        assert run(bus, range(extra["next"], 8))[0] is (saved != steps - 1 or saved % 3 == 2)
        assert bus.at(step=7).version == bus.version
        assert bus.verify()
        for step in range(saved):
            assert bus.at(step=step).version == step + 1


def test_nothing_but_a_whole_tree_builds_on_digests(bus):
    bus.create("x", (3,))
    bus.commit(tree(0))
    bus.derive("sum", ["w"], jnp.sum)
    assert not bus.commit(tree(1), save=False).saved
    version = bus.version
    delta = mmsb.Delta.empty()
    calls = {
        "create": lambda: bus.create("z", ()),
        "write": lambda: bus.write("x", np.ones(3, np.float32)),
        "apply": lambda: bus.apply(delta),
        "extend": lambda: bus.extend(mmsb.TLog.empty(2, 2).append(delta)),
        "derive": lambda: bus.derive("mean", ["w"], jnp.mean),
        "link": lambda: bus.link("x", "w", kind="control"),
        "resize": lambda: bus.resize("x", (4,)),
        "delete": lambda: bus.delete("x"),
        "clone": lambda: bus.clone("x", "y"),
        "batch": lambda: batch(bus),
    }
    for name, call in calls.items():
        with pytest.raises(mmsb.VersionError, match=r"holds digests only.*save=True"):
            call()
        assert bus.version == version, name
    assert bus.read("sum") == 0
    assert bus.commit(tree(2)).changed == ("sum", "w")
    bus.write("x", np.ones(3, np.float32))
    assert bus.verify(derive=True)


def batch(bus):
    with bus.batch():
        bus.write("x", np.ones(3, np.float32))


def test_a_version_without_bytes_is_refused_by_all_that_would_give_them(bus):
    run(bus, range(3))
    land(bus, tree(3), save=False)
    run(bus, range(4, 6))
    commit = bus.commits[3]
    calls = {
        "checkout": lambda: bus.checkout(version=4),
        "like": lambda: bus.checkout(version=4, like=tree(0)),
        "resume": lambda: bus.resume(tree(0), at=4),
        "tag": lambda: bus.tag("x", 4),
        "fork": lambda: bus.fork(version=4),
        "diff": lambda: bus.diff(3, 4),
        "diff from": lambda: bus.diff(4, 5),
        "patches": lambda: list(commit.patches()),
    }
    for call in calls.values():
        with pytest.raises(mmsb.VersionError, match=r"version 4 holds a digest only.*3 and 5"):
            call()
    with pytest.raises(mmsb.VersionError, match=r"version 4 has no bytes of 'w'.*3 and 5"):
        bus.checkout(version=4, arrays=["*"])
    assert_same_tree(bus.checkout(version=4, arrays=["fixed"]), tree(3)["fixed"])
    assert commit.note is None
    assert bus.extra(4) == {"next": 3}
    assert bus.history("w").versions == [1, 2, 3, 5, 6]
    assert bus.compact(keep_since=5).keep_since == 4
    assert bus.verify()


def test_nearest_versions_are_those_that_a_compaction_kept(bus):
    for step in range(17):
        land(bus, tree(step), step=step, save=step % 4 == 0)
    bus.tag("kept", 5)
    assert bus.compact(keep_since=13).kept == (5, 9)
    for version, nearest in ((2, ": 5"), (7, ": 5 and 9"), (11, ": 9 and 13"), (14, ": 13 and 17")):
        with pytest.raises(mmsb.VersionError, match=f"digest only.*{nearest}"):
            bus.checkout(version=version)


def test_subscribers_followers_and_replicas_pass_over_it(bus):
    heard = []
    bus.commit(tree(0))
    replica = mmsb.Replica(bus.export(), like=tree(0))
    replica.update()
    bus.subscribe("*", lambda event: heard.append((event.kind, event.array, event.commit.saved)))
    bus.commit(tree(1), save=False)
    bus.commit(tree(2))
    assert heard == [("commit", None, False), ("changed", "w", True), ("commit", None, True)]
    assert [commit.saved for commit in bus.follow(after=0, timeout=0)] == [True, False, True]
    assert_same_tree(replica.update(bus.export(since=1)), tree(2))
    assert replica.version == 3
    bus.commit(tree(3), save=False)
    assert_same_tree(replica.update(bus.export(since=3)), tree(2))
    bus.commit(tree(4), save=False)
    bus.commit(tree(5))
    assert_same_tree(replica.update(bus.export(since=replica.version)), tree(5))
    late = mmsb.Replica(bus.export(), like=tree(0))
    assert_same_tree(late.update(), tree(5))
    with mmsb.open() as other:
        other.import_(bus.export(since=0))
        assert [commit.saved for commit in other.commits] == [True, False] * 2 + [False, True]
        assert other.verify()
        other.commit(tree(9))


def test_a_commit_that_fails_leaves_all_as_it_was(bus, monkeypatch):
    bus.commit(tree(0))
    bus.commit(tree(1), save=False)

    def failing(*said):
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(bus._session.engine, "land_digests", failing)
        with pytest.raises(OSError, match="no"):
            bus.commit(tree(2), save=False, wait=False).result()
        with pytest.raises(OSError, match="no"):
            bus.sync()
        with pytest.raises(OSError, match="no"):
            bus.commit(tree(3), save=False)
    assert bus.version == 2
    assert bus.commit(tree(4), save=False).changed == ("w",)
    assert bus.commit(tree(1), save=False).changed == ("w",)
    assert bus.commit(tree(4)).changed == ("w",)
    assert bus.verify()


def test_a_training_loop_costs_its_digests(tmp_path):
    """A step of Adam changes every word; between, some hundred bytes a commit."""
    optimiser = optax.adam(1e-2)
    params = {"w": jnp.linspace(-1, 1, 50_000)}

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: (p["w"] ** 2).sum())(params)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    with mmsb.open(tmp_path, save=mmsb.Every(steps=5)) as bus:
        for number in range(11):
            params, state = step(params, state)
            bus.commit({"params": params, "opt": state}, step=number, wait=False)
        sizes = [commit.logged_bytes for commit in bus.commits]
    assert max(size for number, size in enumerate(sizes) if number % 5) < 500
    assert min(sizes[5], sizes[10]) > 100_000
