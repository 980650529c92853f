"""A bus in a process of its own, whose calls are cut off one after the other, and which goes on.

`Session` knows how to look at what is left; how a call is cut off is what its subclasses say. Each
method ends with a line of JSON: what was tried, and what was wrong.
"""

import contextlib
import faulthandler
import gc
import itertools
import json
import os
import random
import re
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmsb_jax as mmsb
from tests.torture._methods import BUSES, PATIENCE_S, State, Trial, World

PACKAGE = str(Path(mmsb.__file__).parent)
BELOW = ("/threading.py", "/contextlib.py", "/concurrent/futures/")
VERIFY_EACH = 40
CUT_SHORT = 3  # exit status: something waits for ever


@dataclass
class Report:
    """What came of one method.

    Attributes:
        how: how it was cut off.
        micros: what a call takes.
        places: how many places it has to be cut off at, where they can be counted.
        inside: how often the call was cut off.
        returned: how often it returned all the same.
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


_now: list[Report] = [Report("", "", "")]
_kept: list[BaseException | None] = [None]  # as a notebook keeps the traceback of what was cut off


def look(run: Callable[[], Any]) -> Any:
    """Run it in another thread: a lock that was not given back lets it wait for ever."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(run())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=work, name="looker", daemon=True)
    thread.start()
    try:
        result = future.result(PATIENCE_S)
    except TimeoutError:
        if not future.done():
            hang("another thread waits for ever for the bus")
        raise
    thread.join()
    return result


def hang(place: str) -> None:
    """Say so, and end."""
    _now[0].faults[f"hang: {place} [cut off at {where(_kept[0])}]"] += 1
    _now[0].tell()
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(CUT_SHORT)


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
    said = f" ({error})" if isinstance(error, KeyboardInterrupt) and error.args else ""
    return " > ".join(inner[-3:]) + said


class Session:
    """A world, and what is done to it, method by method.

    Args:
        methods: what makes the trials, by name.
        how: how calls are cut off.
        bus: a name of `_methods.BUSES`, with ``+`` for another thread that commits.
        count: how often each method is cut off.
        seed: of what is left to chance.
        folder: where logs may be made.
    """

    def __init__(
        self,
        methods: Mapping[str, Callable[[World], Trial]],
        how: str,
        bus: str,
        count: int,
        seed: str,
        folder: Path,
    ) -> None:
        self.methods, self.how, self.bus, self.count, self.seed = methods, how, bus, count, seed
        self._folders = (folder / f"{n}" for n in itertools.count())
        self.report, self.name = _now[0], ""
        self.world = self._new_world()

    # -------------------------------------------------------------------- how it is cut off

    def cut(self, trial: Trial, moment: Any, done: list[Any]) -> None:
        """Call it, and put what it returns into ``done``; not cut off where ``moment`` is None."""
        raise NotImplementedError

    def moments(self, took: Sequence[float]) -> list[Any]:
        """When to cut it off, given what it takes in seconds."""
        raise NotImplementedError

    def wrong_with(self, error: BaseException) -> str | None:
        """What is wrong with what came out of a call that was cut off."""
        raise NotImplementedError

    def may_be_closed(self) -> bool:
        """Whether what was cut off last may have closed the bus, or let it refuse commits."""
        return False

    def derives(self, name: str) -> bool:
        """Whether a method is tried on a bus with derived arrays: that costs compilations."""
        return name not in ("close", "open")

    # ---------------------------------------------------------------------------- one method

    def run(self, name: str) -> None:
        """Try one method, and tell of it."""
        print(json.dumps(name), flush=True)
        self.name, self.rng = name, random.Random(f"{self.seed} {name}")
        self.report = _now[0] = Report(name, self.bus, self.how)
        if self.world.derives != self.derives(name):
            self.world.end()
            self.world = self._new_world()
        self.world.bus.snapshot()  # so that what is looked at has a near start
        try:
            self._try()
        except Exception as error:
            self.report.faults[f"the trial itself failed: {error!r} at {where(error)}"] += 1
            traceback.print_exc()
        self.report.tell()

    def _try(self) -> None:
        took = []
        for _ in range(3):  # the first compiles
            trial, done = self._make(), []
            begun = time.perf_counter()
            self.cut(trial, None, done)
            took.append(time.perf_counter() - begun)
            self._settle(trial, done, None)
            if self.report.faults:
                return  # what is not cut off is wrong already
        self.report.found.clear()
        self.report.micros = round(min(took) * 1e6)
        for number, moment in enumerate(self.moments(took[1:]), 1):
            self._cut_off(moment)
            if number % VERIFY_EACH == 0:
                self._attempt(lambda: look(lambda: self.world.check_past(5)), None)
                self.world.bus.snapshot()
        self._attempt(lambda: look(lambda: self.world.check_past(5)), None)

    def _new_world(self) -> World:
        kind = self.bus.rstrip("+")
        folder = next(self._folders)
        folder.mkdir(parents=True)
        path = None if kind == "memory" else folder / "run.mmsb"
        return World(path, BUSES[kind], self.bus.endswith("+"), derives=self.derives(self.name))

    def _make(self) -> Trial:
        self._arm_watch()
        trial = self.methods[self.name](self.world)
        if self.world.beside is not None and not trial.may_close:
            self.world.beside.let(self.rng.randrange(4))
        return trial

    def _arm_watch(self) -> None:
        faulthandler.dump_traceback_later(3 * PATIENCE_S, exit=True)

    def _cut_off(self, moment: Any) -> None:
        trial, done = self._make(), []
        error: BaseException | None = None
        try:
            self.cut(trial, moment, done)
        except BaseException as raised:
            error = raised
            wrong = self.wrong_with(error)
            if wrong is not None:
                self._fault(wrong, error)
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
                look(world.end)
        self.world = self._new_world()

    def _attempt(self, run: Callable[[], Any], error: BaseException | None) -> bool:
        try:
            run()
        except BaseException as wrong:
            told = f"then {wrong!r}"
            if isinstance(wrong, AssertionError):
                line = traceback.extract_tb(wrong.__traceback__)[-1].line
                told = str(wrong) or f"not so: {line}"
            else:
                told += f" at {where(wrong)}"
            self._fault(told[:600], error)
            return False
        return True

    def _fault(self, told: str, error: BaseException | None) -> None:
        told = f"{told} [cut off at {where(error)}]"
        told = re.sub(r"/\S+/(run|fork|import|export)\d*(\.mmsb)?", r"\1\2", told)
        self.report.faults[told] += 1

    def _look(self, trial: Trial, done: list[Any], error: BaseException | None) -> None:
        world, is_done = trial.world, bool(done)
        if world.bus.closed or trial.may_close:
            if not trial.may_close and not self.may_be_closed():
                self._fault("the bus is closed", error)
            world.bus.close()
            assert world.bus.closed, "close() does not close"
            if world.path is None:
                self.report.found["closed"] += 1
                world.end()
                self.world = self._new_world()
                return
            world.open()
        state = look(lambda: world.look(trial.states, is_done, trial.ends))
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

        self._attempt(lambda: look(close), None)


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
            place = re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{number}"))
            found[f"left behind: {'/'.join(place.split('/')[-3:])}"] += 1
    return found


def run_methods(
    make: Callable[[Path], Session],
    how: str,
    bus: str,
    names: Sequence[str],
    place: Path | None = None,
) -> None:
    """Try methods in a session that ``make`` makes, and see what is left of it at the end."""
    faulthandler.enable()
    sys.unraisablehook = lambda unraisable: None  # what is cut off in a finalizer is told there
    shared = Path("/dev/shm")  # syncs cost nothing there
    folder = Path(tempfile.mkdtemp(dir=place or (shared if shared.is_dir() else None)))
    try:
        World(None, None).end()  # what is compiled and opened once is no leak
        threads, files = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
        session = make(folder)
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
