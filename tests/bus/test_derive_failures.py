"""A wave that fails in its middle leaves head, log, graph, marks and counts as they were."""

import errno
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify, io_callback

import mmsb_jax as mmsb
from tests.graph._graphs import Compiled, F, head, insides, stale

RESULT = jax.ShapeDtypeStruct((3,), jnp.float32)


def log_bytes(bus: mmsb.Bus) -> dict[str, bytes]:
    """Every file of a log."""
    files = bus._session.files
    return {
        name: files.read(name) for folder in ("log", "snapshots") for name in files.names(folder)
    }


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def bus(bus, compiled) -> mmsb.Bus:
    """As everywhere; what failed in one test is there when the next one runs."""
    return compiled.lend(bus)


def batch(bus: mmsb.Bus, *acts: Callable[[], Any]) -> None:
    with bus.batch():
        for act in acts:
            act()


def everything(bus: mmsb.Bus) -> tuple[Any, ...]:
    """All that a failure leaves as it was."""
    return (
        bus.version,
        head(bus),
        bus.derived(),
        list(bus.graph.edges()),
        dict(insides(bus).stale),
        dict(bus._session.head().table.graph),
        log_bytes(bus),
    )


def checked(a: Any) -> Any:
    checkify.check(a[0] >= 0, "negative: {x}", x=a[0])
    return a * 2


def checked_inside(a: Any) -> Any:
    def body(total: Any, x: Any) -> Any:
        checkify.check(x >= 0, "negative in the scan")
        return total + x, x * 2

    return jax.lax.scan(jax.jit(body), jnp.float32(0), a)[1]


def error_if(a: Any) -> Any:
    return eqx.error_if(a, a[0] < 0, "negative, says equinox") * 2


def _host(a: np.ndarray) -> np.ndarray:
    if a[0] < 0:
        raise ValueError("negative, says the host")
    return np.asarray(a) * 2


def _interrupted(a: np.ndarray) -> np.ndarray:
    if a[0] < 0:
        raise KeyboardInterrupt("stopped by hand")
    return np.asarray(a) * 2


def pure_callback(a: Any) -> Any:
    return jax.pure_callback(_host, RESULT, a)


def ordered_callback(a: Any) -> Any:
    return io_callback(_host, RESULT, a, ordered=True)


def interrupted_callback(a: Any) -> Any:
    return jax.pure_callback(_interrupted, RESULT, a)


FAILING = {
    checked: "negative: -1",
    checked_inside: "negative in the scan",
    error_if: "negative, says equinox",
    pure_callback: "negative, says the host",
    ordered_callback: "negative, says the host",
    interrupted_callback: "stopped by hand",
}


def graph_around(bus: mmsb.Bus, function: Callable[..., Any]) -> None:
    """``function`` in the middle: behind a node that runs, beside others, before more."""
    with bus.batch():
        bus.create("a", (3,))
        bus.create("control", (3,))
        bus.derive("before", ["a"], lambda a: a + 0)
        bus.derive("beside", ["before"], lambda a: a + 1)
        bus.derive("middle", ["before"], function)
        bus.derive("behind", ["middle", "beside"], lambda m, b: m + b)
        bus.derive("lazy", ["behind"], lambda b: b + 1, when="read")
        bus.link("control", "beside", kind="control")


@pytest.mark.parametrize("function", FAILING, ids=lambda f: f.__name__)
def test_wave_that_fails_while_it_runs_changes_nothing(bus, function):
    graph_around(bus, function)
    bus.write("a", F(1, 2, 3))
    bus.write("control", F(1, 1, 1))  # so that there are stale marks
    assert stale(bus) == {"beside", "behind", "lazy"}
    before = everything(bus)
    with pytest.raises(mmsb.RecomputeError) as caught:
        bus.write("a", F(-1, 2, 3))
    said = str(caught.value)
    assert "derived 'middle'" in said
    assert function.__qualname__ in said
    assert FAILING[function] in said
    assert everything(bus) == before
    with pytest.raises(mmsb.RecomputeError):
        batch(
            bus,
            lambda: bus.write("a", F(-1, 2, 3)),
            lambda: bus.create("more", (2,)),
            lambda: bus.derive("later", ["more"], lambda x: x),
        )
    assert everything(bus) == before
    assert bus.verify()
    assert "middle" in bus.write("a", F(5, 6, 7)).changed
    np.testing.assert_array_equal(bus.read("lazy"), F(10, 12, 14) + F(6, 7, 8) + 1)
    assert bus.verify()


@pytest.mark.parametrize("function", FAILING, ids=lambda f: f.__name__)
def test_first_value_that_fails_derives_nothing(bus, function):
    bus.create("a", (3,))
    bus.write("a", F(-1, 2, 3))
    before = everything(bus)
    with pytest.raises(mmsb.RecomputeError, match="derived 'middle'"):
        bus.derive("middle", ["a"], function)
    assert everything(bus) == before
    with pytest.raises(mmsb.ArrayNotFoundError):
        bus.read("middle")
    bus.write("a", F(1, 2, 3))
    bus.derive("middle", ["a"], function)
    np.testing.assert_array_equal(bus.read("middle"), F(2, 4, 6))


def test_read_of_a_stale_array_that_fails_leaves_it_stale(bus):
    bus.create("a", (3,))
    with bus.batch():
        bus.derive("p", ["a"], lambda a: a * 1, when="read")
        bus.derive("c", ["p"], pure_callback, when="read")
    bus.write("a", F(-1, 0, 0))
    before = everything(bus)
    for _ in range(2):
        with pytest.raises(mmsb.RecomputeError, match="says the host"):
            bus.read("c")
        assert everything(bus) == before
    bus.mode = "deferred"
    bus.write("a", F(3, 0, 0))
    np.testing.assert_array_equal(bus.read("c"), F(6, 0, 0))


def test_propagate_that_fails_leaves_everything_stale(bus):
    graph_around(bus, pure_callback)
    bus.mode = "deferred"
    bus.write("a", F(-1, 0, 0))
    before = everything(bus)
    with pytest.raises(mmsb.RecomputeError, match="says the host"):
        bus.propagate()
    assert everything(bus) == before
    bus.write("a", F(1, 0, 0))
    assert bus.propagate().changed == ("before", "behind", "beside", "middle")


def test_error_while_a_changed_input_is_traced_changes_nothing(bus):
    bus.create("a", (3,))

    def picky(a: Any) -> Any:
        if a.shape != (3,):
            raise LookupError(f"three elements, and not {a.shape}")
        return a * 2

    bus.derive("c", ["a"], picky)
    before = everything(bus)
    with pytest.raises(mmsb.RecomputeError, match=r"derived 'c'.*LookupError.*three elements"):
        bus.resize("a", shape=(4,))
    assert everything(bus) == before
    bus.write("a", F(1, 2, 3))
    np.testing.assert_array_equal(bus.read("c"), F(2, 4, 6))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_while_a_function_is_traced_comes_through_and_changes_nothing(bus, error):
    bus.create("a", (3,))
    bus.derive("b", ["a"], lambda a: a + 1)
    before = everything(bus)

    def stopped(a: Any) -> Any:
        raise error

    with pytest.raises(error):
        bus.derive("c", ["b"], stopped)
    with pytest.raises(error):
        batch(
            bus,
            lambda: bus.write("a", F(1, 2, 3)),
            lambda: bus.derive("b", ["a"], lambda a: a + 2),
            lambda: bus.derive("c", ["b"], stopped),
        )
    assert everything(bus) == before
    assert bus.write("a", F(1, 2, 3)).changed == ("a", "b")


def test_interrupt_between_two_nodes_of_a_wave_changes_nothing(bus, monkeypatch):
    graph_around(bus, pure_callback)
    bus.write("a", F(1, 2, 3))
    before, machine = everything(bus), insides(bus).machine
    run = machine.call

    def interrupted(*arguments: Any) -> Any:
        run(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bus.write("a", F(4, 5, 6))
    monkeypatch.undo()
    assert everything(bus) == before
    assert bus.write("a", F(4, 5, 6)).changed == ("a", "before", "behind", "beside", "middle")


@pytest.mark.parametrize("is_short", [False, True])
def test_full_disk_during_a_wave_changes_nothing(faulty_bus, faults, compiled, is_short):
    bus = compiled.lend(faulty_bus)
    graph_around(bus, pure_callback)
    bus.write("a", F(1, 2, 3))
    before, counts = everything(bus)[:-1], bus.derived()
    faults.code, faults.is_short = errno.ENOSPC, is_short
    acts: list[Callable[[], Any]] = [
        lambda: bus.write("a", F(7, 8, 9)),
        lambda: bus.read("lazy"),
        lambda: bus.derive("more", ["a"], lambda a: a),
        lambda: bus.derive("middle", ["before"], lambda a: a * 5),
        lambda: bus.delete("lazy"),
        lambda: bus.link("a", "behind", kind="control"),
        lambda: bus.unlink("control", "beside", kind="control"),
    ]
    for act in acts:
        faults.arm(0)
        with pytest.raises(mmsb.LocationError):
            act()
        faults.disarm()
        assert everything(bus)[:-1] == before
        assert bus.derived() == counts
    bus.write("a", F(7, 8, 9))
    np.testing.assert_array_equal(bus.read("lazy"), F(14, 16, 18) + F(8, 9, 10) + 1)
    assert bus.verify()


def test_commit_that_does_not_wait_fails_with_its_wave_and_those_behind_it(any_bus):
    go = threading.Event()

    def waiting(a: np.ndarray) -> np.ndarray:
        assert go.wait(60)
        return _host(a)

    any_bus.commit({"a": F(1, 2, 3)})
    go.set()
    any_bus.derive("c", ["a"], lambda a: jax.pure_callback(waiting, RESULT, a))
    go.clear()
    version, before = any_bus.version, head(any_bus)
    futures = [any_bus.commit({"a": F(x, 0, 0)}, wait=False) for x in (-1, 5)]
    go.set()
    with pytest.raises(mmsb.RecomputeError, match=r"derived 'c'.*says the host"):
        futures[0].result()
    with pytest.raises(mmsb.MMSBError):
        futures[1].result()
    with pytest.raises(mmsb.MMSBError):
        any_bus.commit({"a": F(6, 0, 0)})
    assert any_bus.version == version
    assert head(any_bus) == before
    done = any_bus.commit({"a": F(7, 0, 0)}, wait=False).result()
    assert (done.version, done.changed) == (version + 1, ("a", "c"))
    assert any_bus.verify()


def test_callback_that_uses_the_bus_is_refused_and_nothing_hangs(bus):
    bus.create("a", (3,))

    def nosy(a: Any) -> Any:
        return jax.pure_callback(lambda a: bus.read("a"), RESULT, a)

    with pytest.raises(mmsb.RecomputeError, match="uses the bus"):
        bus.derive("c", ["a"], nosy)
    thread = threading.Thread(target=lambda: bus.write("a", F(1, 2, 3)))
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    np.testing.assert_array_equal(bus.read("a"), F(1, 2, 3))


def test_nan_and_infinity_are_results_like_any_other(bus):
    bus.create("a", (3,))
    bus.derive("c", ["a"], lambda a: jnp.log(a))
    bus.derive("d", ["c"], lambda c: c * 0)
    bus.write("a", F(-1, 0, 1))
    np.testing.assert_array_equal(bus.read("d"), F(np.nan, np.nan, 0))
    before = bus.derived()["d"].runs
    assert bus.write("a", F(-2, 0, 1)).changed == ("a",)  # the same NaNs: nothing behind runs
    assert bus.derived()["d"].runs == before
