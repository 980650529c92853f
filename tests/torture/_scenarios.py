"""What a process does before it dies: one function a part of the library that writes."""

import random
from collections.abc import Callable

from mmsb_jax._store.writer import writer
from mmsb_jax.testing._disk import Disk
from tests.torture._lives import History, Life

Scenario = Callable[[Life, random.Random], None]


def commits(life: Life, rng: random.Random) -> None:
    """Commits, a sync in the middle."""
    for number in range(6):
        life.commit(rng)
        if number == 2:
            life.sync(rng)


def queued(life: Life, rng: random.Random) -> None:
    """Commits that a thread writes."""
    for _ in range(5):
        life.commit(rng, wait=False)


def rotation(life: Life, rng: random.Random) -> None:
    """Segments of one and two commits, none of them synced on purpose."""
    for _ in range(4):
        life.commit(rng)
        life.rotate(rng)
    life.commit(rng)
    life.commit(rng)


def snapshots(life: Life, rng: random.Random) -> None:
    """Snapshots and indexes between commits."""
    for _ in range(3):
        life.commit(rng)
        life.commit(rng)
        life.snapshot(rng)
    life.commit(rng)


def closing(life: Life, rng: random.Random) -> None:
    """Closed and opened again; each time a mark."""
    for _ in range(3):
        life.commit(rng)
        life.reopen(rng)
    life.commit(rng)
    life.close()


def fork(life: Life, rng: random.Random) -> None:
    """A fork of a log with two segments and a snapshot."""
    life.commit(rng)
    life.commit(rng)
    life.snapshot(rng)
    life.commit(rng)
    life.fork(rng)
    life.commit(rng)


def derive(life: Life, rng: random.Random) -> None:
    """A derived array: one commit that makes it, and commits that carry it."""
    life.commit(rng)
    life.derive(rng)
    life.commit(rng)
    life.snapshot(rng)
    life.commit(rng)


def compaction(life: Life, rng: random.Random) -> None:
    """Two compactions, of a log with tags, segments and snapshots."""
    for number in range(3):
        life.commit(rng)
        life.commit(rng)
        life.tag(rng)
        life.rotate(rng) if number else life.snapshot(rng)
    life.compact(rng)
    life.commit(rng)
    life.compact(rng)
    life.commit(rng)


def imports(life: Life, rng: random.Random) -> None:
    """Commits of another bus, between its own."""
    life.commit(rng)
    life.import_(rng)
    life.commit(rng)
    life.import_(rng)


def failing(life: Life, rng: random.Random) -> None:
    """Commits that the disk refuses, among others."""
    life.commit(rng)
    for _ in range(4):
        life.act_one(Life.fail, rng)
        life.act_one(Life.commit, rng)


SCENARIOS: tuple[Scenario, ...] = (
    commits, queued, rotation, snapshots, closing, fork, derive, compaction, imports, failing,
)  # fmt: skip


def live(scenario: Scenario, durability: writer.Durability, seed: int) -> Life:
    """A first life, from an empty disk on; it is not closed, and its threads have ended."""
    life = Life(Disk(), History(), durability)
    scenario(life, random.Random(seed))
    return life
