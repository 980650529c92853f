"""Settings of JAX, threads and commits that do not wait neither stop nor change a wave."""

import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import mmsb_jax as mmsb
from tests.graph._graphs import Compiled, F, head, runs

LARGE = np.linspace(-2, 2, 5000, dtype=np.float32)


def checked(x: Any) -> Any:
    checkify.check(x[0] < 1e6, "too large")
    return x * 2


def host(x: Any) -> Any:
    return jax.pure_callback(lambda a: np.asarray(a) + 1, jax.ShapeDtypeStruct((3,), x.dtype), x)


def everything(bus: mmsb.Bus) -> dict[str, bytes]:
    """Every way in which a node is computed, with NaNs in all of them; the bytes that are left."""
    tree = {
        "x": F(1, -2, 3),
        "large": LARGE,
        "half": F(1, 2, 3).astype(jnp.bfloat16),
        "key": np.asarray([0, 7], np.uint32),
        "wide": np.arange(3) * np.pi,
        "n": 2,
    }
    bus.commit(tree)
    with bus.batch():
        bus.derive("log", ["x"], lambda x: jnp.log(x) / 3)
        bus.derive("many", ["log", "n"], lambda x, n: {"a": x * n, "b": x.sum()})
        bus.derive("low", ["half", "log"], lambda h, x: h + x.astype(h.dtype))
        bus.derive("noise", ["key"], lambda k: jax.random.normal(jax.random.wrap_key_data(k), (3,)))
        bus.derive("grown", ["large"], lambda x: jnp.sqrt(x) + jnp.inf * 0)
        bus.derive("total", ["grown", "log"], lambda x, y: x.sum() + y)
        bus.derive("paged", ["large"], lambda x: jnp.log(x) * 2, pagewise=True)
        bus.derive("checked", ["x"], checked)
        bus.derive("host", ["log"], host)
        bus.derive("near", ["x"], lambda x: x * 1, equal=lambda a, b: jnp.all(abs(a - b) < 1))
        bus.derive("wider", ["wide"], lambda x: x / 3)
        bus.derive("lazy", ["many"], lambda m: m["a"] - m["b"], when="read")
    for i in range(3):
        bus.commit(tree | {"x": F(i, -i, 4), "n": i, "large": LARGE + i}, wait=i != 1)
    bus.read("lazy")
    bus.mode = "deferred"
    bus.write("large", LARGE * 2)
    bus.write("x", F(5, 6, np.nan))
    bus.propagate()
    bus.read("lazy")
    bus.mode = "immediate"
    assert bus.verify(derive=True)
    return head(bus)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture(scope="module")
def wanted(compiled) -> dict[str, bytes]:
    with mmsb.open() as bus:
        return everything(compiled.lend(bus))


@contextlib.contextmanager
def strict_promotion() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def explicit_mesh() -> Any:
    axis_types = (jax.sharding.AxisType.Explicit,)
    return jax.set_mesh(jax.make_mesh((1,), ("x",), axis_types=axis_types))


SETTINGS = {
    "debug_nans": lambda: jax.debug_nans(True),
    "transfer_guard": lambda: jax.transfer_guard("disallow_explicit"),
    "mesh": explicit_mesh,
    "promotion": strict_promotion,
    "no jit": lambda: jax.disable_jit(),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_changes_no_byte_of_what_is_compiled_already(compiled, wanted, name):
    with mmsb.open() as bus, SETTINGS[name]():
        assert everything(compiled.lend(bus)) == wanted


@pytest.mark.parametrize("name", ["debug_nans", "mesh"])
def test_setting_changes_no_byte_of_what_is_compiled_under_it(wanted, name):
    with mmsb.open() as bus, SETTINGS[name]():
        assert everything(bus) == wanted


def test_wide_types_can_be_switched_on_and_off_between_commits(compiled):
    with mmsb.open() as bus:
        compiled.lend(bus)
        bus.commit({"x": F(1, 2), "wide": np.arange(2) * 0.1, "n": 3})
        with bus.batch():
            bus.derive("y", ["x", "n"], lambda x, n: x * n)
            bus.derive("z", ["wide"], lambda x: x / 3)
        for is_on in (True, False, True):
            with jax.enable_x64(is_on):
                bus.commit({"x": F(1, 2) + is_on, "wide": np.arange(2) * (1.0 + is_on), "n": 4})
                np.testing.assert_array_equal(bus.read("y"), (F(1, 2) + is_on) * 4)
        with jax.enable_x64(True):
            np.testing.assert_array_equal(bus.read("z"), np.arange(2) * 2 / 3)
            assert bus.read("z").dtype == np.float64
            bus.delete("y")  # it was traced for 32 bits
            bus.derive("big", ["n"], lambda n: n + 1)
            bus.commit({"x": F(1, 2), "wide": np.arange(2) * 1.0, "n": 2**40})
            assert int(bus.read("big")) == 2**40 + 1
        assert bus.verify()


def test_wave_inside_a_trace_is_no_part_of_it(compiled):
    with mmsb.open() as bus:
        compiled.lend(bus)
        bus.create("x", (2,))
        bus.derive("y", ["x"], lambda x: x * 2)

        @jax.jit
        def step(a: Any) -> Any:
            bus.write("x", F(3, 4))
            bus.derive("z", ["y"], lambda y: y + 1)
            return a + 1

        assert float(step(jnp.float32(1))) == 2
        np.testing.assert_array_equal(bus.read("z"), F(7, 9))
        np.testing.assert_array_equal(bus.read("y"), F(6, 8))


def test_commits_that_do_not_wait_carry_their_waves_in_order(any_bus, compiled):
    bus = compiled.lend(any_bus)
    tree = {"x": F(0, 0, 0), "large": LARGE}
    bus.commit(tree)
    with bus.batch():
        bus.derive("y", ["x"], lambda x: x + 1)
        bus.derive("z", ["y", "large"], lambda y, large: y + large.sum())
    futures = [bus.commit({"x": F(i, i, i), "large": LARGE * i}, wait=False) for i in range(1, 20)]
    np.testing.assert_array_equal(bus.read("y"), F(20, 20, 20))
    commits = [future.result() for future in futures]
    assert [c.version for c in commits] == list(range(3, 22))
    assert all(set(c.changed) == {"x", "large", "y", "z"} for c in commits[1:])
    for commit in commits[::6]:
        found = bus.checkout(version=commit.version, arrays=["x", "y"])
        np.testing.assert_array_equal(found["y"], found["x"] + 1)
    assert runs(bus) == {"y": 20, "z": 20}
    assert bus.verify(derive=True)


def test_threads_that_write_read_and_derive_see_whole_waves_only(any_bus, compiled):
    bus = compiled.lend(any_bus)
    for name in ("a", "b"):
        bus.create(name, (2,))
    with bus.batch():
        bus.derive("sum", ["a", "b"], lambda a, b: a + b)
        bus.derive("zero", ["sum", "a", "b"], lambda s, a, b: s - a - b)
        bus.derive("lazy", ["sum"], lambda s: s * 2, when="read")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(15):
                with bus.batch():
                    bus.write("a", F(i, number))
                    bus.write("b", F(-i, i))
                np.testing.assert_array_equal(bus.read("zero"), F(0, 0))
                bus.read("lazy")
                bus.derive(f"own/{number}", ["a"], lambda a: a + 1)
                with contextlib.suppress(mmsb.ArrayNotFoundError):
                    bus.read(f"own/{(number + 1) % 3}")
                bus.delete(f"own/{number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(bus.derived()) == {"sum", "zero", "lazy"}
    assert bus.verify(derive=True)
    for version in range(3, bus.version, 17):
        found = bus.checkout(version=version, arrays=["a", "b", "sum"])
        np.testing.assert_array_equal(found["sum"], found["a"] + found["b"])


@pytest.mark.parametrize("size", [5, 40_000])
@pytest.mark.parametrize("is_one_bus", [True, False])
def test_equal_functions_under_other_settings_are_not_one(size, is_one_bus):
    def noisy(x, key):
        return x + jax.random.normal(key, x.shape)

    def expected():
        return noisy(jnp.zeros(size), jax.random.key(1))

    with mmsb.open() as first, mmsb.open() as second:
        found = {}
        for is_partitionable, bus in (True, first), (False, first if is_one_bus else second):
            with jax.threefry_partitionable(is_partitionable):
                name = f"noise{int(is_partitionable)}"
                if name == "noise1" or not is_one_bus:
                    bus.commit({"x": jnp.zeros(size), "key": jax.random.key(1)})
                bus.derive(name, ["x", "key"], lambda x, key: noisy(x, key))
                found[name] = bus.read(name), expected()
        for ours, theirs in found.values():
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert not np.allclose(found["noise0"][0], found["noise1"][0])


def test_function_traced_under_another_setting_is_another_when_it_is_attached(tmp_path):
    def noisy(x, key):
        return x + jax.random.normal(key, (3,))

    for is_partitionable, times in (True, 1), (True, 1), (False, 2):
        with jax.threefry_partitionable(is_partitionable), mmsb.open(tmp_path) as bus:
            if bus.version == 0:
                bus.commit({"x": jnp.zeros(3), "key": jax.random.key(1)})
            bus.derive("noise", ["x", "key"], noisy)
            expected = noisy(jnp.zeros(3), jax.random.key(1))
            np.testing.assert_allclose(bus.read("noise"), expected, rtol=1e-6)
            assert len(bus.history("noise")) == times


def test_array_inside_of_a_function_goes_with_its_bus():
    inside = jax.device_put(np.arange(5000, dtype=np.float32))
    known = weakref.ref(inside)
    call = jax.jit(lambda x, inside=inside: x + inside.sum())
    with mmsb.open() as bus:
        bus.create("x", (4,))
        bus.derive("y", ["x"], lambda x: call(x))
        bus.write("x", np.ones(4, np.float32))
    del bus, call, inside
    gc.collect()
    assert known() is None
