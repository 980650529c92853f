"""Parts of a tree that are saved more often than the whole (``save={...}``)."""

import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import mmsb_jax as mmsb
from mmsb_jax._store.commit.tally import Tally
from mmsb_jax._store.state.aside import BytesAside
from mmsb_jax._store.writer.writer import LogWriter
from tests.core._compare import assert_same_tree

waits = pytest.mark.parametrize("wait", [True, False])
SAVE = {"params/**": mmsb.Every(steps=2), "**": mmsb.Every(steps=6)}


def state(number: int) -> dict:
    rng = np.random.default_rng(number)
    return {
        "params": {
            "w": jnp.asarray(rng.normal(size=(20, 30)), jnp.float32),
            "b": np.full(5, number, np.int16),
        },
        "opt": {"mu": jnp.asarray(rng.normal(size=(20, 30)), jnp.float32), "count": number},
        "frozen": jnp.arange(40),
    }


def run(bus: mmsb.Bus, steps: range, wait: bool = True) -> list[mmsb.Commit]:
    found = []
    for step in steps:
        handle = bus.commit(state(step), step=step, extra={"next": step + 1}, wait=wait)
        found.append(handle if wait else handle.result())
    return found


def params(bus: mmsb.Bus, **which) -> dict:
    return bus.checkout(**which, arrays=["params/**"])


PARAMS = ("params/b", "params/w")
ALL = ("opt/count", "opt/mu", *PARAMS)


@waits
def test_a_part_is_saved_at_a_rate_of_its_own(wait, tmp_path):
    with mmsb.open(tmp_path / "a.mmsb", save=SAVE) as bus:
        commits = run(bus, range(14), wait)
        assert [commit.saved for commit in commits] == [s % 6 == 0 for s in range(14)]
        expected = [ALL if s % 6 == 0 else PARAMS if s % 2 == 0 else () for s in range(1, 14)]
        assert [commit.saved_arrays for commit in commits[1:]] == expected
        assert [commit.changed for commit in commits[1:]] == [ALL] * 13
        assert list(bus.commits)[3].saved_arrays == ()
        for step in range(0, 14, 2):
            assert_same_tree(params(bus, step=step), state(step)["params"])
        with pytest.raises(mmsb.VersionError, match=r"bytes of 'params/b', 'params/w'.*9 and 11"):
            params(bus, step=9)
        with pytest.raises(mmsb.VersionError, match=r"saved in part.*7 and 13"):
            bus.checkout(step=8)
        assert_same_tree(bus.checkout(step=9, arrays=["frozen"]), state(0)["frozen"])
        assert_same_tree(bus.tree(), state(12))
        assert bus.verify(deep=True)
        bytes_of = [commit.logged_bytes for commit in commits]
        assert bytes_of[1] < bytes_of[2] < bytes_of[6]
    with mmsb.open(tmp_path / "a.mmsb", mode="r") as bus:
        assert_same_tree(params(bus, step=10)["params/w"], state(10)["params"]["w"])
        assert_same_tree(bus.checkout()["opt/mu"], state(13)["opt"]["mu"])  # logged by close


@waits
def test_donated_arrays_are_saved(wait):
    with mmsb.open(save=SAVE) as bus:
        step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
        tree = {"params": {"w": jnp.zeros(5000)}, "opt": {"mu": jnp.zeros(5000)}}
        handles = []
        for number in range(12):
            handles.append(bus.commit(tree, step=number, wait=wait))
            tree = step(tree)
        bus.sync()
        for number in range(0, 12, 2):
            assert float(params(bus, step=number)["w"][7]) == number


def test_a_run_goes_on_from_what_was_saved_whole(tmp_path):
    with mmsb.open(tmp_path / "a.mmsb", save=SAVE) as bus:
        run(bus, range(11))
        bus.fork(tmp_path / "b.mmsb", version=7).close()
        bus.sync()
        crashed = tmp_path / "crashed.mmsb"
        shutil.copytree(tmp_path / "a.mmsb", crashed)
    with mmsb.open(crashed, save=SAVE) as bus:
        assert bus.version == 11
        with pytest.warns(UserWarning, match="7"):
            tree, extra = bus.resume(state(0))
        assert_same_tree(tree, state(6))
        assert extra == {"next": 7}
        commits = run(bus, range(7, 14))
        assert [c.saved_arrays for c in commits] == [ALL, PARAMS, (), PARAMS, (), ALL, ()]
        assert_same_tree(params(bus, step=10), state(10)["params"])
        assert bus.verify(deep=True)


def test_history_and_notes_go_by_what_is_there():
    with mmsb.open(save=SAVE) as bus:
        run(bus, range(9))
        history = bus.history("params/b")
        assert [entry.step for entry in history] == [0, 2, 4, 6, 8]
        assert [int(entry.value[0]) for entry in history] == [0, 2, 4, 6, 8]
        assert history.stack()[:, 0].tolist() == [0, 2, 4, 6, 8]
        assert int(history.at(3).value[0]) == 2
        with pytest.raises(mmsb.VersionError, match=r"no bytes of 'params/b'.*3 and 5"):
            history.at(4)
        assert bus.history("frozen").at(4).version == 1
        assert [entry.step for entry in bus.history("opt/count")] == [0, 6]


def test_history_is_one_replay(monkeypatch):
    save = {"params/**": mmsb.Every(steps=1), "**": mmsb.Every(steps=40)}
    with mmsb.open(save=save) as bus:
        run(bus, range(90))
        taken = []
        take = BytesAside.take
        monkeypatch.setattr(
            BytesAside, "take", lambda self, *args: taken.append(1) or take(self, *args)
        )
        for name in PARAMS:
            taken.clear()
            entries = list(bus.history(name))
            assert [entry.step for entry in entries] == list(range(90))
            for entry in entries:
                assert_same_tree(entry.value, state(entry.step)["params"][name[-1]])
            assert len(taken) <= 90


def test_history_of_a_part_begins_where_its_bytes_do():
    save = {"params/**": mmsb.Every(steps=1), "**": mmsb.Every(steps=5)}
    with mmsb.open(save=save) as bus:
        run(bus, range(3))
        bus.commit(state(3) | {"params": {"b": np.zeros(2)}}, step=3, structure="new")
        for step in range(4, 9):
            bus.commit(state(step) | {"params": {"b": np.full(2, float(step))}}, step=step)
        bus.compact(keep_since=8)
        assert bus.history("params/w")[-1].value is None
        entries = list(bus.history("params/b"))
        assert [entry.value[0] for entry in entries] == [entry.step for entry in entries]
        assert entries[-1].step == 8


def test_a_part_that_could_not_be_saved_is_saved_with_the_next(monkeypatch):
    with mmsb.open(save=SAVE) as bus:
        run(bus, range(2))
        with monkeypatch.context() as patch:
            patch.setattr(LogWriter, "append", _full)
            with pytest.raises(mmsb.LocationError):
                run(bus, range(2, 3))
        (commit,) = run(bus, range(3, 4))
        assert commit.saved_arrays == PARAMS


def _full(self, commit):
    raise mmsb.LocationError("the disk is full")


def test_what_is_copied_of_a_part_is_let_go_of():
    save = {"w": lambda moment: moment.step == 1, "**": lambda moment: False}
    nbytes = 8 << 20
    with mmsb.open(save=save) as bus:
        trees = [{"w": np.full(nbytes, step, np.uint8), "v": step} for step in range(3)]
        bus.commit(trees[0], step=0)
        tracemalloc.start()
        bus.commit(trees[1], step=1, wait=False).result()
        bus.sync()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert nbytes <= held < 1.5 * nbytes  # the bytes aside


def test_a_message_names_the_version_that_was_asked_for():
    with mmsb.open(save=SAVE) as bus:
        run(bus, range(4))
        with pytest.raises(mmsb.StructureError, match="differs from version 3"):
            bus.checkout(step=2, arrays=["params/b"], like=np.zeros(3))


def test_weights_go_out_at_their_own_rate(tmp_path):
    with mmsb.open(save=SAVE) as bus:
        publisher = bus.publish(tmp_path / "out", arrays="params/**")
        versions = []
        for step in range(9):
            run(bus, range(step, step + 1))
            if step % 2 == 0:
                versions.append(publisher.push().version)
        assert versions == [1, 3, 5, 7, 9]
        run(bus, range(9, 10))
        path = bus.to_safetensors(tmp_path / "newest.safetensors", arrays="params/**")
        assert_same_tree(load_file(path)["params/b"], state(8)["params"]["b"])
        path = bus.to_safetensors(tmp_path / "old.safetensors", 5, arrays="params/**")
        assert_same_tree(load_file(path)["params/b"], state(4)["params"]["b"])
        with pytest.raises(mmsb.VersionError, match="no bytes of"):
            bus.to_safetensors(tmp_path / "none.safetensors", 4, arrays="params/**")


def test_parts_overlap_and_are_saved_by_any_that_is_due():
    save = {
        "params/**": mmsb.Every(steps=4),
        "params/b": mmsb.Every(steps=2),
        "opt/mu": lambda moment: moment.step == 3,
        "**": mmsb.Every(steps=100),
    }
    with mmsb.open(save=save) as bus:
        commits = run(bus, range(7))
    b, mu = "params/b", "opt/mu"
    assert [c.saved_arrays for c in commits[1:]] == [(), (b,), (mu,), PARAMS, (), (b,)]


def test_all_parts_together_are_the_whole():
    save = {p: mmsb.Every(steps=2) for p in ("params", "opt", "frozen")} | {"**": lambda m: False}
    with mmsb.open(save=save) as bus:
        assert [commit.saved for commit in run(bus, range(5))] == [True, False, True, False, True]


@pytest.mark.parametrize(
    "save", [mmsb.Every(steps=3), {"a": mmsb.Every(steps=1), "**": mmsb.Every(steps=3)}]
)
def test_a_tree_without_arrays_is_saved_when_the_whole_is_due(save):
    with mmsb.open(save=save) as bus:
        saved = [bus.commit({"a": "adam"}, step=step).saved for step in range(5)]
    assert saved == [True, False, False, True, False]


def test_moments_of_a_part_are_of_that_part():
    seen = []

    def policy(moment):
        seen.append(moment.last_saved.step)
        return moment.step % 3 == 0

    with mmsb.open(save={"params": policy, "**": mmsb.Every(steps=5)}) as bus:
        run(bus, range(9), wait=False)
    assert seen == [0, 0, 0, 3, 5, 6, 6]


def test_what_the_caller_says_goes_before_the_policies():
    with mmsb.open(save=SAVE) as bus:
        run(bus, range(2))
        assert bus.commit(state(2), step=2, save=False).saved_arrays == ()
        assert bus.commit(state(3), step=3, save=True).saved
        assert bus.commit(state(4), step=4, structure="new").saved_arrays == PARAMS
        other = state(5) | {"more": 1}
        assert bus.commit(other, step=5, structure="new").saved


def test_a_tag_logs_the_bytes_of_the_newest():
    with mmsb.open(save=SAVE) as bus:
        run(bus, range(3))
        bus.tag("best")
        assert_same_tree(bus.checkout(version="best"), state(2))


@pytest.mark.parametrize("snapshots", [True, False])
def test_the_whole_is_saved_when_a_snapshot_is_due(snapshots, monkeypatch):
    monkeypatch.setattr(Tally, "snapshot_is_due", lambda self, *sizes: self._total_bytes > 40_000)
    save = {"params/**": mmsb.Every(steps=1), "**": lambda moment: False}
    with mmsb.open(save=save, snapshots=snapshots) as bus:
        saved = [commit.step for commit in run(bus, range(60)) if commit.saved]
        assert 2 < len(saved) < 10 if snapshots else saved == [0]
        bus.sync()
        assert bus.verify(deep=True)
        assert (bus.stats().segments > 1) == snapshots


def test_bytes_that_are_again_as_they_were_are_there(tmp_path):
    save = {"w": mmsb.Every(steps=2), "**": lambda moment: False}
    with mmsb.open(save=save) as bus:
        for step, number in enumerate([0, 1, 0, 2, 0, 0]):
            bus.commit({"w": jnp.full(100, number), "v": jnp.full(100, step)}, step=step)
        found = [int(bus.checkout(step=s, arrays=["w"])[0]) for s in (0, 2, 4, 5)]
        assert found == [0, 0, 0, 0]
        assert bus.verify(deep=True)


def test_rerun_takes_the_steps_between(tmp_path):
    optimizer = optax.adam(1e-2)

    def fn(tree, extra):
        grads = jax.tree.map(lambda x: x * 0.1 + 1, tree["params"])
        updates, opt = optimizer.update(grads, tree["opt"], tree["params"])
        new = {"params": optax.apply_updates(tree["params"], updates), "opt": opt}
        return new, {"next": extra["next"] + 1}

    fn = jax.jit(fn)
    start = {"w": jnp.ones(300), "b": jnp.zeros(3)}
    tree, extra = {"params": start, "opt": optimizer.init(start)}, {"next": 0}
    with mmsb.open(save=SAVE) as bus:
        for step in range(12):
            bus.commit(tree, step=step, extra={"next": int(extra["next"])})
            if step == 9:
                then = tree
            tree, extra = fn(tree, extra)
        again, _ = bus.rerun(fn, like=tree, extra={"next": 0}, to=10)
        assert_same_tree(again, then)


def test_keep_gives_up_parts_with_their_versions(tmp_path, small_segments):
    save = {"params/**": mmsb.Every(steps=1), "**": mmsb.Every(steps=5)}
    with mmsb.open(tmp_path / "a.mmsb", save=save, keep=mmsb.Keep(last=2)) as bus:
        run(bus, range(200))
        bus.sync()
        assert bus.verify()
        assert_same_tree(params(bus, step=199), state(199)["params"])
        assert len(list(bus.commits)) == 200


@pytest.mark.parametrize(
    ("save", "error", "match"),
    [
        ({"params/**": mmsb.Every(steps=2)}, ValueError, r"policy for '\*\*'"),
        ({}, ValueError, r"policy for '\*\*'"),
        ({3: mmsb.Every(steps=2), "**": mmsb.Every(steps=2)}, TypeError, "3 is no pattern"),
        ({"a": 50, "**": mmsb.Every(steps=2)}, TypeError, "expected a policy for 'a'"),
        ({"a": None, "**": mmsb.Every(steps=2)}, TypeError, "expected a policy for 'a'"),
        ({"a": mmsb.OnPreemption(), "**": mmsb.Every(steps=2)}, ValueError, "whole tree"),
    ],
)
def test_what_is_no_policy_of_parts_is_refused(save, error, match):
    with pytest.raises(error, match=match):
        mmsb.open(save=save)


def test_a_policy_of_a_part_that_says_no_bool_is_refused():
    with mmsb.open(save={"params": lambda moment: "yes", "**": mmsb.Every(steps=6)}) as bus:
        run(bus, range(1))
        with pytest.raises(TypeError, match="Expected a bool"):
            run(bus, range(1, 2))
        assert bus.version == 1


def test_bytes_of_parts_are_held_until_the_whole_is_saved():
    with mmsb.open(save=SAVE) as bus:
        run(bus, range(1))
        alone = bus.stats().host_bytes
        run(bus, range(1, 6))
        assert alone < bus.stats().host_bytes < 2 * alone
        run(bus, range(6, 7))
        assert bus.stats().host_bytes == alone


def test_later_changes_of_the_dict_change_nothing():
    save = dict(SAVE)
    with mmsb.open(save=save) as bus:
        save.clear()
        assert [commit.saved_arrays for commit in run(bus, range(3))][2] == PARAMS


def test_signals_are_heard_by_the_policy_of_the_whole():
    save = {"params": mmsb.Every(steps=2), "**": mmsb.Every(steps=6) | mmsb.OnPreemption()}
    with mmsb.open(save=save) as bus:
        run(bus, range(3))
        assert not bus.preempted
