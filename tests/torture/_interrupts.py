"""Calls cut off by an interrupt, in a process of their own, which goes on.

``python -m tests.torture._interrupts HOW BUS COUNT SEED METHOD...``: each method is called so
often, and cut off ``HOW``:

- ``timer``: a timer's signal, whose handler raises `KeyboardInterrupt`, at a random moment of what
  the method is known to take;
- ``inject``: a `KeyboardInterrupt` where a function of the library, or of what it is built on
  (`threading`, `contextlib`, `concurrent.futures`), is called, or anything returns into
  one: there Python looks whether a signal has come. ``COUNT`` of these places, evenly chosen; 0 for
  all.

``BUS`` is a name of `_methods.BUSES`, with ``+`` for another thread that commits at the same time.
The traceback of what was cut off is kept while the bus is looked at, as a notebook keeps it.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.torture._methods import METHODS, Trial
from tests.torture._session import BELOW, PACKAGE, Session, run_methods


class Interrupted(Session):
    """Calls end by a `KeyboardInterrupt`."""

    def wrong_with(self, error: BaseException) -> str | None:
        # JAX makes an error of its own of one that comes while it compares what it has compiled,
        # and Python a SystemError where C code, such as NumPy's, goes on behind one.
        of_c = isinstance(error, SystemError) and isinstance(error.__cause__, KeyboardInterrupt)
        is_told = isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error) or of_c
        return None if is_told else f"came out as {error!r:.200}"


class Timed(Interrupted):
    """Raised by a timer's signal."""

    def __init__(self, *arguments: Any) -> None:
        self._is_armed = False
        signal.signal(signal.SIGALRM, self._ring)
        super().__init__(*arguments)

    def _ring(self, number: int, frame: Any) -> None:
        if self._is_armed:
            self._is_armed = False
            raise KeyboardInterrupt

    def cut(self, trial: Trial, moment: Any, done: list[Any]) -> None:
        try:
            self._is_armed = moment is not None
            signal.setitimer(signal.ITIMER_REAL, moment or 0.0)
            done.append(trial.call())
        finally:
            self._is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def moments(self, took: Sequence[float]) -> list[Any]:
        return [self.rng.uniform(1e-6, 1.05 * min(took)) for _ in range(self.count)]


class Injected(Interrupted):
    """Raised at a call, or a return."""

    def cut(self, trial: Trial, moment: Any, done: list[Any]) -> None:
        self._seen, self._at = 0, moment
        call: Callable[[], Any] = trial.call
        try:
            sys.setprofile(self._watch)
            done.append(call())
        finally:
            sys.setprofile(None)
        self.report.places = max(self.report.places, self._seen)

    def _watch(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("c_call", "c_exception"):
            return  # Python looks for signals behind a call of C, not before
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) and not any(part in name for part in BELOW):
            return
        self._seen += 1
        if self._seen - 1 == self._at:
            sys.setprofile(None)
            raise KeyboardInterrupt(f"{event} {getattr(argument, '__name__', '')}".strip())

    def moments(self, took: Sequence[float]) -> list[Any]:
        places = range(self.report.places)
        if not self.count or self.count >= len(places):
            return list(places)
        return sorted(self.rng.sample(places, self.count))


HOW = {"timer": Timed, "inject": Injected}


def main() -> None:
    how, bus, count, seed, *names = sys.argv[1:]
    kind = HOW[how]
    run_methods(lambda folder: kind(METHODS, how, bus, int(count), seed, folder), how, bus, names)


if __name__ == "__main__":
    main()
