"""Events over threads: their order, interrupts, handlers that commit, and the end of a bus."""

import gc
import itertools
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.events import events as _events
from mmsb_jax._store.files import threads as _threads
from tests.bus._threads import PATIENCE_S, in_another_thread, in_child, interrupted_at, soon, wait
from tests.graph._graphs import F

TREE = {"w": F(1, 2)}

pytestmark = pytest.mark.usefixtures("no_hang")


@pytest.fixture
def bus(bus) -> mmsb.Bus:
    """A bus at version 1, which knows the structure of what is committed."""
    bus.commit(TREE)
    return bus


@pytest.fixture
def no_threads(monkeypatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_threads._thread, "start_new_thread", refuse)


def name() -> str:
    return threading.current_thread().name


def hold(bus: mmsb.Bus, act: Callable[[], Any]) -> None:
    """Call ``act`` in a callback of the bus, on a thread that holds it meanwhile."""
    bus.verify(lambda version, last: act() if version == 1 else None)


def commit_together(bus: mmsb.Bus) -> None:
    """Versions 2 and 3, both of which are there before a handler runs."""
    hold(bus, lambda: (bus.commit(TREE), bus.commit(TREE)))


class Gate:
    """A handler that stays in its first call until it may go on; notes versions and threads."""

    def __init__(self) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.found: list[tuple[int, str]] = []

    def __call__(self, event: mmsb.Event) -> None:
        if not self.inside.is_set():
            self.inside.set()
            wait(self.go_on)
        self.found.append((event.version, name()))


# --------------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupt_in_a_handler_reaches_the_caller_and_loses_no_event(bus, exception):
    found, here = [], name()

    def interrupted(event):
        found.append(("interrupted", event.version, name()))
        if event.version == 2:
            raise exception

    bus.subscribe("commit", interrupted)
    bus.subscribe("commit", lambda event: found.append(("after", event.version, name())))
    with pytest.raises(exception):
        commit_together(bus)
    assert soon(found, 4) == [
        ("interrupted", 2, here),
        ("after", 2, "mmsb-events"),
        ("interrupted", 3, "mmsb-events"),
        ("after", 3, "mmsb-events"),
    ]
    assert bus.stats().failed_handlers == 0


@pytest.mark.parametrize("event", ["call", "return"])
@pytest.mark.parametrize("where", ["events_of", "post", "deliver", "_handle", "_call_handlers"])
def test_commit_that_is_interrupted_around_its_events_tells_them_once(bus, where, event):
    found = []
    bus.subscribe("commit", lambda event: found.append(event.version))
    with interrupted_at(where, event):
        bus.commit(TREE)
    assert in_another_thread(lambda: bus.commit(TREE)).version == 3
    bus.close()
    assert found == [2, 3]


def test_post_that_is_interrupted_right_behind_the_queue_tells_once(bus, monkeypatch):
    class Interrupted(deque):
        def extend(self, calls):
            super().extend(calls)
            if interrupts:
                raise interrupts.pop()

    found, interrupts = [], [KeyboardInterrupt()]
    bus.subscribe("commit", lambda event: found.append(event.version))
    monkeypatch.setattr(bus._events, "_calls", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        bus.commit(TREE)
    bus.close()
    assert found == [2]


@pytest.mark.parametrize("where", ["_handle", "_call_handlers"])
def test_what_an_interrupt_leaves_is_handled_by_the_thread(bus, where):
    found = []
    bus.subscribe("commit", lambda event: found.append((event.version, name())))
    with interrupted_at(where):
        bus.commit(TREE)
    assert soon(found, 1) == [(2, "mmsb-events")]


def test_exit_in_a_handler_of_the_thread_is_reported_and_the_thread_goes_on(bus, caplog):
    found = []

    def leaves(event):
        if event.version == 2:
            raise SystemExit(3)
        found.append((event.version, name()))

    bus.subscribe("commit", leaves)
    for _ in range(2):
        bus.commit(TREE, wait=False)
    assert soon(found, 1) == [(3, "mmsb-events")]
    assert bus.stats().failed_handlers == 1
    assert "SystemExit: 3" in caplog.text


# --------------------------------------------------------------------------- handlers that commit


def test_commit_in_a_handler_returns_before_its_events_which_follow_those_in_hand(bus):
    found = []

    def first(event):
        found.append(("first", event.version))
        if event.version == 2:
            found.append(("committed", bus.commit(TREE).version))

    bus.subscribe("commit", first)
    bus.subscribe("commit", lambda event: found.append(("second", event.version)))
    commit_together(bus)
    assert found == [
        ("first", 2),
        ("committed", 4),
        ("second", 2),
        ("first", 3),
        ("second", 3),
        ("first", 4),
        ("second", 4),
    ]


def test_commit_without_waiting_in_a_handler_leaves_the_thread_its_own_events_alone(bus):
    found, here = [], name()

    def handler(event):
        found.append((event.version, name()))
        if event.version == 2:
            assert bus.commit(TREE, wait=False).result().version == 4

    bus.subscribe("commit", handler)
    commit_together(bus)
    assert found[:2] == [(2, here), (3, here)]
    assert soon(found, 3)[2:] == [(4, "mmsb-events")]
    assert bus.stats().failed_handlers == 0


@pytest.mark.parametrize("call", ["stats", "close"])
def test_events_that_no_thread_can_be_made_for_are_handled_by_the_next_call(bus, no_threads, call):
    found, here = [], name()

    def handler(event):
        found.append((event.version, name()))
        if event.version == 2:
            bus.commit(TREE, wait=False)

    bus.subscribe("commit", handler)
    commit_together(bus)
    assert found == [(2, here), (3, here)]
    getattr(bus, call)()
    assert found == [(2, here), (3, here), (4, here)]


def _depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


@pytest.mark.parametrize("waits", [False, True])
def test_commits_in_handlers_two_thousand_deep_use_no_deeper_stack(bus, waits):
    depths = []

    def handler(event):
        depths.append(_depth())
        if event.version <= 2_000:
            bus.commit(TREE)

    bus.subscribe("commit", handler)
    bus.commit(TREE, wait=waits)
    assert len(soon(depths, 2_000)) == 2_000
    assert len(set(depths)) == 1


# ------------------------------------------------------------------------------------ threads


def test_handler_may_wait_for_a_thread_that_commits(bus, threads):
    gate, here = Gate(), name()
    bus.subscribe("commit", gate)
    threads.start(lambda: (wait(gate.inside), bus.commit(TREE), gate.go_on.set()))
    bus.commit(TREE)
    assert soon(gate.found, 2) == [(2, here), (3, "mmsb-events")]
    assert bus.stats().failed_handlers == 0


def test_handler_may_use_the_bus_while_another_thread_commits(bus, threads):
    found, began, written = [], threading.Event(), threading.Event()

    def handler(event):
        if event.version == 2:
            began.set()
            wait(written)
            with bus.batch():
                bus.read("w")
        found.append(event.version)

    bus.subscribe("commit", handler)
    threads.start(lambda: (wait(began), bus.commit(TREE), written.set()))
    bus.commit(TREE)
    bus.close()
    assert found == [2, 3, 4]


def test_call_ends_with_its_own_events_and_leaves_later_ones(bus, threads):
    gate, here, returned = Gate(), name(), threading.Event()
    bus.subscribe("commit", gate)

    def other():
        wait(gate.inside)
        hold(bus, lambda: (bus.commit(TREE), gate.go_on.set(), wait(returned)))

    thread = threads.start(other)
    bus.commit(TREE)
    assert gate.found == [(2, here)]
    returned.set()
    threads.join()
    assert gate.found == [(2, here), (3, thread.name)]


def test_events_left_out_of_order_are_all_handled(bus):
    gate = Gate()
    bus.subscribe("commit", gate)
    bus.commit(TREE, wait=False)
    wait(gate.inside)
    with interrupted_at("deliver"):
        bus.commit(TREE)
    in_another_thread(lambda: bus.commit(TREE))  # leaves version 4 to the thread
    bus.stats()  # and this version 3
    gate.go_on.set()
    assert soon(gate.found, 3) == [(version, "mmsb-events") for version in (2, 3, 4)]


def test_call_that_committed_nothing_waits_for_no_handler(bus, threads):
    gate = Gate()
    bus.subscribe("commit", gate)
    threads.start(lambda: bus.commit(TREE))
    wait(gate.inside)
    bus.read("w")
    bus.stats()
    assert not gate.found
    gate.go_on.set()


def test_events_over_threads_come_once_and_in_order(bus, threads):
    found, inside, start = [], threading.Lock(), threading.Barrier(6)
    values = itertools.count(1)

    def handler(event):
        assert inside.acquire(blocking=False), "two handlers at once"
        found.append((event.version, event.kind))
        assert bus.version >= event.version
        if event.version % 50 == 0 and event.kind == "commit":
            write()
        inside.release()

    def write():
        bus.write("x", F(next(values)))

    def write_in_batch():
        with bus.batch():
            bus.read("x")
            write()

    def commit_later():
        bus.commit({"w": F(next(values), 0)}, wait=False)

    def repeat(call):
        start.wait()
        for _ in range(100):
            call()

    bus.create("x", (1,))
    bus.sync()
    bus.subscribe(["changed", "commit"], handler)
    for call in [write] * 3 + [write_in_batch] + [commit_later] * 2:
        threads.start(lambda call=call: repeat(call))
    threads.join()
    bus.sync()
    soon(found, 2 * (600 + 600 // 50))
    assert bus.stats().failed_handlers == 0
    assert found == [(v, kind) for v in range(3, bus.version + 1) for kind in ("changed", "commit")]


def test_subscriptions_that_come_and_go_over_threads_see_whole_commits(bus, threads):
    start, seen, values = threading.Barrier(3), [], itertools.count(1)

    def subscribing():
        start.wait()
        for _ in range(50):
            found: list[tuple[int, str]] = []
            handler = lambda event, found=found: found.append((event.version, event.kind))  # noqa: E731
            with bus.subscribe(["changed", "commit"], handler):
                bus.write("x", F(next(values)))
                soon(found, 2)
            seen.append(found)

    def writing():
        start.wait()
        for _ in range(200):
            bus.write("x", F(next(values)))

    bus.create("x", (1,))
    for call in (subscribing, subscribing, writing):
        threads.start(call)
    threads.join()
    bus.close()
    assert len(seen) == 100
    for found in seen:
        first, last = found[0][0], found[-1][0]
        whole = [(v, kind) for v in range(first, last + 1) for kind in ("changed", "commit")]
        assert found == whole[: len(found)]  # a cancel may cut off the end, and only that
        assert len(found) >= 2


def test_commit_while_the_thread_holds_the_bus_is_handled_when_it_lets_go(bus):
    found, began, committed = [], threading.Event(), threading.Event()

    def handler(event):
        if event.version == 2:
            began.set()
            wait(committed)
        bus.read("w")  # waits for the bus
        found.append((event.version, bus.version))

    def act():
        bus.commit(TREE)
        bus.commit(TREE)
        committed.set()
        assert not found

    bus.subscribe("commit", handler)
    bus.commit(TREE, wait=False)
    wait(began)
    hold(bus, act)
    assert soon(found, 3) == [(2, 4), (3, 4), (4, 4)]
    assert bus.stats().failed_handlers == 0


@pytest.mark.parametrize("closes", [False, True])
def test_exception_of_who_holds_the_bus_lets_its_commits_be_told(bus, closes):
    found = []
    bus.subscribe("commit", lambda event: found.append(event.version))

    def act():
        bus.commit(TREE)
        if closes:
            bus.close()
        assert not found
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hold(bus, act)
    assert found == [2]
    assert bus.closed == closes


def test_thread_ends_when_idle_and_is_made_anew(bus, monkeypatch):
    monkeypatch.setattr(_events, "_LINGER_S", 0.0)
    found = []
    bus.subscribe("commit", lambda event: found.append(threading.current_thread()))
    for count in (1, 2):
        bus.commit(TREE, wait=False)
        soon(found, count)[-1].join(PATIENCE_S)
        assert not found[-1].is_alive()
    assert found[0] is not found[1]
    assert all(thread.daemon and thread.name == "mmsb-events" for thread in found)


def test_thread_that_lingers_handles_what_comes_at_once(bus, monkeypatch):
    monkeypatch.setattr(_events, "_LINGER_S", 1000.0)
    found = []
    bus.subscribe("commit", lambda event: found.append(threading.current_thread()))
    for count in (1, 2):
        bus.commit(TREE, wait=False)
        assert len(soon(found, count)) == count
        time.sleep(0.01)  # the thread waits again
    assert found[0] is found[1]


def test_thread_keeps_no_bus_alive_that_nobody_holds(monkeypatch):
    monkeypatch.setattr(_events, "_LINGER_S", 0.01)
    found, gone = [], []

    def leave():
        bus = mmsb.open()
        bus.commit(TREE)
        bus.subscribe("commit", lambda event: found.append(bus.version))
        bus.commit(TREE, wait=False).result()
        weakref.finalize(bus, gone.append, True)

    leave()
    assert soon(found, 1) == [2]
    ends = time.monotonic() + PATIENCE_S
    while not gone and time.monotonic() < ends:
        gc.collect()
        time.sleep(0.01)
    assert gone


# ------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("count", [1, 2])
def test_close_waits_for_handlers_which_may_use_the_bus_and_ends_the_thread(
    bus, monkeypatch, count
):
    monkeypatch.setattr(_events, "_LINGER_S", 1000.0)
    gate, found = Gate(), []

    def handler(event):
        gate(event)
        found.append((bus.version, threading.current_thread()))

    bus.subscribe("commit", handler)
    for _ in range(count):
        bus.commit(TREE, wait=False)
    wait(gate.inside)
    threading.Timer(0.05, gate.go_on.set).start()
    bus.close()
    assert gate.found == [(2, "mmsb-events"), (3, "mmsb-events")][:count]
    assert [version for version, _ in found] == [1 + count] * count
    _, thread = found[0]
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_close_lets_go_of_handlers_and_takes_no_more(bus):
    gate = Gate()
    known = weakref.ref(gate)
    bus.subscribe("commit", gate)
    del gate
    bus.close()
    assert known() is None
    with pytest.raises(mmsb.ClosedError):
        bus.subscribe("*", print)


def test_close_that_is_interrupted_before_its_last_handler_calls_it_all_the_same(bus, no_threads):
    found = []
    bus.subscribe("created", lambda event: found.append(event.array))
    bus.create("x", (2,))
    with interrupted_at("_handle"):
        bus.close()
    bus.close()
    assert bus.closed
    assert found == ["x"]


def test_close_tells_of_what_it_records_while_the_bus_is_open(bus):
    found = []
    subscription = bus.subscribe("created", lambda event: found.append(bus.read(event.array).shape))
    bus.create("x", (2,))
    assert subscription.is_active
    bus.close()
    assert found == [(2,)]
    assert not bus._events.failures
    assert not subscription.is_active
    assert "ended" in repr(subscription)


@pytest.mark.parametrize("waits", [False, True])
def test_close_in_a_handler_returns_and_what_was_committed_is_still_handled(bus, waits):
    found, refused = [], []

    def handler(event):
        if event.version == 2:
            bus.commit(TREE)
            bus.close()
            try:
                bus.commit(TREE)
            except mmsb.ClosedError as error:
                refused.append(error)
        found.append(event.version)

    bus.subscribe("commit", handler)
    bus.commit(TREE, wait=waits)
    assert soon(found, 2) == [2, 3]
    assert len(refused) == 1
    assert not bus._events.failures


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_forked_child_handles_no_events_of_its_parent(bus):
    found = []
    subscription = bus.subscribe("commit", lambda event: found.append(os.getpid()))
    with interrupted_at("deliver"):
        bus.commit(TREE)

    def child():
        with pytest.raises(mmsb.ClosedError):
            bus.commit(TREE)
        assert not subscription.is_active
        subscription.cancel()
        bus.close()
        assert not found

    assert in_child(child) == "nothing"
    assert not found
    bus.stats()
    assert found == [os.getpid()]
