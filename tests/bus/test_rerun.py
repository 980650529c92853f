"""Steps that are taken again, from the nearest bytes, and held against the digests."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.log.in_force import process_at
from tests.bus._script import run_script
from tests.core._compare import assert_same_tree

OPTIMISER = optax.adam(1e-2)


@eqx.filter_jit
def update(model, moments, key):
    x = jax.random.normal(key, (16, 4))
    grads = eqx.filter_grad(lambda m: ((jax.vmap(m)(x) - x) ** 2).mean())(model)
    updates, moments = OPTIMISER.update(grads, moments)
    return eqx.apply_updates(model, updates), moments


def step(state, extra):
    key, own = jax.random.split(state["key"])
    model, moments = update(state["model"], state["moments"], own)
    return {"model": model, "moments": moments, "key": key}, {"next": extra["next"] + 1}


def begin():
    model = eqx.nn.MLP(4, 4, 16, 2, key=jax.random.key(3))
    moments = OPTIMISER.init(eqx.filter(model, eqx.is_inexact_array))
    return {"model": model, "moments": moments, "key": jax.random.key(7)}, {"next": 0}


def train(bus, state, extra, until, states=None):
    while extra["next"] < until:
        state, extra = step(state, extra)
        bus.commit(state, step=extra["next"], extra=extra, wait=False)
        if states is not None:
            states[extra["next"]] = state
    return state, extra


@pytest.fixture(scope="module")
def trained():
    states = {}
    with mmsb.open(save=mmsb.Every(steps=10)) as bus:
        train(bus, *begin(), 35, states)
        yield bus, states


@pytest.mark.parametrize("number", [2, 9, 10, 11, 25, 30, 35])
def test_any_step_comes_back_to_the_bit(trained, number):
    bus, states = trained
    state, extra = bus.rerun(step, like=begin()[0], to=bus.at(step=number))
    assert_same_tree(state, states[number])
    assert extra == {"next": number}


def test_a_step_with_bytes_is_what_it_was_too(trained):
    bus, _ = trained
    taken = []

    def counted(state, extra):
        taken.append(extra["next"])
        return step(state, extra)

    bus.rerun(counted, like=begin()[0], to=bus.at(step=20))
    assert taken == list(range(10, 20))
    report = bus.check_replay(step, like=begin()[0], steps=12)
    assert report
    assert (report.since, report.until, report.steps) == (20, 35, 15)
    assert str(report) == "15 steps from version 20 on gave the digests recorded"


def test_the_first_step_and_array_that_differ_are_named(trained):
    """As when one bit flipped in step 27 of the run, or of this one."""
    bus, _ = trained

    def flipped(state, extra):
        state, extra = step(state, extra)
        if extra["next"] == 27:
            bias = state["model"].layers[1].bias
            bits = bias.view(jnp.int32).at[3].set(bias.view(jnp.int32)[3] ^ 1)
            where = lambda s: s["model"].layers[1].bias  # noqa: E731
            state = eqx.tree_at(where, state, bits.view(jnp.float32))
        return state, extra

    with pytest.raises(mmsb.DigestMismatchError, match=r"step 27 .*layers/1/bias") as raised:
        bus.rerun(flipped, like=begin()[0], to=bus.at(step=29))
    assert raised.value.step == raised.value.version == 27
    assert raised.value.arrays == ("model/layers/1/bias",)
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.arrays) == (str(raised.value), raised.value.arrays)
    assert copy.copy(raised.value).step == 27
    report = bus.check_replay(flipped, like=begin()[0], steps=10)
    assert not report
    assert (report.since, report.steps, report.mismatch.step) == (20, 6, 27)
    assert "step 27" in str(report)
    state, _ = bus.rerun(flipped, like=begin()[0], to=bus.at(step=29), check=False)
    assert state["key"].shape == ()


def test_a_step_that_is_not_deterministic_is_found(bus):
    count = [0]

    def random(state, extra):
        count[0] += 1
        return {"w": state["w"] + count[0]}, extra

    state = {"w": jnp.zeros(3)}
    for number in range(4):
        bus.commit(state, step=number, save=number == 0 or None)
        state, _ = random(state, None)
    assert not bus.check_replay(random, like=state, steps=2)
    count[0] = 0
    assert bus.check_replay(random, like=state, steps=3)


def test_steps_go_along_the_lineage(bus):
    def double(state, extra):
        return {"w": state["w"] * 2 + extra["add"]}, extra

    state, extra = {"w": jnp.ones(3)}, {"add": 0.0}
    for number in range(6):
        bus.commit(state, step=number, extra=extra, save=number == 0)
        state, extra = double(state, extra)
    with pytest.warns(UserWarning, match="versions 2 to 6"):
        state, extra = bus.resume(state)
    extra = {"add": 1.0}
    for number in range(1, 4):
        state, extra = double(state, extra)
        bus.commit(state, step=number, extra=extra, save=False)
    assert [commit.saved for commit in bus.commits] == [True] + [False] * 5 + [True, False, False]
    found, _ = bus.rerun(double, like=state, to=bus.at(step=3))
    assert_same_tree(found, state)
    found, _ = bus.rerun(double, like=state, to=bus.at(step=4, lineage="all"))
    assert_same_tree(found, {"w": jnp.full(3, 16.0)})
    with pytest.raises(mmsb.DigestMismatchError, match="step 1"):
        bus.rerun(double, like=state, to=bus.at(step=1))


def test_what_no_step_makes_is_named(bus):
    bus.create("note", ())
    bus.commit({"w": jnp.zeros(3)})
    bus.derive("sum", ["w"], jnp.sum)
    bus.commit({"w": jnp.ones(3)})
    increment = lambda s, e: ({"w": s["w"] + 1}, e)  # noqa: E731
    like = {"w": jnp.zeros(3)}
    bus.commit({"w": jnp.ones(3) * 2})
    report = bus.check_replay(increment, like=like, steps=3)  # one of them derived the sum
    assert report
    assert report.steps == 2
    assert bus.rerun(increment, like=like, to=4)[0]["w"][0] == 2
    bus.write("note", 1.0)
    bus.commit({"w": jnp.ones(3) * 3}, save=False)
    bus.commit({"w": jnp.ones(3) * 4}, save=False)
    assert bus.rerun(increment, like=like, to=7)[0]["w"][0] == 4
    with pytest.raises(mmsb.StructureError, match="wrote 'note'"):
        bus.check_replay(increment, like=like, steps=5)


@pytest.mark.parametrize(
    ("taken", "error", "message"),
    [
        (lambda s, e: {"w": s["w"]}, TypeError, "expected a tuple"),
        (lambda s, e: ({"v": s["w"]}, e), mmsb.StructureError, "v: new"),
        (lambda s, e: ({"w": s["w"][:2]}, e), mmsb.StructureError, "w: "),
        (lambda s, e: 1 / 0, ZeroDivisionError, "zero"),
        (3, TypeError, "step=3"),
    ],
)
def test_what_is_no_step_is_refused(bus, taken, error, message):
    for number in range(3):
        bus.commit({"w": jnp.full(3, float(number))})
    for call in (
        lambda: bus.rerun(taken, like={"w": jnp.zeros(3)}, to=2),
        lambda: bus.check_replay(taken, like={"w": jnp.zeros(3)}, steps=1),
    ):
        with pytest.raises(error, match=message) as raised:
            call()
        if error is ZeroDivisionError:
            assert "raised by the step to version" in raised.value.__notes__[0]
    assert bus.commit({"w": jnp.zeros(3)}).version == 4


def test_there_must_be_something_to_begin_with(bus):
    increment = lambda s, e: (s, e)  # noqa: E731
    with pytest.raises(mmsb.VersionError, match="empty"):
        bus.check_replay(increment, like={"w": 1.0}, steps=1)
    bus.commit({"w": 1.0})
    with pytest.raises(mmsb.VersionError, match="no version with bytes before it"):
        bus.rerun(increment, like={"w": 1.0}, to=1)
    with pytest.raises(mmsb.VersionError, match="9"):
        bus.rerun(increment, like={"w": 1.0}, to=9)


def test_arrays_of_numpy_and_numbers_are_held_against_their_digests(bus):
    def count(state, extra):
        return {"n": state["n"] + 1, "x": state["x"] + 0.5, "a": state["a"] * 2}, extra

    state = {"n": 0, "x": 0.0, "a": np.ones(4, np.int16)}
    for _ in range(4):
        bus.commit(state, save=False)
        state, _ = count(state, None)
    assert bus.check_replay(count, like=state, steps=3)
    assert bus.rerun(count, like=state, to=4)[0]["n"] == 3


def test_commit_that_only_has_the_bytes_of_the_one_before_is_no_step(tmp_path):
    def step(state, extra):
        return {"w": state["w"] * 1.5 + extra["next"]}, {"next": extra["next"] + 1}

    state, extra = {"w": jnp.ones(3)}, {"next": 0}
    for until in (20, 40):
        with mmsb.open(tmp_path / "run.mmsb", save=mmsb.Every(steps=50)) as bus:
            state, extra = bus.resume(state, extra)
            if extra["next"]:
                state, extra = step(state, extra)
            while extra["next"] < until:
                number = extra["next"]
                bus.commit(state, step=number, extra=extra, note={"loss": number})
                if number == 13:
                    bus.tag("here")
                state, extra = step(state, extra)
            state, extra = {"w": jnp.ones(3)}, {"next": 0}
    with mmsb.open(tmp_path / "run.mmsb", mode="r") as bus:
        assert [c.step for c in bus.commits if c.saved] == [0, 13, 19, 39]
        report = bus.check_replay(step, like=state, steps=40)
        assert (bool(report), report.steps) == (True, 39)
        assert bus.notes("loss").steps == [*range(40)]
        assert bus.rerun(step, like=state, to=bus.at(step=30))[1] == {"next": 30}


def test_a_mismatch_names_what_the_process_had_then(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with mmsb.open(save=mmsb.Every(steps=50)) as bus:
        for step in range(3):
            bus.commit({"w": jnp.full(3, step)}, step=step)
        ways = {"like": {"w": jnp.zeros(3, int)}, "extra": None, "to": 3}
        with pytest.raises(mmsb.DigestMismatchError, match="depends on more") as found:
            bus.rerun(lambda state, extra: (state, extra), **ways)
        assert found.value.then == {}
        monkeypatch.setenv("XLA_FLAGS", "--xla_other")
        told = "another process: XLA_FLAGS not set, now --xla_other"
        with pytest.raises(mmsb.DigestMismatchError, match=told) as found:
            bus.rerun(lambda state, extra: (state, extra), **ways)
        assert found.value.now == {"XLA_FLAGS": "--xla_other"}
        again = pickle.loads(pickle.dumps(found.value))
        assert (again.then, again.now, str(again)) == (
            found.value.then, found.value.now, str(found.value),
        )  # fmt: skip


def test_a_tree_without_arrays_of_jax_makes_no_process_take_its_devices():
    code = """
        import numpy as np
        import jax
        import mmsb_jax as mmsb
        from mmsb_jax._store.log.in_force import process_at
        def taken():
            raise AssertionError("the devices were taken")
        devices, jax.devices = jax.devices, taken
        with mmsb.open() as bus:
            bus.commit({"w": np.zeros(3)})
            print("devices" in process_at(bus._session.log, 1))
        jax.devices = devices
        with mmsb.open() as bus:
            bus.commit({"w": jax.numpy.zeros(3)})
            print(process_at(bus._session.log, 1)["devices"])
    """
    assert run_script(code, JAX_PLATFORMS="cpu").split("\n")[:2] == ["False", "1 cpu"]


def test_a_process_that_resumes_and_never_waits_is_known(tmp_path):
    with mmsb.open(tmp_path / "a.mmsb") as bus:
        bus.commit({"w": jnp.zeros(3)})
    with mmsb.open(tmp_path / "a.mmsb") as bus:
        state, _ = bus.resume({"w": jnp.zeros(3)})
        bus.commit({"w": state["w"] + 1}, wait=False).result()
        assert (
            process_at(bus._session.log, 2)["devices"] == process_at(bus._session.log, 1)["devices"]
        )
