"""Calls cut off, in a process of their own, which goes on.

``python -m tests.torture._interrupts HOW BUS COUNT SEED METHOD...``: each method is called so often,
and cut off ``HOW``:

- ``timer``: a timer's signal, whose handler raises `KeyboardInterrupt`, at a random moment of what
  the method is known to take;
- ``inject``: a `KeyboardInterrupt` where a function of the library, or of what it is built on
  (`threading`, `contextlib`, `concurrent.futures`, filelock), is called, or anything returns into
  one: there Python looks whether a signal has come. ``COUNT`` of these places, evenly chosen; 0 for
  all.

``BUS`` is a name of `_methods.BUSES`, with ``+`` for another thread that commits at the same time.
Each method ends with a line of JSON: what was tried, and what was wrong. The traceback of what was
cut off is kept while the bus is looked at, as a notebook keeps it.
"""

import contextlib
import faulthandler
import gc
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmsb_jax as mmsb
from tests.torture._methods import BUSES, METHODS, PATIENCE_S, State, Trial, World

PACKAGE = str(Path(mmsb.__file__).parent)
BELOW = ("/threading.py", "/contextlib.py", "/concurrent/futures/", "/filelock/")
VERIFY_EACH = 50
CUT_SHORT = 3  # exit status: something waits for ever


@dataclass
class Report:
    """What came of one method.

    Attributes:
        inside: how often the call was cut off.
        returned: how often it had returned before.
        found: how often what landed was none of it, some, all.
        faults: what was wrong, and how often.
    """

    method: str
    bus: str
    how: str
    micros: int = 0
    places: int = 0
    inside: int = 0
    returned: int = 0
    found: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def tell(self) -> None:
        print(json.dumps(vars(self)), flush=True)


# ----------------------------------------------------------------------------------- cutting off


class Timer:
    """Raises `KeyboardInterrupt` in the main thread after a time, once."""

    def __init__(self) -> None:
        self._is_armed = False
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, number: int, frame: Any) -> None:
        if self._is_armed:
            self._is_armed = False
            raise KeyboardInterrupt

    def run(self, call: Callable[[], Any], delay_s: float, done: list[Any]) -> None:
        """Call it; what it returns is put into ``done``."""
        try:
            self._is_armed = True
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            done.append(call())
        finally:
            self._is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)


class Injector:
    """Raises `KeyboardInterrupt` at the nth call of, or return into, a function that counts."""

    def __init__(self) -> None:
        self.seen = 0
        self._at = -1

    def run(self, call: Callable[[], Any], at: int, done: list[Any]) -> None:
        self.seen, self._at = 0, at
        try:
            sys.setprofile(self._watch)
            done.append(call())
        finally:
            sys.setprofile(None)

    def _watch(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("c_call", "c_exception"):
            return  # Python looks for signals behind a call of C, not before
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) and not any(part in name for part in BELOW):
            return
        self.seen += 1
        if self.seen - 1 == self._at:
            sys.setprofile(None)
            raise KeyboardInterrupt(f"{event} {getattr(argument, '__name__', '')}".strip())


# ------------------------------------------------------------------------------------- looking


class Looker:
    """A thread of its own that looks: a lock that was not given back lets it wait for ever."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def run(self, look: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(look())
            except BaseException as error:
                future.set_exception(error)

        thread = threading.Thread(target=work, name="looker", daemon=True)
        thread.start()
        try:
            result = future.result(PATIENCE_S)
        except TimeoutError:
            hang("another thread waits for ever for the bus")
        thread.join()
        return result


def hang(place: str) -> None:
    """Say so, and end."""
    _now[0].faults[f"hang: {place} [cut off at {where(_kept[0])}]"] += 1
    _now[0].tell()
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(CUT_SHORT)


_now: list[Report] = [Report("", "", "")]
_kept: list[BaseException | None] = [None]


def where(error: BaseException | None) -> str:
    """The innermost places of the library that an exception came from."""
    if error is None:
        return "not cut off"
    frames = traceback.extract_tb(error.__traceback__)
    inner = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in frames
        if frame.filename.startswith(PACKAGE) or any(part in frame.filename for part in BELOW)
    ]
    return " > ".join(inner[-3:]) + (f" ({error})" if str(error) else "")


class Session:
    """A world, and what is done to it, method by method."""

    def __init__(self, how: str, bus: str, count: int, seed: str, folder: Path) -> None:
        self.how, self.bus, self.count, self.seed = how, bus, count, seed
        self._folders = (folder / f"{n}" for n in itertools.count())
        self._timer, self._injector, self._looker = Timer(), Injector(), Looker()
        self.report = _now[0]
        self.world = self._new_world()

    def _new_world(self) -> World:
        kind = self.bus.rstrip("+")
        folder = next(self._folders)
        folder.mkdir(parents=True)
        path = None if kind == "memory" else folder / "run.mmsb"
        return World(path, BUSES[kind], self.bus.endswith("+"))

    def run(self, name: str) -> None:
        """Try one method, and tell of it."""
        print(json.dumps(name), flush=True)
        self.name, self.rng = name, random.Random(f"{self.seed} {name}")
        self.report = _now[0] = Report(name, self.bus, self.how)
        try:
            self._try()
        except Exception as error:
            self.report.faults[f"the trial itself failed: {error!r} at {where(error)}"] += 1
            traceback.print_exc()
        self.report.tell()

    def _try(self) -> None:
        took = []
        for _ in range(4):  # the first compile
            trial, done = self._make(), []
            begun = time.perf_counter()
            self._run(trial, None, done)
            took.append(time.perf_counter() - begun)
            self._settle(trial, done, None)
            if self.report.faults:
                return  # what is not cut off is wrong already
        self.report.found.clear()
        self.report.micros = round(min(took) * 1e6)
        self.report.places = self._injector.seen
        for number, moment in enumerate(self._moments(sorted(took[1:])[1]), 1):
            self._cut_off(moment)
            if number % VERIFY_EACH == 0:
                self._attempt(lambda: self._looker.run(lambda: self.world.check_past(5)), None)
        self._attempt(lambda: self._looker.run(lambda: self.world.check_past(5)), None)

    def _run(self, trial: Trial, moment: Any, done: list[Any]) -> None:
        if self.how == "timer":
            self._timer.run(trial.call, 1000.0 if moment is None else moment, done)
        else:
            self._injector.run(trial.call, -1 if moment is None else moment, done)

    def _moments(self, typical: float) -> list[Any]:
        if self.how == "timer":
            return [self.rng.uniform(0, 1.05 * typical) for _ in range(self.count)]
        places = range(self.report.places)
        if not self.count or self.count >= len(places):
            return list(places)
        return sorted(self.rng.sample(places, self.count))

    def _make(self) -> Trial:
        self._arm_watch()
        trial = METHODS[self.name](self.world)
        if self.world.beside is not None and not trial.may_close:
            self.world.beside.let(self.rng.randrange(4))
        return trial

    def _arm_watch(self) -> None:
        faulthandler.dump_traceback_later(3 * PATIENCE_S, exit=True)

    def _cut_off(self, moment: Any) -> None:
        trial, done = self._make(), []
        error: BaseException | None = None
        try:
            self._run(trial, moment, done)
        except KeyboardInterrupt as interrupt:
            error = interrupt
        except BaseException as other:
            error = other
            self._fault(f"came out as {other!r:.200}", other)
        self.report.inside += not done
        self.report.returned += bool(done)
        _kept[0] = error
        self._settle(trial, done, error)
        _kept[0] = None

    def _settle(self, trial: Trial, done: list[Any], error: BaseException | None) -> None:
        """Look at what is there, and make sure that all goes on."""
        if self._attempt(lambda: self._look(trial, done, error), error):
            return
        for world in (trial.world, self.world):
            with contextlib.suppress(BaseException):
                self._looker.run(world.end)
        self.world = self._new_world()

    def _attempt(self, run: Callable[[], Any], error: BaseException | None) -> bool:
        try:
            run()
            return True
        except BaseException as wrong:
            told = f"then {wrong!r}"
            if isinstance(wrong, AssertionError):
                line = traceback.extract_tb(wrong.__traceback__)[-1].line
                told = str(wrong) or f"not so: {line}"
            elif not isinstance(wrong, mmsb.MMSBError):
                told += f" at {where(wrong)}"
            self._fault(told[:600], error)
            return False

    def _fault(self, told: str, error: BaseException | None) -> None:
        self.report.faults[f"{told} [cut off at {where(error)}]"] += 1

    def _look(self, trial: Trial, done: list[Any], error: BaseException | None) -> None:
        world, is_done = trial.world, bool(done)
        if world.bus.closed or trial.may_close:
            if not trial.may_close:
                self._fault("the bus is closed", error)
            world.bus.close()
            assert world.bus.closed, "close() does not close"
            if world.path is None:
                self.report.found["closed"] += 1
                self.world = self._new_world()
                return
            world.open()
        state = self._looker.run(lambda: world.look(trial.states, is_done))
        self._count(state, trial)
        trial.finish(is_done, done[0] if done else None)
        if world is self.world:
            self._go_on()

    def _go_on(self) -> None:
        """The next commit works, in this thread."""
        world = self.world
        value = world.values["raw"] ^ 1
        world.do(lambda: world.bus.write("raw", value), {"raw": value})

    def _count(self, state: State, trial: Trial) -> None:
        place = "none" if state is trial.states[0] else "all"
        if state is not trial.states[-1] and place == "all":
            place = "some"
        self.report.found["nothing to land" if len(trial.states) == 1 else place] += 1

    def end(self) -> None:
        """Close, open and compare all."""
        self._arm_watch()

        def close() -> None:
            if self.world.path is not None:
                self.world.reopen()
            self.world.check_past(30)
            self.world.end()

        self._attempt(lambda: self._looker.run(close), None)


def leaks(threads: set[threading.Thread], files: set[str]) -> Counter[str]:
    """What is there that was not before."""
    gc.collect()
    found: Counter[str] = Counter()
    for thread in set(threading.enumerate()) - threads:
        thread.join(5.0)
        if thread.is_alive():
            found[f"left behind: thread {thread.name}"] += 1
    for number in set(os.listdir("/proc/self/fd")) - files:
        with contextlib.suppress(OSError):
            found[f"left behind: {os.readlink(f'/proc/self/fd/{number}')}"] += 1
    return found


def main() -> None:
    how, bus, count, seed, *names = sys.argv[1:]
    faulthandler.enable()
    sys.unraisablehook = lambda unraisable: None  # an interrupt in a finalizer is told there
    shared = Path("/dev/shm")  # syncs cost nothing there
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    try:
        World(None, None).end()  # what is compiled and opened once is no leak
        threads, files = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
        session = Session(how, bus, int(count), seed, folder)
        for name in names:
            session.run(name)
        session.report = _now[0] = Report("all of them, at the end", bus, how)
        session.end()
        del session
        _now[0].faults.update(leaks(threads, files))
        _now[0].tell()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
