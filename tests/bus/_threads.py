"""Threads, interrupts and forks for tests: each ends in time, or the test fails."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PATIENCE_S = 20.0


class Threads:
    """Threads that are waited for, and whose exceptions fail the test."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def start(self, call: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                call()
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a thread waits for ever"
        for error in self._errors:
            raise error


def in_another_thread(call: Callable[[], Any]) -> Any:
    """What ``call`` returns in a thread of its own."""
    found: list[Any] = []
    threads = Threads()
    threads.start(lambda: found.append(call()))
    threads.join()
    return found[0]


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE_S), "what was waited for did not happen"


def soon(found: list[Any], count: int) -> list[Any]:
    """The list, once it holds so many; after a while as it is."""
    ends = time.monotonic() + PATIENCE_S
    while len(found) < count and time.monotonic() < ends:
        time.sleep(0.001)
    return found


@contextlib.contextmanager
def interrupted_at(name: str, event: str = "call") -> Iterator[Any]:
    """A KeyboardInterrupt at the first call of the function ``name``, or at its return."""

    def local(frame: Any, happened: str, argument: Any) -> Any:
        if happened == event:
            sys.settrace(None)
            raise KeyboardInterrupt
        return local

    def trace(frame: Any, happened: str, argument: Any) -> Any:
        if frame.f_code.co_name != name:
            return None
        return local(frame, happened, argument) if event == "call" else local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt) as kept:
            yield kept
    finally:
        sys.settrace(before)


def in_child(call: Callable[[], Any]) -> str:
    """What ``call`` raises in a forked child; 'nothing' for nothing."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(int(PATIENCE_S))
        try:
            call()
            said = "nothing"
        except BaseException as error:
            said = type(error).__name__
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 1000).decode()
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child hangs"
    return said
