"""Entries 5 and 16: the machine dies, and with it what the disk had in its cache.

A bus lives on a simulated disk, which keeps a journal. At a random moment of it the process dies
(nothing is lost, nothing was synced) or the machine (what was not synced is kept, dropped, torn by
sector, reordered: `mmsb_jax.testing._disk`). The next process opens what is left, finds a prefix of
what was submitted with all that was said to be durable, goes on, and dies as well.

Entry 16 leaves no moment out: behind each call of the trace every state is tried that one name, or
one write, alone makes, and others by chance; each is opened, committed to, and opened again.
"""

import collections
import dataclasses
import random
from dataclasses import dataclass, field

import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format import data
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.writer.create import is_log
from mmsb_jax.testing._disk import Disk
from mmsb_jax.testing._faulty import open_on
from tests.torture._lives import (
    DURABILITIES,
    FORK,
    RUN,
    History,
    Life,
    State,
    Told,
    bytes_of,
)
from tests.torture._scale import scaled
from tests.torture._scenarios import SCENARIOS, Scenario, live

LIVES = 3


@dataclass
class Tried:
    """What was tried, to be printed."""

    seeds: int = 0
    deaths: collections.Counter[str] = field(default_factory=collections.Counter)
    torn: int = 0
    versions: int = 0
    lost: int = 0
    forks: int = 0

    def __str__(self) -> str:
        return (
            f"{self.seeds} seeds, {self.deaths['machine']} machine deaths, "
            f"{self.deaths['process']} process deaths, {self.torn} torn tails, "
            f"{self.versions:,} versions compared, {self.forks} forks, {self.lost} unsynced "
            f"versions gone, none lost that was said to be durable, none made up"
        )


def die(
    disk: Disk, before: Told, history: History, rng: random.Random, tried: Tried
) -> tuple[Disk, Told]:
    """Death at a random moment, and a check of what is left.

    Args:
        disk: the disk of the life that ends.
        before: what was known when that disk's journal began.

    Returns:
        The disk for the next life, and what is known when its journal begins.
    """
    moment = rng.randint(0, len(disk.journal))
    told = Told.of(disk, moment, before)
    if rng.random() < 0.3:
        tried.deaths["process"] += 1
        left = disk.after_process_death(moment)
        check(left, history, told, told.acknowledged, tried)
        return left, before
    tried.deaths["machine"] += 1
    left = disk.after_machine_death(rng, moment)
    newest = check(left, history, told, told.durable, tried)
    return left, Told(newest, newest, newest, told.forked)  # what is there now stays


def check(disk: Disk, history: History, told: Told, least: int, tried: Tried) -> int:
    """Compare what a reader finds with what was submitted; returns the newest version."""
    files = DiskFiles(RUN, disk)
    if not is_log(files):
        assert least == 0, f"the log is gone, and version {least} was said to be durable"
        return 0
    with mmsb.Bus(Log(files, "the log"), None, files, None) as bus:
        newest = bus.version
        assert least <= newest <= told.submitted
        compare(bus, newest, history, least, tried)
        tried.torn += bool(bus.recovered)
        tried.lost += told.acknowledged - newest if newest < told.acknowledged else 0
    check_fork(disk, history, told, tried)
    return newest


def compare(bus: mmsb.Bus, newest: int, history: History, least: int, tried: Tried) -> None:
    """Every version holds what was submitted; what was compacted away is refused by name."""
    for version in range(1, newest + 1):
        states: list[State] = history.states[version]
        may_be = states[-1:] if version < newest or version <= least else states
        try:
            found = bus.checkout(version=version)
        except mmsb.VersionError:
            assert version < history.kept_since - 1
        else:
            assert bytes_of(found) in may_be, f"version {version}"
            tried.versions += 1
    assert bus.tags().items() <= history.tags
    assert [commit.version for commit in bus.log()] == list(range(1, newest + 1))
    assert bus.verify()


def check_fork(disk: Disk, history: History, told: Told, tried: Tried) -> None:
    """A fork is whole or no log; once it was made, it is there."""
    files = DiskFiles(FORK, disk)
    if not is_log(files):
        assert not told.forked
        return
    with mmsb.Bus(Log(files, "the fork"), None, files, None) as fork:
        assert not told.forked or fork.version == told.forked
        newest = bytes_of(fork.checkout())
        of_that_length = [h for h in history.forks if fork.version < len(h.states)]
        begun = [h for h in of_that_length if h.states[fork.version] == [newest]]
        tags = set().union(*(history.tags for history in begun))
        expected = dataclasses.replace(begun[0], tags=tags)
        compare(fork, fork.version, expected, fork.version, tried)
        tried.forks += 1


def try_seed(first: Life, seed: int, tried: Tried) -> None:
    """Die, be checked, live on, some times over."""
    rng = random.Random(seed)
    disk, known, history = first.disk, Told(), first.history.copy()
    for number in range(LIVES):
        disk, known = die(disk, known, history, rng, tried)
        life = Life(disk, history, rng.choice(DURABILITIES))
        if number < LIVES - 1:
            life.act(rng, 5)
    life.commit(rng)
    life.close()
    with open_on(DiskFiles(RUN, disk)) as bus:
        assert bus.recovered == []
        compare(bus, bus.version, history, bus.version, tried)
    tried.seeds += 1


def torture(scenario: Scenario, seeds: int) -> Tried:
    """``seeds`` chains of deaths, spread over the durabilities."""
    tried = Tried()
    for place, durability in enumerate(DURABILITIES):
        first = live(scenario, durability, seed=place)
        for seed in range(place, seeds, len(DURABILITIES)):
            try:
                try_seed(first, seed, tried)
            except BaseException as error:
                error.add_note(f"{scenario.__name__}, durability {durability}, seed {seed}")
                raise
        first.close()
    print(f"{scenario.__name__}: {tried}")
    assert tried.seeds == seeds
    return tried


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_crash_at_random_moments_leaves_a_prefix_with_all_that_was_durable(scenario):
    torture(scenario, seeds=6)


@pytest.mark.long
@pytest.mark.parametrize("inline_bytes", [0, 1 << 18], ids=["data frames", "inline"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_crash_at_many_random_moments_leaves_a_prefix(scenario, inline_bytes, monkeypatch):
    monkeypatch.setattr(data, "INLINE_BYTES", inline_bytes)
    tried = torture(scenario, scaled(100, least=6))
    assert tried.torn


# ------------------------------------------------------------------------- entry 16, from a trace


def states_at(disk: Disk, moment: int, rng: random.Random, count: int) -> list[Disk]:
    """What a disk may hold when the machine died right behind a call."""
    return [disk.after_machine_death(rng, moment) for _ in range(count)]


def try_every_moment(scenario: Scenario, step: int, count: int) -> Tried:
    """``count`` states behind every ``step``th call of each durability's trace."""
    tried = Tried()
    for place, durability in enumerate(DURABILITIES):
        first = live(scenario, durability, seed=place)
        rng = random.Random(place)
        for moment in range(place % step, len(first.disk.journal) + 1, step):
            told = Told.of(first.disk, moment, Told())
            for number, left in enumerate(states_at(first.disk, moment, rng, count)):
                try:
                    _try_state(left, told, first.history.copy(), rng, tried)
                except BaseException as error:
                    error.add_note(f"{scenario.__name__}, {durability}, {moment}, state {number}")
                    raise
        first.close()
    print(f"{scenario.__name__}, state by state: {tried.seeds} states, {tried}")
    return tried


def _try_state(left: Disk, told: Told, history: History, rng: random.Random, tried: Tried) -> None:
    """Open a state, commit on what was recovered, let the machine die once more, open that."""
    newest = check(left, history, told, told.durable, tried)
    life = Life(left, history, rng.choice(DURABILITIES))
    before = Told(newest, newest, newest, told.forked)
    life.commit(rng)
    life.commit(rng)
    again = left.after_machine_death(rng, rng.randint(0, len(left.journal)))
    known = Told.of(left, len(left.journal), before)
    check(left.after_process_death(), history, known, known.acknowledged, tried)
    life.close()
    moment = Told.of(left, 0, before)
    check(again, history, known, moment.durable, tried)
    tried.deaths["machine"] += 2
    tried.seeds += 1


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_states_behind_some_calls_are_opened_and_gone_on_from(scenario):
    assert try_every_moment(scenario, step=17, count=1).seeds


@pytest.mark.long
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_states_behind_every_call_are_opened_and_gone_on_from(scenario):
    tried = try_every_moment(scenario, step=1, count=scaled(12))
    assert tried.torn
