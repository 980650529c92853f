"""Signals to the process: who is told of one, at once, wherever the main thread is.

Python runs the handler of a signal between two lines of the main thread: not while that is in a
compilation, which may take longer than the process has. But a byte is written to a file descriptor
by C code, and a thread that waits for it is told at once.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any, Protocol

from mmsb_jax._store.files.threads import start_thread

_FROM_HANDLER = 0x80


class SignalListener(Protocol):
    """Who is told of a signal.

    Attributes:
        signals: which it wants to hear of.
        grace_s: how long the handler that was there before waits for it.
    """

    @property
    def signals(self) -> frozenset[int]: ...

    @property
    def grace_s(self) -> float: ...

    @property
    def owes(self) -> bool:
        """Whether it has something left to do."""
        ...

    def hear(self) -> None:
        """Do what is to be done, in a thread of its own; `owes` says whether some is left."""
        ...

    def pass_on(self) -> None:
        """Hear that the handler before is called now, in the main thread."""
        ...


class SignalWatch:
    """Tells listeners, and then the handler that was there before; one a process.

    That handler, which ends the process where there is none, is called in the main thread once
    every listener has done what it has to do, or its time is over.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._listeners: list[SignalListener] = []
        self._before: dict[int, Any] = {}
        self._handled: set[int] = set()
        self._ready: set[int] = set()
        self._sent_again: set[int] = set()
        self._owing: dict[int, tuple[float, list[SignalListener]]] = {}
        self._fd_before = -1
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def add(self, listener: SignalListener) -> None:
        """Tell a listener of its signals from now on. Called in the main thread.

        Raises:
            ValueError: a signal that code in C handles, whose handler cannot be called from here.
        """
        for number in listener.signals:
            if signal.getsignal(number) is None:
                name = signal.Signals(number).name
                raise ValueError(
                    f"{name} has a handler that is not Python's, and would be lost. Set it behind "
                    f"the bus, or leave {name} out of save=."
                )
        self._listeners.append(listener)
        if self._ends is None:
            self._begin()
        for number in listener.signals:
            if signal.getsignal(number) != self._handle:
                self._before[number] = signal.getsignal(number)
                signal.signal(number, self._handle)

    def leave_to_parent(self) -> None:
        """In a forked child: tell nobody, and leave to the parent what is its own."""
        ends, self._ends = self._ends, None
        self._pid = os.getpid()
        self._listeners, self._owing = [], {}
        self._handled, self._ready, self._sent_again = set(), set(), set()
        if ends is not None:
            with contextlib.suppress(ValueError):
                signal.set_wakeup_fd(-1)
            for end in ends:
                end.close()

    def _begin(self) -> None:
        self._ends = ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        start_thread(lambda: self._listen(ours), "mmsb-signals")

    def remove(self, listener: SignalListener) -> None:
        """Tell it no more; handlers that nobody needs are put back, where this is the main thread.

        Elsewhere they stay, and do nothing but call the one before.
        """
        self.done(listener)
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)
        if threading.current_thread() is not threading.main_thread():
            return
        wanted = frozenset[int]().union(*(each.signals for each in self._listeners))
        for number in self._before.keys() - wanted:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, self._before.pop(number))
        if not self._listeners:
            self._end()

    def _end(self) -> None:
        if self._ends is None:
            return
        _, theirs = self._ends
        now = signal.set_wakeup_fd(self._fd_before)
        if now != theirs.fileno():  # another has come since, and may pass bytes on to this
            signal.set_wakeup_fd(now)
            return
        self._ends = None
        theirs.close()  # the thread ends, and closes the other

    def done(self, listener: SignalListener) -> None:
        """A listener has done what it had to do. Any thread may call it."""
        for number, (_, owing) in list(self._owing.items()):
            with contextlib.suppress(ValueError):
                owing.remove(listener)
            if not owing and self._owing.pop(number, None) is not None:
                self._pass_on(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, between any two of its lines: takes no lock, waits for nothing."""
        is_wanted = any(number in each.signals for each in self._listeners)
        if not is_wanted or number in self._ready:
            self._ready.discard(number)
            self._call_before(number, frame)
        elif self._ends is not None:
            self._handled.add(number)
            with contextlib.suppress(OSError):  # another's file descriptor may have got the byte
                self._ends[1].send(bytes([number | _FROM_HANDLER]))

    def _call_before(self, number: int, frame: FrameType | None) -> None:
        self._tell_of_end(number)
        before = self._before.get(number, signal.SIG_DFL)
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _tell_of_end(self, number: int) -> None:
        for each in list(self._listeners):
            if number in each.signals:
                each.pass_on()

    def _listen(self, ours: socket.socket) -> None:
        """In a thread: until the other end is closed."""
        with ours:
            while True:
                ours.settimeout(self._time_left())
                try:
                    told = ours.recv(1)
                except TimeoutError:
                    self._give_up_waiting()
                    continue
                if not told:
                    return
                self._hear(told[0], ours)

    def _hear(self, told: int, ours: socket.socket) -> None:
        number, is_from_handler = told & ~_FROM_HANDLER, told & _FROM_HANDLER
        if not is_from_handler:
            if self._fd_before >= 0:
                with contextlib.suppress(OSError):
                    os.write(self._fd_before, bytes([number]))
            if number in self._sent_again:
                self._sent_again.discard(number)
                return
        if number in self._owing or number in self._ready:
            return
        due = [each for each in self._listeners if number in each.signals]
        if not due:
            if is_from_handler:  # it was left to those who have gone since
                self._pass_on(number)
            return
        begun = time.monotonic()
        for each in due:
            each.hear()
        self._drain(ours)
        owing = list(due)
        self._owing[number] = begun + max(each.grace_s for each in due), owing
        for each in due:
            if not each.owes or each not in self._listeners:
                self.done(each)

    def _drain(self, ours: socket.socket) -> None:
        """Forget what was told again meanwhile."""
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            ours.recv(4096)

    def _time_left(self) -> float | None:
        ends = [until for until, _ in list(self._owing.values())]
        return max(min(ends) - time.monotonic(), 0.001) if ends else None

    def _give_up_waiting(self) -> None:
        for number, (until, _) in list(self._owing.items()):
            if until <= time.monotonic() and self._owing.pop(number, None) is not None:
                self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        """Let the main thread call the handler before."""
        was_handled = number in self._handled
        self._handled.discard(number)
        if signal.getsignal(number) == self._handle:
            self._ready.add(number)
            self._sent_again.add(number)
        else:
            self._tell_of_end(number)
            if not was_handled:  # one that came later: it was called
                return
        signal.pthread_kill(threading.main_thread().ident or 0, number)


watch = SignalWatch()
"""That of the process: a signal has one handler."""
os.register_at_fork(after_in_child=watch.leave_to_parent)
