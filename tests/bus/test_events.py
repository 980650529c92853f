"""Events: what is told of a commit, and to whom; and handlers that fail."""

import contextlib
import dataclasses
import doctest
import functools
import logging
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.events import event_log, events, kinds
from mmsb_jax._bus.events.kinds import EVENT_KINDS
from tests.bus._threads import in_another_thread
from tests.graph._graphs import Compiled, F

GRAPH_PAGE = Path(__file__).parents[2] / "docs" / "graph.md"
TREE = {"w": F(1, 2)}


@pytest.mark.parametrize("module", [events, kinds, event_log])
def test_events_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted >= 1
    assert not result.failed


# ------------------------------------------------------------------------------ what is told


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return Compiled()


@pytest.fixture
def full_bus(bus, compiled) -> mmsb.Bus:
    """A bus on which `commit_everything` does one of everything; names are made backwards."""
    compiled.lend(bus)
    for name in ("z", "y", "x", "size2", "size1", "plot2", "plot1", "patched", "late", "gone"):
        bus.create(name, (2,))
    for name in ("early", "anew"):
        bus.create(name, (2,))
    with bus.batch():
        bus.derive("second", ["x"], _double)
        bus.derive("first", ["second"], _is_large)
        for parent, child, kind in (
            ("y", "plot1", "control"),
            ("x", "plot2", "control"),
            ("z", "early", "device_sync"),
            ("y", "late", "device_sync"),
            ("x", "late", "device_sync"),
            ("x", "late", "compiler"),
            ("x", "early", "compiler"),
        ):
            bus.link(parent, child, kind=kind)
    return bus


def _double(x: Any) -> Any:
    return x * 2


def _is_large(x: Any) -> Any:
    return x > 100


def commit_everything(bus: mmsb.Bus) -> mmsb.Commit:
    region = bus.layout.region("patched")
    new = np.full(region.nbytes, 7, np.uint8)
    delta = mmsb.Delta.from_bytes(region, new > 0, new)
    with bus.batch():
        for name in "zyx":
            bus.write(name, F(1, 1))
        bus.apply(delta)
        for name in ("size2", "size1"):
            bus.resize(name, (3,))
        for name in ("gone", "anew"):
            bus.delete(name)
        for name in ("made", "anew"):
            bus.create(name, (3,))
    return next(bus.log(since=bus.version))


def test_events_of_a_commit_come_in_the_documented_order(full_bus):
    found = []
    full_bus.subscribe("*", found.append)
    commit = commit_everything(full_bus)
    assert [(e.kind, e.array, e.source, e.changed) for e in found] == [
        ("deleted", "anew", None, None),
        ("deleted", "gone", None, None),
        ("created", "anew", None, None),
        ("created", "made", None, None),
        ("resized", "size1", None, None),
        ("resized", "size2", None, None),
        ("delta", None, None, None),
        ("changed", "patched", None, None),
        ("changed", "second", None, None),
        ("changed", "x", None, None),
        ("changed", "y", None, None),
        ("changed", "z", None, None),
        ("stale", "plot1", None, None),
        ("stale", "plot2", None, None),
        ("recomputed", "second", None, True),
        ("recomputed", "first", None, False),
        ("device_sync", "early", "z", None),
        ("device_sync", "late", "x", None),
        ("device_sync", "late", "y", None),
        ("compiler", "early", "x", None),
        ("compiler", "late", "x", None),
        ("commit", None, None, None),
    ]
    assert {(e.version, e.time_ns) for e in found} == {(commit.version, commit.time_ns)}
    assert all(event.commit == commit for event in found)
    assert list(dict.fromkeys(event.kind for event in found)) == list(EVENT_KINDS)


def test_events_of_a_plain_commit_are_what_it_changed(bus):
    found = []
    bus.commit({"b": F(1), "a": F(1), "c": F(1)})
    bus.subscribe("*", lambda event: found.append((event.kind, event.names)))
    bus.commit({"b": F(2), "a": F(2), "c": F(1)})
    bus.commit({"b": F(2), "a": F(2), "c": F(1)})
    assert found == [
        ("changed", ("a",)),
        ("changed", ("b",)),
        ("commit", ("a", "b")),
        ("commit", ()),
    ]


def test_event_is_immutable_and_has_no_dict():
    event = mmsb.Event("changed", 1, 10, "x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.version = 2  # pyright: ignore
    assert not hasattr(event, "__dict__")
    assert event == mmsb.Event("changed", 1, 10, "x")
    assert event != mmsb.Event("changed", 2, 10, "x")


def test_event_names_are_its_array_or_what_its_commit_changed(bus):
    commit = bus.commit({"a": F(1), "b": F(2)})
    assert mmsb.Event("stale", 1, 0, "x", commit=commit).names == ("x",)
    assert mmsb.Event("commit", 1, 0, commit=commit).names == ("a", "b")
    assert mmsb.Event("delta", 1, 0).names == ()


def test_page_names_the_kinds_in_their_order():
    page = GRAPH_PAGE.read_text()
    (table,) = re.findall(r"^\| kind \| one for each \|\n\|.*\n((?:\|.*\n)+)", page, re.M)
    told = [row.split("|")[1] for row in table.splitlines()]
    assert re.findall(r"`(\w+)`", " ".join(told)) == list(EVENT_KINDS)


def test_subscribe_says_what_kinds_there_are():
    said = re.findall(r'``"(\w+)"``', mmsb.Bus.subscribe.__doc__ or "")
    assert said == list(EVENT_KINDS)


# --------------------------------------------------------------------------------- who listens


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """The kinds of which events are made, one after the other."""
    found = []

    def note(kind, rows):
        return lambda outcome: found.append(kind) or rows(outcome)

    for kind, rows in list(EVENT_KINDS.items()):
        monkeypatch.setitem(EVENT_KINDS, kind, note(kind, rows))
    return found


def test_events_are_made_as_long_as_somebody_listens_and_of_wanted_kinds_alone(bus, made):
    bus.commit(TREE)
    assert not made
    with bus.subscribe("stale", str), bus.subscribe(["commit", "resized"], str):
        bus.commit(TREE)
        assert made == ["resized", "stale", "commit"]
    bus.commit(TREE)
    assert made == ["resized", "stale", "commit"]


async def _async_handler(event: mmsb.Event) -> None: ...


class _AsyncCall:
    async def __call__(self, event: mmsb.Event) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("change", print), ValueError, f"kind='change': expected .* {', '.join(EVENT_KINDS)}$"),
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
def test_subscribe_with_what_cannot_be_is_refused(bus, made, arguments, error, message):
    with pytest.raises(error, match=message):
        bus.subscribe(*arguments)
    bus.commit(TREE)
    assert not made


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("stale", ["stale"]),
        (("commit", "deleted"), ["deleted", "commit"]),
        ({"changed"}, ["changed"]),
        ("*", list(EVENT_KINDS)),
        (["commit", "*"], list(EVENT_KINDS)),
    ],
)
def test_subscription_is_called_with_its_kinds_alone(full_bus, kind, told):
    found = []
    with full_bus.subscribe(kind, lambda event: found.append(event.kind)) as subscription:
        commit_everything(full_bus)
    assert list(dict.fromkeys(found)) == told
    assert subscription.kinds == set(told)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("params/**", ["params/w", "1"]),
        ("params", ["params/w", "1"]),
        ("x", ["x", "2"]),
        (["x", "y"], ["x", "y", "2"]),
        (("par*/?",), ["params/w", "1"]),
        ("nothing", []),
        (lambda event: event.array == "y", ["y"]),
        (lambda event: event.kind == "commit", ["1", "2", "3"]),
        (None, ["params/w", "1", "x", "y", "2", "3"]),
    ],
)
def test_subscription_where_selects_by_arrays_or_by_a_function(bus, where, told):
    found = []
    tree = {"params": {"w": F(0)}, "x": F(0), "y": F(0)}
    bus.commit(tree)
    kinds = ["changed", "commit"]
    bus.subscribe(kinds, lambda event: found.append(event.array or event.commit.source), where)
    bus.commit(tree | {"params": {"w": F(1)}}, source="1")
    for source in "23":
        bus.commit({"params": {"w": F(1)}, "x": F(2), "y": F(2)}, source=source)
    assert found == told


def test_subscriptions_are_called_event_by_event_in_their_order(bus):
    found = []
    for name in "ba":
        bus.subscribe("changed", lambda event, name=name: found.append((event.array, name)))
    bus.commit({"y": F(1), "x": F(1)})
    assert found == [("x", "b"), ("x", "a"), ("y", "b"), ("y", "a")]


def test_subscription_made_during_a_commit_sees_the_next_one_first(bus):
    early, late = [], []

    def traced(w):
        in_another_thread(lambda: bus.subscribe("commit", late.append))
        return w

    bus.commit(TREE)
    bus.subscribe("commit", early.append)
    bus.derive("d", ["w"], traced)
    bus.commit(TREE)
    assert [event.version for event in early] == [2, 3]
    assert [event.version for event in late] == [3]


def test_subscription_made_in_a_handler_sees_later_commits(bus):
    found = []

    def first(event):
        if event.version == 1:
            bus.commit(TREE)

    def second(event):
        if event.version == 1:
            bus.subscribe("commit", lambda later: found.append(later.version))
            bus.commit(TREE)

    bus.subscribe("commit", first)
    bus.subscribe("commit", second)
    assert bus.commit(TREE).version == 1
    assert found == [3]


def test_cancel_in_a_handler_ends_its_calls_and_those_of_others(bus, made):
    found = []

    def first(event):
        found.append(("first", event.version))
        bus.commit(TREE)
        subscriptions[0].cancel()
        subscriptions[0].cancel()
        subscriptions[2].cancel()

    subscriptions = [
        bus.subscribe("commit", first),
        bus.subscribe("commit", lambda event: found.append(("second", event.version))),
        bus.subscribe("*", lambda event: found.append(("third", event.version))),
    ]
    bus.create("x", (2,))
    bus.write("x", F(1, 1))
    made.clear()
    bus.write("x", F(2, 2))
    assert made == ["commit"]
    assert found == [("third", 1)] * 2 + [("first", 1), ("second", 1), ("second", 2), ("second", 3)]
    assert [each.is_active for each in subscriptions] == [False, True, False]
    assert "ended" in repr(subscriptions[0])


def test_cancel_at_the_end_of_a_context_drops_what_waits(bus):
    found = []
    with contextlib.ExitStack() as stack:
        bus.subscribe("commit", lambda event: stack.close())
        stack.enter_context(bus.subscribe("commit", found.append))
        bus.commit(TREE)
    assert not found


# ---------------------------------------------------------------------------------- failures


def test_failing_handler_is_reported_and_stops_no_other(bus, caplog):
    found = []

    def broken(event):
        raise ValueError(f"no {event.version}")

    bus.subscribe("changed", broken)
    bus.subscribe("changed", lambda event: found.append(event.version))
    with caplog.at_level(logging.ERROR, "mmsb_jax"):
        for version in (1, 2):
            assert bus.commit({"w": F(version)}).version == version
    assert found == [1, 2]
    assert bus.stats().failed_handlers == 2
    assert [record.name for record in caplog.records] == ["mmsb_jax"] * 2
    assert "broken" in caplog.records[0].getMessage()
    assert "failed on 'changed' of version 1" in caplog.records[0].getMessage()
    assert "ValueError: no 1" in caplog.text


def test_failing_where_is_reported_and_selects_nothing(bus, caplog):
    found = []
    bus.subscribe("commit", found.append, lambda event: event.nothing)
    bus.commit(TREE)
    assert not found
    assert bus.stats().failed_handlers == 1
    assert "AttributeError" in caplog.text


def test_failures_are_bounded_and_keep_no_frames_alive(bus, monkeypatch):
    class Large:
        pass

    kept = []

    def broken(event):
        large = Large()
        kept.append(weakref.ref(large))
        raise ValueError(f"no {event.version}")

    monkeypatch.setattr(logging.getLogger("mmsb_jax"), "disabled", True)  # pytest keeps what it has
    bus.subscribe("commit", broken)
    for _ in range(100):
        bus.commit(TREE)
    assert bus.stats().failed_handlers == 32
    failures = bus._events.failures
    assert [event.version for event, _ in failures] == list(range(69, 101))
    assert re.search("broken.*ValueError: no 100", failures[-1][1])
    assert not [ref for ref in kept if ref() is not None]


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class _FailingLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the disk is full")


def test_failing_report_stops_no_handler(bus):
    found = []

    def broken(event):
        raise _Unprintable

    bus.subscribe("commit", broken)
    bus.subscribe("commit", found.append)
    log = _FailingLog()
    logging.getLogger("mmsb_jax").addHandler(log)
    try:
        bus.commit(TREE)
    finally:
        logging.getLogger("mmsb_jax").removeHandler(log)
    assert len(found) == 1
    assert "_Unprintable" in bus._events.failures[0][1]
