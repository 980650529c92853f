"""Entries 6 and 7: the Nth call of the disk fails, at every N of everything that writes.

ENOSPC, EIO, a write cut short; once, or until room is made. The head stays as it was, the error
says what to do, the next commit works. Where a sync has failed, or a write could not be taken back,
the bus is poisoned and says so, and opening the log again works.
"""

import collections
import contextlib
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus import opening as _opening
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format import data
from mmsb_jax._store.writer import writer
from mmsb_jax.testing._disk import CALLS, Disk
from mmsb_jax.testing._faulty import open_on
from tests.torture._lives import FORK, PAGE_BYTES, RUN, History, Life, Told, bytes_of
from tests.torture.test_crash import Tried, check_fork, compare

FOR_EVER = 10**9
TAKE_ROOM = CALLS - {"unlink", "ftruncate"}
FAULTS = {
    "full": (errno.ENOSPC, False, TAKE_ROOM),
    "short": (errno.ENOSPC, True, TAKE_ROOM),
    "broken": (errno.EIO, False, CALLS),
}
POISONING = {"fdatasync", "fsync", "ftruncate"}


@dataclass
class Step:
    """Something that writes.

    Attributes:
        run: does it.
        prepare: what comes before, on a disk that works.
    """

    run: Callable[[Life, random.Random], object]
    prepare: Callable[[Life, random.Random], object] = lambda life, rng: None


RAW = b"123456789"


def _create(life: Life, rng: random.Random) -> None:
    """A commit that makes an array."""
    with contextlib.suppress(mmsb.StructureError):  # it is made already: this is the second try
        life.bus.create("raw", nbytes=len(RAW))
    _commit(life, {"raw": RAW}, lambda: life.bus.write("raw", np.frombuffer(RAW, np.uint8)))


def _resize(life: Life, rng: random.Random) -> None:
    _commit(life, {"raw": RAW[:4]}, lambda: life.bus.resize("raw", nbytes=4))


def _delete(life: Life, rng: random.Random) -> None:
    _commit(life, {}, lambda: life.bus.delete("raw"))


def _commit(life: Life, raw: dict[str, bytes], run: Callable[[], object]) -> None:
    """A commit that changes what becomes of ``raw``."""
    version, head = life.bus.version + 1, dict(life.history.head)
    head.pop("raw", None)
    life._submit(version, head | raw)
    run()
    life._acknowledge(version)


def _open_it(life: Life, rng: random.Random) -> None:
    """Open it by `mmsb.open`."""
    life.bus = mmsb.open(life.place, durability=life.durability, snapshots=False)
    life.is_attached = False


def _make_one(life: Life, rng: random.Random) -> None:
    mmsb.open(life.place.with_name("fresh.mmsb"), page_bytes=PAGE_BYTES).close()


def _fork_it(life: Life, rng: random.Random) -> None:
    life.history.forks.append(life.history.only_the_last())
    life.bus.fork(life.place.with_name(FORK.name)).close()
    life.disk.note(("forked", life.bus.version))


STEPS = {
    "commit": Step(Life.commit),
    "commit by the thread": Step(lambda life, rng: life.commit(rng, wait=False)),
    "create": Step(_create),
    "resize": Step(_resize, _create),
    "delete": Step(_delete, _create),
    "sync": Step(Life.sync, Life.commit),
    "rotation": Step(Life.rotate),
    "snapshot": Step(lambda life, rng: life.bus.snapshot()),
    "snapshot by itself": Step(Life.snapshot),
    "derive": Step(Life.derive),
    "commit with what is derived": Step(Life.commit, Life.derive),
    "tag": Step(Life.tag),
    "compaction": Step(Life.compact, Life.tag),
    "import": Step(Life.import_),
    "close": Step(lambda life, rng: life.bus.close(), Life.commit),
    "open": Step(_open_it, lambda life, rng: life.close()),
    "open behind a torn tail": Step(_open_it, lambda life, rng: _tear(life)),
    "make": Step(_make_one),
    "fork": Step(_fork_it),
}


def _tear(life: Life) -> None:
    life.close()
    life.files().reopen(life.bus._session.log.pieces[-1].segment.name).append([b"torn" * 20])


@dataclass
class Count:
    """What was tried, to be printed."""

    calls: int = 0
    trials: int = 0
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)

    def __str__(self) -> str:
        told = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self.outcomes.items()))
        return f"{self.calls} calls, {self.trials} failures: {told}"


class Trials:
    """Trials of one step, each on a copy of the same disk."""

    def __init__(self, name: str, durability: writer.Durability, place) -> None:
        self.step, self.durability, self.place = STEPS[name], durability, place
        first = Life(Disk(), History(), durability)
        rng = random.Random(0)
        for _ in range(2):
            first.commit(rng)
        first.snapshot(rng)
        first.commit(rng)
        self.disk, self.history = first.disk.after_process_death(), first.history
        first.close()

    def begin(self) -> tuple[Life, random.Random]:
        rng = random.Random(1)
        life = Life(self.disk.after_process_death(), self.history.copy(), self.durability)
        life.place = self.place
        self.now = life.disk
        self.step.prepare(life, rng)
        return life, rng

    def files(self, place) -> DiskFiles:
        """What `mmsb.open` opens instead of a directory."""
        return DiskFiles(RUN.with_name(place.name), self.now)

    def count_calls(self) -> int:
        life, rng = self.begin()
        life.disk.faults.arm(FOR_EVER)
        self.step.run(life, rng)
        calls = len(life.disk.faults.calls)
        life.close()
        return calls

    def fail(self, fail_at: int, fault: str, until_room: bool) -> str:
        """One trial; what came of it."""
        life, rng = self.begin()
        faults, log, head = life.disk.faults, life.bus._session.log, life.history.head
        before, is_closed = log.version, life.bus.closed
        faults.code, faults.is_short, faults.kinds = FAULTS[fault]
        faults.arm(fail_at, FOR_EVER if until_room else None)
        try:
            self.step.run(life, rng)
            outcome = "passed over"
        except mmsb.MMSBError as error:
            outcome = "refused"
            self.check_message(error)
        finally:
            faults.disarm()
        if not faults.failed:  # a full disk lets more calls pass
            assert faults.kinds == TAKE_ROOM
            outcome = "not met"
        poisons = POISONING & set(faults.failed)
        if outcome == "refused" and not life.bus.closed:
            assert log.version == before or self.step.run is Life.import_  # a commit at a time
            found = head if log.version == before else life.history.states[log.version][-1]
            assert bytes_of(life.bus.checkout()) == found
        if life.bus.closed and not is_closed:
            life.reopen(rng)
        elif not life.bus.closed and not poisons:
            life.history.adopt(life.bus.version, bytes_of(life.bus.checkout()))
        try:
            if outcome == "refused" and not (POISONING | {"unlink"}) & set(faults.failed):
                self.step.run(life, rng)  # there is room now
            elif is_closed:
                life.reopen(rng)
            life.commit(rng)
        except mmsb.ClosedError as error:
            if not poisons:
                raise
            self.check_message(error)
            outcome += ", poisoned"
            life.reopen(rng)
            life.commit(rng)
        if not is_closed:
            assert life.bus.version > before
        life.close()
        self.check_whole(life, "unlink" in faults.failed)
        return outcome

    def check_message(self, error: mmsb.MMSBError) -> None:
        """It says what to do."""
        wanted = {mmsb.LocationError: "try again", mmsb.ClosedError: "pen it again|Open the log"}
        assert any(text in str(error) for text in wanted[type(error)].split("|")), error

    def check_whole(self, life: Life, may_have_left: bool) -> None:
        """Everything is there; at most a segment whose making failed, and that would not go."""
        history = life.history
        with open_on(life.files()) as bus:
            assert bus.recovered == [] or (may_have_left and "cut short" in bus.recovered[0])
            compare(bus, len(history.states) - 1, history, bus.version, Tried())
        check_fork(life.disk, history, Told.of(life.disk, None, Told()), Tried())


def torture(trials: Trials, faults: list[str], extents: list[bool]) -> Count:
    count = Count(calls=trials.count_calls())
    for fail_at in range(count.calls):
        for fault in faults:
            for until_room in extents:
                try:
                    outcome = trials.fail(fail_at, fault, until_room)
                except BaseException as error:
                    error.add_note(f"call {fail_at}, {fault}, until room is made: {until_room}")
                    raise
                count.outcomes[outcome] += 1
                count.trials += 1
    assert count.trials == count.calls * len(faults) * len(extents) > 0
    return count


@pytest.fixture
def trials(tmp_path, monkeypatch) -> Callable[[str, writer.Durability], Trials]:
    made: list[Trials] = []

    def make(name: str, durability: writer.Durability) -> Trials:
        made.append(Trials(name, durability, tmp_path / RUN.name))
        return made[-1]

    monkeypatch.setattr(_opening, "DiskFiles", lambda place: made[-1].files(place))
    return make


@pytest.mark.parametrize("name", STEPS)
def test_call_that_fails_at_any_place_leaves_all_as_it_was(trials, name):
    count = torture(trials(name, "fsync"), ["short"], [False])
    print(f"{name}: {count}")


@pytest.mark.long
@pytest.mark.parametrize("inline_bytes", [0, 1 << 18], ids=["data frames", "inline"])
@pytest.mark.parametrize("name", STEPS)
def test_call_that_fails_in_any_way_at_any_place_leaves_all_as_it_was(
    trials, name, inline_bytes, monkeypatch
):
    monkeypatch.setattr(data, "INLINE_BYTES", inline_bytes)
    for durability in ("os", "fsync"):
        count = torture(trials(name, durability), list(FAULTS), [False, True])
        print(f"{name}, {durability}: {count}")
