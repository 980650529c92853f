"""Events by themselves: order, threads, failures, the end; and the log of them in an array."""

import contextlib
import dataclasses
import doctest
import functools
import logging
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.events import event_log
from mmsb_jax._bus.events import events as _events
from mmsb_jax._bus.events.event_log import EVENT_ROW, EventLog
from mmsb_jax._bus.events.events import KINDS, Event, Events, events_of

TIMEOUT_S = 60.0


def _commit(version: int, changed: tuple[str, ...] = ("x",), source: str = "") -> mmsb.Commit:
    nothing = (lambda: None, lambda: iter(()), lambda: 0)  # extra, patches, durable version
    return mmsb.Commit(version, None, version * 10, source, None, changed, 0, 0, *nothing)


def _changed(version: int, array: str = "x") -> Event:
    return Event("changed", version, version * 10, array)


def _post(events: Events, *versions: int) -> None:
    for version in versions:
        events.post([_changed(version)], events.audience)


class _Threads:
    """Threads that are waited for, and whose exceptions fail the test."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, target: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                target()
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), "a thread hangs"
        assert not self._errors


@pytest.fixture
def threads():
    made = _Threads()
    yield made
    made.join()


@pytest.fixture
def events():
    made = Events()
    yield made
    made.close()


def _wait(event: threading.Event | threading.Semaphore) -> None:
    wait = event.wait if isinstance(event, threading.Event) else event.acquire
    assert wait(timeout=TIMEOUT_S), "what was waited for did not happen"


# ------------------------------------------------------------------------------ what is told


@pytest.mark.parametrize("module", [_events, event_log])
def test_events_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 2
    assert not result.failed


def test_event_is_immutable_and_has_no_dict():
    event = _changed(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.version = 2  # pyright: ignore
    assert not hasattr(event, "__dict__")
    assert event == _changed(1)
    assert event != _changed(2)


def test_event_names_are_its_array_or_what_its_commit_changed():
    commit = _commit(1, ("a", "b"))
    assert Event("stale", 1, 0, "x", commit=commit).names == ("x",)
    assert Event("commit", 1, 0, commit=commit).names == ("a", "b")
    assert Event("delta", 1, 0).names == ()


_ABOUT = {
    "compiler": [("f2", "x"), ("f1", "x")],
    "device_sync": [("copy", "y"), ("copy", "x"), ("a", "z")],
    "recomputed": [("z", None, True), ("a", None, False)],
    "stale": [("s2",), ("s1",)],
    "delta": [()],
    "resized": [("r",)],
    "created": [("n",), ("m",)],
    "deleted": [("n",)],
}


def test_events_of_a_commit_come_in_the_documented_order(events):
    events.subscribe("*", print)
    commit = _commit(7, ("x", "z"))
    found = events_of(commit, events.audience, _ABOUT)
    assert [(e.kind, e.array, e.source, e.changed) for e in found] == [
        ("deleted", "n", None, None),
        ("created", "m", None, None),
        ("created", "n", None, None),
        ("resized", "r", None, None),
        ("delta", None, None, None),
        ("changed", "x", None, None),
        ("changed", "z", None, None),
        ("stale", "s1", None, None),
        ("stale", "s2", None, None),
        ("recomputed", "z", None, True),
        ("recomputed", "a", None, False),
        ("device_sync", "a", "z", None),
        ("device_sync", "copy", "x", None),
        ("device_sync", "copy", "y", None),
        ("compiler", "f1", "x", None),
        ("compiler", "f2", "x", None),
        ("commit", None, None, None),
    ]
    assert {(e.version, e.time_ns, e.commit) for e in found} == {(7, 70, commit)}


def test_events_of_a_commit_are_made_for_wanted_kinds_alone(events):
    events.subscribe("stale", print)
    events.subscribe(["commit", "resized"], print)

    def fail():
        raise AssertionError("nobody wants these")
        yield

    about = _ABOUT | {"created": fail(), "compiler": fail()}
    found = events_of(_commit(1), events.audience, about)
    assert [event.kind for event in found] == ["resized", "stale", "stale", "commit"]


def test_events_of_a_plain_commit_are_what_it_changed(events):
    events.subscribe("*", print)
    found = events_of(_commit(1, ("a", "b")), events.audience, {})
    assert [(e.kind, e.array) for e in found] == [
        ("changed", "a"),
        ("changed", "b"),
        ("commit", None),
    ]


# --------------------------------------------------------------------------------- who listens


def test_audience_without_subscriptions_is_empty(events):
    assert not events.audience
    with events.subscribe("stale", print):
        assert events.audience
    assert not events.audience


async def _async_handler(event: Event) -> None: ...


class _AsyncCall:
    async def __call__(self, event: Event) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("change", print), ValueError, "kind='change': expected .* deleted, created, .*, commit"),
        ((["commit", "stele"], print), ValueError, "stele.*expected '\\*' or some of deleted"),
        (([], print), ValueError, "expected '\\*' or"),
        ((3, print), ValueError, "kind=3: expected"),
        (([["commit"]], print), ValueError, "expected '\\*' or"),
        (("commit", None), TypeError, "handler=None: expected a function"),
        (("commit", _async_handler), TypeError, "not async"),
        (("commit", functools.partial(_async_handler)), TypeError, "not async"),
        (("commit", _AsyncCall()), TypeError, "not async"),
        (("commit", print, 3), TypeError, "where=3: expected patterns"),
        (("commit", print, []), TypeError, "expected patterns"),
        (("commit", print, ["a", 3]), TypeError, "expected patterns"),
        (("commit", print, b"a"), TypeError, "expected patterns"),
    ],
)
def test_subscribe_with_what_cannot_be_is_refused(events, arguments, error, message):
    with pytest.raises(error, match=message):
        events.subscribe(*arguments)
    assert not events.audience


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("stale", ["stale"]),
        (("commit", "deleted"), ["deleted", "commit"]),
        ({"changed"}, ["changed"]),
        ("*", list(KINDS)),
        (["commit", "*"], list(KINDS)),
    ],
)
def test_subscription_is_called_with_its_kinds_alone(events, kind, told):
    found = []
    events.subscribe(kind, lambda event: found.append(event.kind))
    events.post([Event(each, 1, 0, "x") for each in KINDS], events.audience)
    events.deliver()
    assert found == told


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("params/**", ["params/w", "commit"]),
        ("params", ["params/w", "commit"]),
        (["x", "y"], ["x", "y"]),
        (("par*/?",), ["params/w", "commit"]),
        ("nothing", []),
        (lambda event: event.array == "y", ["y"]),
        (lambda event: event.kind == "commit", ["commit"]),
        (None, ["params/w", "x", "y", "commit"]),
    ],
)
def test_subscription_where_selects_by_arrays_or_by_a_function(events, where, told):
    found = []
    events.subscribe("*", lambda event: found.append(event.array or event.kind), where)
    commit = _commit(1, ("params/w",))
    posted = [_changed(1, "params/w"), _changed(1, "x"), _changed(1, "y")]
    events.post([*posted, Event("commit", 1, 0, commit=commit)], events.audience)
    events.deliver()
    assert found == told


def test_subscriptions_are_called_event_by_event_in_their_order(events):
    found = []
    for name in "ba":
        events.subscribe("changed", lambda event, name=name: found.append((event.array, name)))
    events.post([_changed(1, "y"), _changed(1, "x")], events.audience)
    events.deliver()
    assert found == [("y", "b"), ("y", "a"), ("x", "b"), ("x", "a")]


def test_subscription_made_during_a_commit_sees_the_next_one_first(events):
    early, late = [], []
    events.subscribe("*", early.append)
    audience = events.audience
    events.subscribe("*", late.append)
    events.post([_changed(1)], audience)
    _post(events, 2)
    events.deliver()
    assert [event.version for event in early] == [1, 2]
    assert [event.version for event in late] == [2]


def test_subscription_made_in_a_handler_sees_later_commits(events):
    found = []

    def handler(event):
        if event.version == 1:
            events.subscribe("*", lambda later: found.append(later.version))
            events.post([_changed(3)], events.audience)

    events.subscribe("*", handler)
    _post(events, 1, 2)
    events.deliver()
    assert found == [3]


def test_cancel_in_the_handler_ends_its_calls_and_those_of_others(events):
    found = []

    def first(event):
        found.append(("first", event.version))
        subscriptions[0].cancel()
        subscriptions[0].cancel()
        if event.version == 1:
            subscriptions[2].cancel()

    subscriptions = [
        events.subscribe("*", first),
        events.subscribe("*", lambda event: found.append(("second", event.version))),
        events.subscribe("*", lambda event: found.append(("third", event.version))),
    ]
    _post(events, 1, 2)
    events.deliver()
    assert found == [("first", 1), ("second", 1), ("second", 2)]
    assert [each.is_active for each in subscriptions] == [False, True, False]
    assert events.audience == (subscriptions[1],)
    assert "cancelled" in repr(subscriptions[0])


def test_cancel_drops_what_waits(events):
    found = []
    with events.subscribe("*", found.append):
        _post(events, 1)
    events.deliver()
    assert not found


# ---------------------------------------------------------------------------------- failures


def test_failing_handler_is_reported_and_stops_no_other(events, caplog):
    found = []

    def broken(event):
        raise ValueError(f"no {event.version}")

    events.subscribe("*", broken)
    events.subscribe("*", lambda event: found.append(event.version))
    _post(events, 1, 2)
    with caplog.at_level(logging.ERROR, "mmsb_jax"):
        events.deliver()
    assert found == [1, 2]
    assert [event.version for event, _ in events.failures] == [1, 2]
    assert "broken" in events.failures[1][1]
    assert "ValueError: no 2" in events.failures[1][1]
    assert [record.name for record in caplog.records] == ["mmsb_jax"] * 2
    assert "failed on 'changed' of version 1" in caplog.records[0].getMessage()
    assert "ValueError: no 1" in caplog.text


def test_failing_where_is_reported_and_selects_nothing(events):
    found = []
    events.subscribe("*", found.append, lambda event: event.nothing)
    _post(events, 1)
    events.deliver()
    assert not found
    assert "AttributeError" in events.failures[0][1]


def test_failures_are_bounded_and_keep_no_frames_alive(events):
    class Large:
        pass

    kept = []

    def broken(event):
        large = Large()
        kept.append(weakref.ref(large))
        raise ValueError("no")

    events.subscribe("*", broken)
    _post(events, *range(1, 101))
    logging.getLogger("mmsb_jax").disabled = True  # pytest keeps what is logged
    try:
        events.deliver()
    finally:
        logging.getLogger("mmsb_jax").disabled = False
    assert [event.version for event, _ in events.failures] == list(range(69, 101))
    assert not [ref for ref in kept if ref() is not None]


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class _FailingLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the disk is full")


def test_failing_report_stops_no_handler(events):
    found = []

    def broken(event):
        raise _Unprintable

    log = _FailingLog()
    logging.getLogger("mmsb_jax").addHandler(log)
    try:
        events.subscribe("*", broken)
        events.subscribe("*", found.append)
        _post(events, 1)
        events.deliver()
    finally:
        logging.getLogger("mmsb_jax").removeHandler(log)
    assert len(found) == 1
    assert "_Unprintable" in events.failures[0][1]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_interrupt_in_a_handler_reaches_the_caller_and_loses_no_event(events, exception):
    found, done = [], threading.Event()

    def interrupted(event):
        found.append(("interrupted", event.version, threading.current_thread().name))
        if event.version == 1:
            raise exception

    def after(event):
        found.append(("after", event.version, threading.current_thread().name))
        if event.version == 2:
            done.set()

    events.subscribe("*", interrupted)
    events.subscribe("*", after)
    _post(events, 1, 2)
    with pytest.raises(exception):
        events.deliver()
    _wait(done)
    assert found == [
        ("interrupted", 1, threading.current_thread().name),
        ("after", 1, "mmsb-events"),
        ("interrupted", 2, "mmsb-events"),
        ("after", 2, "mmsb-events"),
    ]
    assert not events.failures


def test_interrupt_before_the_first_handler_loses_no_event(events, monkeypatch):
    found, done, handle = [], threading.Event(), events._handle

    def interrupted(caught):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return handle(caught)

    events.subscribe("*", lambda event: (found.append(event.version), done.set()))
    _post(events, 1)
    monkeypatch.setattr(events, "_handle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        events.deliver()
    _wait(done)
    assert found == [1]
    monkeypatch.undo()


def test_exit_in_a_handler_of_the_thread_is_reported_and_the_thread_goes_on(events):
    found, done = [], threading.Event()

    def leaves(event):
        if event.version == 1:
            raise SystemExit(3)
        found.append(threading.current_thread().name)
        done.set()

    events.subscribe("*", leaves)
    _post(events, 1, 2)
    events.deliver_later()
    _wait(done)
    assert found == ["mmsb-events"]
    assert "SystemExit: 3" in events.failures[0][1]


# --------------------------------------------------------------------------- handlers that commit


def test_post_that_is_interrupted_and_repeated_tells_once(events, monkeypatch):
    class Interrupted(deque):
        def extend(self, calls):
            super().extend(calls)
            raise KeyboardInterrupt

    found = []
    events.subscribe("changed", lambda event: found.append(event.version))
    monkeypatch.setattr(events, "_calls", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        _post(events, 1)
    _post(events, 1)  # as a landing that is gone on with does
    events.deliver()
    assert found == [1]


def test_commit_in_a_handler_returns_before_its_events_which_follow_those_in_hand(events):
    found = []

    def first(event):
        found.append(("first", event.version))
        if event.version == 1:
            _post(events, 3)
            events.deliver()
            events.drain()
            found.append(("first", "returned"))

    events.subscribe("*", first)
    events.subscribe("*", lambda event: found.append(("second", event.version)))
    _post(events, 1, 2)
    events.deliver()
    assert found == [
        ("first", 1),
        ("first", "returned"),
        ("second", 1),
        ("first", 2),
        ("second", 2),
        ("first", 3),
        ("second", 3),
    ]


def test_commit_left_to_the_thread_in_a_handler_leaves_it_nothing_else(events):
    found = []

    def handler(event):
        found.append((event.version, threading.current_thread() is threading.main_thread()))
        if event.version == 1:
            _post(events, 3)
            events.deliver_later()

    events.subscribe("*", handler)
    _post(events, 1, 2)
    events.deliver()
    assert found[:2] == [(1, True), (2, True)]
    events.drain()
    assert [version for version, _ in found] == [1, 2, 3]


def _depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


@pytest.mark.parametrize("later", [False, True])
def test_commits_in_handlers_ten_thousand_deep_use_no_deeper_stack(events, later):
    depths, done = [], threading.Event()

    def handler(event):
        depths.append(_depth())
        if event.version < 10_000:
            _post(events, event.version + 1)
            events.deliver()
        else:
            done.set()

    events.subscribe("*", handler)
    _post(events, 1)
    if later:
        events.deliver_later()
        _wait(done)
    else:
        events.deliver()
    assert len(depths) == 10_000
    assert len(set(depths)) == 1


def test_commit_without_waiting_in_a_handler_is_handled_by_the_thread(events, threads):
    found, done = [], threading.Event()

    def handler(event):
        found.append((event.version, threading.current_thread().name))
        if event.version == 1:
            queued = threads.start(lambda: (_post(events, 2), events.deliver_later()))
            queued.join(TIMEOUT_S)  # as `wait=False` and then `.result()`
            assert not queued.is_alive()
        else:
            done.set()

    events.subscribe("*", handler)
    _post(events, 1)
    events.deliver()
    _wait(done)
    assert found == [(1, threading.current_thread().name), (2, "mmsb-events")]
    assert not events.failures


# ------------------------------------------------------------------------------------ threads


def test_handler_may_wait_for_a_thread_that_commits(events, threads):
    began, returned, done = threading.Event(), threading.Event(), threading.Event()
    found = []

    def handler(event):
        if event.version == 1:
            began.set()
            _wait(returned)  # of the other thread's commit
        found.append(event.version)
        if event.version == 2:
            done.set()

    def other():
        _wait(began)
        _post(events, 2)
        events.deliver()
        returned.set()

    events.subscribe("*", handler)
    threads.start(other)
    _post(events, 1)
    events.deliver()
    threads.join()
    _wait(done)
    assert not events.failures
    assert found == [1, 2]


def test_deliver_ends_with_its_own_events_and_leaves_later_ones(events, threads):
    began, posted = threading.Event(), threading.Event()
    found, returned = [], threading.Event()

    def handler(event):
        found.append((event.version, threading.current_thread() is threading.main_thread()))
        if event.version == 1:
            began.set()
            _wait(posted)

    def other():
        _wait(began)
        _post(events, 2)
        posted.set()
        _wait(returned)
        events.deliver()

    events.subscribe("*", handler)
    threads.start(other)
    _post(events, 1)
    events.deliver()
    assert found == [(1, True)]
    returned.set()
    threads.join()
    assert found == [(1, True), (2, False)]


def test_deliver_handles_what_waits_before_its_own(events, threads):
    found = []
    events.subscribe("*", lambda event: found.append(event.version))
    threads.start(lambda: _post(events, 1))  # its thread never delivers
    threads.join()
    _post(events, 2)
    events.deliver()
    assert found == [1, 2]


def test_events_left_out_of_order_are_all_handled(events, threads):
    began, left, done = threading.Event(), threading.Event(), threading.Event()
    found = []

    def handler(event):
        if event.version == 1:
            began.set()
            _wait(left)
        found.append(event.version)
        if event.version == 3:
            done.set()

    events.subscribe("*", handler)
    _post(events, 1)
    events.deliver_later()
    _wait(began)
    _post(events, 2)
    threads.start(lambda: (_post(events, 3), events.deliver_later()))
    threads.join()
    events.deliver_later()
    left.set()
    _wait(done)
    assert found == [1, 2, 3]


def test_deliver_without_anything_posted_waits_for_nobody(events, threads):
    began, release = threading.Event(), threading.Event()

    def handler(event):
        if event.version == 2:
            began.set()
            _wait(release)

    events.subscribe("*", handler)
    _post(events, 1)
    events.deliver()
    threads.start(lambda: (_post(events, 2), events.deliver()))
    _wait(began)
    events.deliver()
    release.set()
    threads.join()
    assert not events.failures


class _SmallBus:
    """A bus as far as events go: a lock, versions, commits that deliver once the lock is free."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.engine_lock = threading.RLock()
        self.version = 0
        self.events = Events(self.lock)

    def land(self) -> int:
        with self.engine_lock:
            self.version += 1
            audience = self.events.audience
            if audience:
                commit = _commit(self.version)
                self.events.post(events_of(commit, audience, {}), audience)
            return self.version

    def write(self) -> int:
        with self.events, self.lock:
            return self.land()

    def write_later(self) -> int:
        version = self.land()
        self.events.deliver_later()
        return version

    @contextlib.contextmanager
    def batch(self):
        with self.events, self.lock:
            yield
            self.land()

    def read(self) -> int:
        with self.lock:
            return self.version


def test_events_over_threads_come_once_and_in_order(threads):
    bus, start = _SmallBus(), threading.Barrier(6)
    found: list[tuple[int, str]] = []
    inside = threading.Lock()

    def handler(event):
        assert inside.acquire(blocking=False), "two handlers at once"
        found.append((event.version, event.kind))
        assert bus.read() >= event.version
        if event.version % 50 == 0 and event.kind == "commit":
            bus.write()
        inside.release()

    def waiting():
        start.wait(TIMEOUT_S)
        for _ in range(100):
            bus.write()

    def batching():
        start.wait(TIMEOUT_S)
        for _ in range(100):
            with bus.batch():
                bus.read()

    def queueing():
        start.wait(TIMEOUT_S)
        for _ in range(100):
            bus.write_later()

    bus.events.subscribe(["changed", "commit"], handler)
    for target in [waiting] * 3 + [batching] + [queueing] * 2:
        threads.start(target)
    threads.join()
    bus.events.drain()  # what handlers commit from here on is not told
    bus.events.close()
    assert not bus.events.failures
    assert bus.version >= 600
    expected = [(v, kind) for v in range(1, bus.version + 1) for kind in ("changed", "commit")]
    assert found == expected


def test_subscriptions_that_come_and_go_over_threads_see_whole_commits(threads):
    bus, start = _SmallBus(), threading.Barrier(3)
    seen: list[list[tuple[int, str]]] = []

    def subscribing():
        start.wait(TIMEOUT_S)
        for _ in range(50):
            found: list[tuple[int, str]] = []
            handler = lambda event, found=found: found.append((event.version, event.kind))  # noqa: E731
            subscription = bus.events.subscribe("*", handler)
            bus.write()
            seen.append(found)
            subscription.cancel()

    def writing():
        start.wait(TIMEOUT_S)
        for _ in range(200):
            bus.write()

    for target in (subscribing, subscribing, writing):
        threads.start(target)
    threads.join()
    bus.events.close()
    assert len(seen) == 100
    for found in seen:
        first, last = found[0][0], found[-1][0]
        whole = [(v, kind) for v in range(first, last + 1) for kind in ("changed", "commit")]
        assert found == whole[: len(found)]  # a cancel may cut off the end, and only that
        assert len(found) >= 2
    assert not bus.events.audience


def test_commit_while_the_thread_holds_the_bus_is_handled_when_it_lets_go(threads):
    bus = _SmallBus()
    began, posted = threading.Event(), threading.Event()
    found = []

    def handler(event):
        if event.version == 1:
            began.set()
            _wait(posted)
        found.append((event.version, bus.read(), threading.current_thread().name))

    def other():
        bus.write_later()

    bus.events.subscribe("commit", handler)
    threads.start(other)
    _wait(began)
    with bus.batch():
        bus.write()
        bus.events.drain()  # would wait for ever: the handler under way needs the bus
        posted.set()
    bus.events.close()
    assert [row[:2] for row in found] == [(1, 3), (2, 3), (3, 3)]
    assert found[0][2] == "mmsb-events"
    assert not bus.events.failures


def test_close_while_the_thread_holds_the_bus_handles_all_when_it_lets_go():
    bus, found = _SmallBus(), []
    bus.events.subscribe("commit", lambda event: found.append(event.version))
    with bus.events, bus.lock:
        bus.write()
        bus.events.close()
        assert not found
    assert found == [1]


def test_exception_in_the_block_of_a_bus_still_delivers_what_was_posted():
    bus, found = _SmallBus(), []
    bus.events.subscribe("commit", lambda event: found.append(event.version))

    def failing():
        with bus.batch():
            bus.write()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert found == [1]
    bus.events.close()


def test_deliver_lets_a_handler_of_another_thread_use_the_bus(threads):
    bus = _SmallBus()
    began, written = threading.Event(), threading.Event()
    found = []

    def handler(event):
        if event.version == 1:
            began.set()
            _wait(written)
            with bus.batch():
                bus.read()
        found.append(event.version)

    def other():
        _wait(began)
        bus.write()
        written.set()

    bus.events.subscribe("commit", handler)
    threads.start(other)
    bus.write()
    threads.join()
    bus.events.close()
    assert not bus.events.failures
    assert found == [1, 2, 3]


def test_thread_ends_when_idle_and_is_made_anew(events, monkeypatch):
    monkeypatch.setattr(_events, "_LINGER_S", 0.0)
    handled: list[threading.Thread] = []
    done = threading.Semaphore(0)
    events.subscribe(
        "*", lambda event: (handled.append(threading.current_thread()), done.release())
    )
    for version in (1, 2):
        _post(events, version)
        events.deliver_later()
        _wait(done)
        handled[-1].join(TIMEOUT_S)
        assert not handled[-1].is_alive()
    assert handled[0] is not handled[1]
    assert all(thread.daemon and thread.name == "mmsb-events" for thread in handled)


def test_thread_keeps_no_events_alive_that_nobody_holds(monkeypatch):
    monkeypatch.setattr(_events, "_LINGER_S", 0.0)
    events, done, thread = Events(), threading.Event(), []
    events.subscribe("*", lambda event: (thread.append(threading.current_thread()), done.set()))
    _post(events, 1)
    events.deliver_later()
    _wait(done)
    thread[0].join(TIMEOUT_S)
    gone = threading.Event()
    weakref.finalize(events, gone.set)
    events.forget(events.audience[0])
    del events
    _wait(gone)


# ------------------------------------------------------------------------------------- the end


def test_close_handles_what_was_posted_and_nothing_after_it(events):
    found = []
    events.subscribe("*", lambda event: found.append(event.version))
    audience = events.audience
    _post(events, 1, 2)
    events.close()
    assert found == [1, 2]
    assert not events.audience
    events.post([_changed(3)], audience)
    events.deliver()
    events.close()
    assert found == [1, 2]
    with pytest.raises(mmsb.ClosedError, match="no more events"):
        events.subscribe("*", print)


def test_close_waits_for_the_thread_and_ends_it(events, monkeypatch):
    monkeypatch.setattr(_events, "_LINGER_S", 10 * TIMEOUT_S)
    began = threading.Event()
    found: list[Any] = []

    def handler(event):
        if event.version == 1:
            found.append(threading.current_thread())
            began.set()
            with events._lock:
                assert events._changed.wait_for(lambda: events._closed, TIMEOUT_S)
        found.append(event.version)

    events.subscribe("*", handler)
    _post(events, 1, 2)
    events.deliver_later()
    _wait(began)
    events.close()
    assert not events.failures
    assert found[1:] == [1, 2]
    found[0].join(TIMEOUT_S)
    assert not found[0].is_alive()


@pytest.mark.parametrize("later", [False, True])
def test_close_in_a_handler_returns_and_what_was_posted_is_still_handled(events, later):
    found, done = [], threading.Event()

    def handler(event):
        if event.version == 1:
            audience = events.audience
            events.close()
            events.post([_changed(3)], audience)
        found.append(event.version)
        if event.version == 2:
            done.set()

    events.subscribe("*", handler)
    _post(events, 1, 2)
    events.deliver_later() if later else events.deliver()
    _wait(done)
    events.drain()
    assert found == [1, 2]
    assert not events.failures


def test_close_handles_what_no_thread_could_be_made_for(events, monkeypatch):
    found = []

    def no_thread(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    events.subscribe("*", lambda event: found.append(threading.current_thread()))
    _post(events, 1)
    events.deliver_later()
    assert not found
    events.close()
    assert found == [threading.current_thread()]


def test_close_in_a_forked_child_touches_nothing(events, monkeypatch):
    found = []
    events.subscribe("*", found.append)
    _post(events, 1)
    with monkeypatch.context() as forked:
        forked.setattr(_events.os, "getpid", lambda: -1)
        events.close()
    assert not found
    events.deliver()
    assert len(found) == 1


# -------------------------------------------------------------------------------- kept in an array


def test_event_log_keeps_the_newest_rows_in_order():
    log = EventLog(capacity=3)
    assert log.rows().size == 0
    for version in range(1, 6):
        log(_changed(version))
    log(Event("recomputed", 6, 60, "d", None, True))
    log(Event("device_sync", 7, -70, "copy", "params/w"))
    rows = log.rows()
    assert rows.dtype == EVENT_ROW
    assert rows["serial"].tolist() == [5, 6, 7]
    assert rows["version"].tolist() == [5, 6, 7]
    assert rows["time_ns"].tolist() == [50, 60, -70]
    assert rows["kind"].tolist() == [b"changed", b"recomputed", b"device_sync"]
    assert rows["array"].tolist() == [*map(EventLog.hash_of, ["x", "d", "copy"])]
    assert rows["source"].tolist() == [0, 0, EventLog.hash_of("params/w")]
    assert rows["changed"].tolist() == [-1, 1, -1]
    rows["version"] = 0
    assert log.rows()["version"].tolist() == [5, 6, 7]


def test_event_log_row_holds_every_kind_and_is_laid_out_for_ever():
    assert EVENT_ROW.itemsize == 56
    log = EventLog(capacity=len(KINDS))
    for kind in KINDS:
        log(Event(kind, 2**64 - 1, 2**63 - 1))
    assert log.rows()["kind"].tolist() == [kind.encode() for kind in KINDS]
    assert EventLog.hash_of("params/w") == 0x9359_B125_AF7D_F00D


def test_event_log_written_to_an_array_changes_the_new_rows_alone(bus):
    log = EventLog(capacity=100)
    log(_changed(1))
    assert log.write_to(bus, "events").changed == ("events",)
    assert log.write_to(bus, "events") is None
    log(_changed(2))
    commit = log.write_to(bus, "events")
    assert commit.version == 2
    assert commit.changed_bytes <= EVENT_ROW.itemsize
    np.testing.assert_array_equal(EventLog.rows_of(bus.read("events")), log.rows())
    assert EventLog.rows_of(bus.checkout(version=1)["events"])["version"].tolist() == [1]


def test_event_log_of_another_size_is_refused_and_writes_again_later(bus):
    log = EventLog(capacity=2)
    bus.create("events", nbytes=3)
    log(_changed(1))
    for _ in range(2):
        with pytest.raises(mmsb.StructureError, match="events"):
            log.write_to(bus, "events")
    bus.resize("events", nbytes=2 * EVENT_ROW.itemsize)
    assert log.write_to(bus, "events") is not None


def test_event_log_without_rows_is_refused():
    with pytest.raises(ValueError, match="capacity=0: expected at least 1 row"):
        EventLog(capacity=0)
    with pytest.raises(ValueError, match="size"):
        EventLog.rows_of(np.zeros(57, np.uint8))


class _Eventful:
    """A real bus whose writes tell their events."""

    def __init__(self, bus: mmsb.Bus) -> None:
        self.create, self.read, self._bus = bus.create, bus.read, bus
        self.events = Events()

    def write(self, name: str, value: Any, source: str = "") -> Any:
        commit, audience = self._bus.write(name, value, source=source), self.events.audience
        self.events.post(events_of(commit, audience, {}), audience)
        self.events.deliver()
        return commit


def test_event_logs_written_after_each_commit_end(bus):
    eventful: Any = _Eventful(bus)
    logs = {name: EventLog(capacity=8) for name in ("one", "two")}
    for name, log in logs.items():
        eventful.events.subscribe("*", log)
        eventful.events.subscribe("commit", lambda event, n=name, x=log: x.write_to(eventful, n))
    bus.create("x", nbytes=4)
    for value in (1, 2):
        eventful.write("x", np.full(4, value, np.uint8))
    assert bus.version == 6
    assert not eventful.events.failures
    for name in logs:
        rows = EventLog.rows_of(bus.read(name))
        assert list(zip(rows["version"].tolist(), rows["kind"].tolist(), strict=True)) == [
            (1, b"changed"),
            (1, b"commit"),
            (4, b"changed"),
            (4, b"commit"),
        ]


def test_event_log_is_read_while_it_is_written(threads):
    log, stop = EventLog(capacity=16), threading.Event()

    def reading():
        while not stop.is_set():
            rows = log.rows()
            assert (np.diff(rows["serial"].astype(np.int64)) == 1).all()
            assert (rows["serial"] == rows["version"]).all()

    threads.start(reading)
    try:
        for version in range(1, 2001):
            log(_changed(version))
    finally:
        stop.set()
    threads.join()
    assert log.rows()["version"].tolist() == list(range(1985, 2001))
