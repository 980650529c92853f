"""Events: what a commit did, told to those who asked, once it has landed.

**Order.** One handler of a bus runs at a time: by version, then event, then subscription. A
subscription sees whole commits, those that begin after it was made.

**Thread.** Handlers run on the thread of the call that committed, once it has let go of the bus and
before it returns. It first handles what waits from earlier commits. If another thread is in a
handler just then it does not wait for that, which might wait for it: that thread, or the thread
``mmsb-events``, handles them too. What is committed with ``wait=False`` is handled by the
thread ``mmsb-events``; so is what is left when Ctrl-C ends a call. A commit made by a handler, or
while the thread holds the bus (in a callback of it), returns before its events are handled: they
follow those in hand, or come when the bus is let go, on the same thread.

A handler may call every method of the bus, and may wait for a thread that commits. It must not take
a lock that some thread holds while it closes the bus: `close` waits for handlers.
"""

import contextlib
import inspect
import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import ClosedError
from mmsb_jax._base.patterns import matcher
from mmsb_jax._bus.events.kinds import EVENT_KINDS, CommitOutcome, Event, events_of
from mmsb_jax._store.files.threads import start_thread

_FAILURES_KEPT = 32
_logger = logging.getLogger("mmsb_jax")
_LINGER_S = 1.0  # a thread that waits for ever would keep alive a bus that nobody holds


class Subscription:
    """A handler that is called with events until it is cancelled, or the bus closes.

    A context manager cancels it at its end; dropping the object does not.

    Attributes:
        kinds: the kinds of events that it is called with.

    >>> import mmsb_jax as mmsb
    >>> bus = mmsb.open()
    >>> with bus.subscribe("changed", print, where="params/**") as subscription:
    ...     subscription
    <Subscription of changed: print>
    >>> subscription.is_active
    False
    """

    def __init__(self, events: "Events", kind: Any, handler: Any, where: Any) -> None:
        if not callable(handler) or any(
            map(inspect.iscoroutinefunction, (handler, type(handler).__call__))
        ):
            raise TypeError(f"handler={show(handler)}: expected a function of an Event, not async")
        self.kinds = _checked_kinds(kind)
        self._is_cancelled = False
        self._selects = _selector(where)
        self._events = events
        self._handler = handler
        self._name = getattr(handler, "__qualname__", type(handler).__qualname__)

    def cancel(self) -> None:
        """Begin no further call; one under way in another thread goes on. May be repeated."""
        self._is_cancelled = True
        self._events.forget(self)

    @property
    def is_active(self) -> bool:
        """Whether it may still be called."""
        return not (self._is_cancelled or self._events.is_over)

    def handle(self, event: Event) -> None:
        """Call the handler, if this is active and selects the event."""
        if not self._is_cancelled and (self._selects is None or self._selects(event)):
            self._handler(event)

    def __enter__(self) -> "Subscription":
        return self

    def __exit__(self, *exception: object) -> None:
        self.cancel()

    def __repr__(self) -> str:
        state = "" if self.is_active else ", ended"
        return f"<Subscription of {', '.join(sorted(self.kinds))}: {self._name}{state}>"


def _checked_kinds(kind: Any) -> frozenset[str]:
    kinds = [kind] if isinstance(kind, str) or not isinstance(kind, Iterable) else list(kind)
    if not kinds or not all(
        isinstance(name, str) and name in ("*", *EVENT_KINDS) for name in kinds
    ):
        raise ValueError(f"kind={show(kind)}: expected '*' or some of {', '.join(EVENT_KINDS)}")
    return frozenset(EVENT_KINDS) if "*" in kinds else frozenset(kinds)


def _selector(where: Any) -> Callable[[Event], Any] | None:
    """The test that ``where`` asks for; None where every event passes."""
    if where is None or callable(where):
        return where
    patterns = [where] if isinstance(where, str) else where
    if not isinstance(patterns, Sequence) or not patterns or set(map(type, patterns)) != {str}:
        raise TypeError(
            f"where={show(where)}: expected patterns such as 'params/**', or a function of an Event"
        )
    matches = matcher(patterns).fullmatch
    return lambda event: any(map(matches, event.names))


class _Thread(threading.local):
    """What is known of one thread.

    Attributes:
        owed: the newest version that it has posted and not seen handled yet; 0 for nothing.
        is_handling: whether it calls handlers now.
    """

    owed = 0
    is_handling = False


class Events:
    """The events of one bus: who listens, what waits to be handled, and whose turn it is.

    A commit takes ``audience`` when it begins; if that is not empty, it posts what it did, under
    the lock that orders commits. ``with events, bus_lock: …`` around it delivers once
    the lock is free, and leaves Ctrl-C no moment in which the lock is taken and not given back.

    Args:
        bus_lock: the lock that handlers take when they use the bus.

    Attributes:
        audience: who listens; a tuple that is replaced, never changed.
        failures: the newest 32 exceptions in handlers: (event, handler and exception).
    """

    def __init__(self, bus_lock: "threading.RLock | None" = None) -> None:
        self.audience: tuple[Subscription, ...] = ()
        self.failures: deque[tuple[Event, str]] = deque(maxlen=_FAILURES_KEPT)
        self._bus_lock = threading.Condition(bus_lock)
        self._at_work: int | None = None  # the thread that calls handlers
        self._handling = 0  # the version that it calls them about
        self._lock = threading.RLock()  # taken by itself: Ctrl-C can leak a condition's `with`
        self._changed = threading.Condition(self._lock)
        self._calls: deque[tuple[Subscription, Event]] = deque()
        self._newest = self._left = 0
        self._here = _Thread()
        self._thread: object | None = None  # stands for ``mmsb-events``, as long as that goes on
        self._closed = False
        self._pid = os.getpid()

    def subscribe(
        self, kind: str | Iterable[str], handler: Callable[[Event], Any], where: Any = None
    ) -> Subscription:
        """Call ``handler`` with the events of the commits that begin from now on.

        Args:
            kind: one of ``EVENT_KINDS``, several, or ``"*"``.
            handler: called with an `Event`. An exception in it is logged (``mmsb_jax``) and kept
                in ``failures``; it stops neither the commit nor other handlers.
            where: patterns (``params/**``) for the array, or for those that the commit changed
                where the event names none; or a function of the event.
        """
        subscription = Subscription(self, kind, handler, where)
        with self._lock:
            if self._closed:
                raise ClosedError("this bus is closed: it has no more events")
            self.audience = (*self.audience, subscription)
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Take a subscription out of the audience."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self.audience = tuple(each for each in self.audience if each is not subscription)

    def post(self, outcome: CommitOutcome, audience: Sequence[Subscription]) -> None:
        """Queue the events of one commit for who listened when it began; versions in order.

        Those of a version that was posted are not posted again.
        """
        events = events_of(outcome, frozenset[str]().union(*(each.kinds for each in audience)))
        calls = [(each, event) for event in events for each in audience if event.kind in each.kinds]
        with self._lock:
            if calls and not self._closed:
                version = calls[-1][1].version
                if version > max(self._newest, self._last_queued()):
                    self._calls.extend(calls)
                self._newest, self._here.owed = max(self._newest, version), version

    def _last_queued(self) -> int:
        """The version of the last call: an interrupt may have come before that was noted."""
        with contextlib.suppress(IndexError):  # it may be taken meanwhile
            return self._calls[-1][1].version
        return 0

    def deliver(self) -> None:
        """Return once what this thread posted has been handled, or another thread is at it.

        Inside a handler, and while this thread holds the bus, at once: who called the handler goes
        on to it, who lets go of the bus delivers it. It waits for no other thread: that could be in
        a handler which waits for this one.
        """
        here = self._here
        if not here.owed and (self._thread is not None or not self._calls):
            return
        if self._is_here() or is_held(self._bus_lock) or os.getpid() != self._pid:
            return
        if self._thread is None:
            here.owed = max(here.owed, self._left)
        try:
            if self._handle(Exception):
                here.owed = 0
            else:
                self.deliver_later()
        except BaseException:
            if self._at_work == threading.get_ident():
                self._at_work = None
            self.deliver_later()
            raise

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *exception: object) -> None:
        self.deliver()

    def deliver_later(self) -> None:
        """Leave what this thread posted to the thread ``mmsb-events``."""
        with self._lock:
            self._left, self._here.owed = max(self._left, self._here.owed), 0
            self._changed.notify_all()
            if self._thread is None and self._has_call(self._left):
                is_begun, thread = False, object()
                try:
                    self._thread = thread
                    is_begun = start_thread(self._work, "mmsb-events")
                finally:  # where there is none, whoever delivers next handles what is left too
                    self._thread = thread if is_begun else None

    def drain(self) -> None:
        """Return once all that was posted has been handled; inside a handler at once."""
        if self._is_here() or is_held(self._bus_lock) or os.getpid() != self._pid:
            return
        newest = self._newest
        while self._is_due(newest):
            self._here.owed = newest
            self.deliver()
            with self._lock:
                while self._is_elsewhere and self._is_due(newest):
                    self._changed.wait(_LINGER_S)

    def _is_due(self, version: int) -> bool:
        """Whether a handler is called about ``version``, or one before, or is to be."""
        return (self._is_elsewhere and self._handling <= version) or self._has_call(version)

    @property
    def _is_elsewhere(self) -> bool:
        """Whether another thread calls handlers now."""
        return self._at_work not in (None, threading.get_ident())

    def close(self) -> None:
        """Take no more events, let go of the subscriptions, and drain."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed, self.audience = True, ()
            self._changed.notify_all()
        self.drain()

    @property
    def is_over(self) -> bool:
        """Whether no handler will be called any more."""
        if os.getpid() != self._pid:
            return True
        return self._closed and not self._calls and self._at_work is None

    def _is_here(self) -> bool:
        """Whether this thread is inside a handler."""
        return self._here.is_handling and self._at_work == threading.get_ident()

    def _handle(self, caught: type[BaseException]) -> bool:
        """Call handlers until what this thread posted has been handled.

        Returns:
            False where another thread calls them now; nothing was done then.
        """
        me = threading.get_ident()
        with self._lock:
            if self._at_work not in (None, me):  # of this thread's own, an interrupt has left it
                return False
            self._at_work = me
        try:
            try:
                self._here.is_handling = True
                self._call_handlers(caught)
            finally:
                self._here.is_handling = False
        finally:
            self._at_work = None
            with self._lock:
                self._changed.notify_all()
        return True

    def _call_handlers(self, caught: type[BaseException]) -> None:
        until = 0
        # A handler may commit; then this thread owes more.
        while self._has_call(until := max(until, self._here.owed)):
            self._handling = self._calls[0][1].version
            subscription, event = self._calls.popleft()
            try:
                subscription.handle(event)
            except caught as error:
                self._report(subscription, event, error)

    def _report(self, subscription: Subscription, event: Event, error: BaseException) -> None:
        # As text: an exception keeps its frames alive, and the arrays in them.
        (*_, said) = traceback.format_exception_only(error)
        self.failures.append((event, f"{subscription!r}: {said.strip()}"))
        about = (subscription, event.kind, event.version)
        with contextlib.suppress(Exception):  # of a logger that fails; `failures` has it
            _logger.error("%r failed on %r of version %d", *about, exc_info=error)

    def _has_call(self, version: int) -> bool:
        """Whether a call waits that is about ``version`` or one before."""
        with contextlib.suppress(IndexError):  # the last one may be taken meanwhile
            return self._calls[0][1].version <= version
        return False

    def _work(self) -> None:
        while self._wait_for_work():
            self._handle(BaseException)

    def _wait_for_work(self) -> bool:
        with self._lock:
            self._changed.wait_for(self._has_turn, _LINGER_S)
            self._here.owed = self._left
            if self._has_call(self._left):
                return True
            self._thread = None
            return False

    def _has_turn(self) -> bool:
        """Whether ``mmsb-events`` may begin, or has nothing to wait for."""
        if self._has_call(self._left):
            return self._at_work is None
        return self._closed


def is_held(condition: threading.Condition) -> bool:
    """Whether this thread holds the condition's lock: only who does may notify."""
    try:
        condition.notify(0)
    except RuntimeError:
        return False
    return True
