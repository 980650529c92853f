"""Lives of a bus on a disk that is simulated: what it did, what it was told, what must be left.

A `Life` is one process. It commits, and writes down in the disk's journal what it submits, what
was acknowledged and what was said to be durable; so the journal says of each moment what a crash
then may take. The model is dictionaries and bytes.
"""

import contextlib
import dataclasses
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.writer.create import is_log
from mmsb_jax._store.writer.durability.base import Durability
from mmsb_jax.testing._disk import Disk
from mmsb_jax.testing._faulty import make_and_open_on, open_on

PAGE_BYTES = 128
RUN = Path("/run.mmsb")
FORK = Path("/fork.mmsb")
DURABILITIES: tuple[Durability, ...] = ("os", "fsync", ("group", 1))

State = dict[str, bytes]


@dataclass(slots=True)
class Told:
    """What the journal says up to a moment.

    Attributes:
        submitted: the newest version whose commit was begun.
        acknowledged: the newest whose commit had returned.
        durable: the newest that was said to be durable.
        forked: the version of the fork that was made; 0 for none.
    """

    submitted: int = 0
    acknowledged: int = 0
    durable: int = 0
    forked: int = 0

    @classmethod
    def of(cls, disk: Disk, until: int | None, before: "Told") -> "Told":
        """What was told before ``until``, where ``before`` was known when the journal began."""
        told = dataclasses.replace(before)
        for name, version in disk.facts(until):
            setattr(told, name, max(getattr(told, name), version))
        return told


@dataclass(slots=True)
class History:
    """What each version holds.

    The last state of a version is what it holds. Those before it were submitted under its number
    and failed; one can come to light after a crash, where what followed it is lost. ``forks`` are
    the histories of the forks that were begun: each goes on where its source may lose versions.
    ``kept_since`` is the highest version since which a compaction was to keep all, and ``tags`` are
    all that were ever set.
    """

    states: list[list[State]] = field(default_factory=lambda: [[{}]])
    forks: list["History"] = field(default_factory=list)
    kept_since: int = 1
    tags: set[tuple[str, int]] = field(default_factory=set)

    def copy(self) -> "History":
        states = [list(states) for states in self.states]
        return History(states, list(self.forks), self.kept_since, set(self.tags))

    def only_the_last(self) -> "History":
        """Without what was submitted and failed."""
        return dataclasses.replace(self.copy(), states=[states[-1:] for states in self.states])

    @property
    def head(self) -> State:
        return self.states[-1][-1]

    def submit(self, version: int, state: State) -> None:
        del self.states[version + 1 :]
        if version == len(self.states):
            self.states.append([])
        self.states[version].append(state)

    def adopt(self, version: int, found: State) -> None:
        """Go on behind ``version``, which holds ``found``: one of what was submitted."""
        del self.states[version + 1 :]
        states = self.states[version]
        assert found in states, f"version {version} holds what nobody submitted"
        states.append(states.pop(states.index(found)))
        self.kept_since = max(1, min(self.kept_since, version))


def bytes_of(flat: dict[str, Any]) -> State:
    """A state as it is compared."""
    return {name: np.asarray(value).tobytes() for name, value in flat.items()}


class Life:
    """One process that writes the log on ``disk``.

    Args:
        disk: the disk.
        history: what the versions hold that the log may have; goes on with this life.
        durability: as for `mmsb.open`.
    """

    def __init__(self, disk: Disk, history: History, durability: Durability = "os") -> None:
        self.disk, self.history, self.durability = disk, history, durability
        self.bus = make_and_open_on(self.files(), PAGE_BYTES, durability)
        self.is_attached = False  # whether this process has the function of what is derived
        history.adopt(self.bus.version, bytes_of(self.bus.checkout()))
        disk.note(("submitted", self.bus.version))
        disk.note(("acknowledged", self.bus.version))
        self._say_what_is_durable()

    def files(self, root: Path = RUN) -> DiskFiles:
        return DiskFiles(root, self.disk)

    def _say_what_is_durable(self) -> None:
        self.disk.note(("durable", self.bus.durable_version))

    # ---------------------------------------------------------------------------- what it can do

    def commit(self, rng: random.Random, wait: bool = True) -> None:
        """A tree: bytes that all change, bytes of which few do, a counter."""
        tree, version = self._tree(rng), self.bus.version + 1
        head = self.history.head
        state = {name: head[name] for name in head.keys() - {"twice"}} | bytes_of(tree)
        if "twice" in head:  # without its function it stays as it was, and is stale
            state["twice"] = twice_of(state) if self.is_attached else head["twice"]
        self._submit(version, state)
        self.bus.commit(tree, wait=wait, structure="new")
        if not wait:
            self.bus.version
            self.bus.tree()  # waits for the queue
        self._acknowledge(version)

    def _tree(self, rng: random.Random) -> dict[str, Any]:
        numbers = np.random.default_rng(rng.randrange(2**32))
        head = self.history.head
        few = np.frombuffer(head.get("few", bytes(2400)), np.int32).copy()
        few[numbers.integers(0, few.size, 3)] += 1
        return {
            "dense": numbers.integers(0, 256, 700, np.uint8),
            "few": few,
            "n": rng.randrange(2**31),
        }

    def _submit(self, version: int, state: State) -> None:
        self.history.submit(version, state)
        self.disk.note(("submitted", version))

    def _acknowledge(self, version: int) -> None:
        assert self.bus.version == version
        self.disk.note(("acknowledged", version))
        self._say_what_is_durable()
        if self.durability == "fsync":
            assert self.bus.durable_version == version

    def sync(self, rng: random.Random) -> None:
        assert self.bus.sync() == self.bus.version
        self._say_what_is_durable()

    def rotate(self, rng: random.Random) -> None:
        """Go on in a new segment, as before a snapshot."""
        engine = self.bus._session.writing()
        if engine.writer.rotate() is not None:
            engine.head.begin_segment()

    def snapshot(self, rng: random.Random) -> None:
        """A snapshot as one is made by itself: behind a rotation, with an index, waited for."""
        engine = self.bus._session.writing()
        engine._begin_snapshot()
        engine.snapshot()
        self._say_what_is_durable()

    def derive(self, rng: random.Random) -> None:
        """An array that follows from another, from now on part of each commit."""
        version = self.bus.version + 1
        if "few" not in self.history.head:
            return
        self._submit(version, self.history.head | {"twice": twice_of(self.history.head)})
        if self.bus.derive("twice", ["few"], twice) is None:  # it was right, and is attached now
            version -= 1
            self.history.adopt(version, self.history.states[version][-1])
        self.is_attached = True
        self._acknowledge(version)

    def fork(self, rng: random.Random) -> None:
        """A log of its own in another directory."""
        if not self.bus.version or is_log(self.files(FORK)):
            return
        version = rng.randint(self.history.kept_since, self.bus.version)
        files = self.files(FORK)
        for folder in ("log", "snapshots"):  # what a fork that was cut short left
            files.sync_names(folder)
            for left in files.names(folder):
                files.remove(left)
        self.history.forks.append(self.history.only_the_last())
        fork_log(self.bus._session.log, version, files)
        self.disk.note(("forked", version))

    def tag(self, rng: random.Random) -> None:
        """A name for a version."""
        if self.bus.version:
            version = rng.randint(self.history.kept_since, self.bus.version)
            self.history.tags.add(("best", version))
            self.bus.tag("best", version)

    def compact(self, rng: random.Random) -> None:
        """Give up the bytes of old versions."""
        if self.bus.version:
            version = rng.randint(self.history.kept_since, self.bus.version)
            self.history.kept_since = version
            self.bus.compact(keep_since=version)
            self._say_what_is_durable()

    def import_(self, rng: random.Random) -> None:
        """Take what another bus has committed behind the newest version."""
        if "twice" in self.history.head:
            return
        since = self.bus.version
        with self.bus.fork() as other:
            for version in range(since + 1, since + 4):
                tree, head = self._tree(rng), self.history.head
                self._submit(version, head | bytes_of(tree))
                other.commit(tree, structure="new")
            stream = other.export(since=since)
        assert len(self.bus.import_(stream)) == 3
        self._acknowledge(since + 3)

    def fail(self, rng: random.Random) -> None:
        """A commit that the disk refuses at some call; what was written is taken back."""
        faults, version = self.disk.faults, self.bus.version
        faults.is_short, faults.code = rng.random() < 0.5, rng.choice((errno.ENOSPC, errno.EIO))
        faults.arm(rng.randrange(3))
        try:
            self.commit(rng)
        except (mmsb.LocationError, mmsb.ClosedError):
            assert self.bus._session.log.version == version
        finally:
            faults.disarm()

    def close(self, rng: random.Random | None = None) -> None:
        with contextlib.suppress(mmsb.ClosedError):
            self.bus.close()
            self._say_what_is_durable_when_closed()

    def _say_what_is_durable_when_closed(self) -> None:
        writer = self.bus._session.engine.writer
        self.disk.note(("durable", writer.durable_version))

    def reopen(self, rng: random.Random) -> None:
        """Close it, and open it again: where a sync has failed, that recovers."""
        self.close()
        self.bus = open_on(self.files(), self.durability, snapshots=False)
        self.history.adopt(self.bus.version, bytes_of(self.bus.checkout()))
        self.is_attached = False

    def act(self, rng: random.Random, count: int) -> None:
        """Some of all that, at random."""
        for _ in range(count):
            self.act_one(rng.choice(ACTIONS), rng)

    def act_one(self, action: "Action", rng: random.Random) -> None:
        """One of them; nothing goes any more once a sync has failed, until it is opened again."""
        with contextlib.suppress(mmsb.ClosedError):
            action(self, rng)


def twice(few: Any) -> Any:
    """What is derived."""
    return jnp.asarray(few) * 2


def twice_of(state: State) -> bytes:
    """The same in NumPy."""
    return (np.frombuffer(state["few"], np.int32) * 2).tobytes()


Action = Callable[[Life, random.Random], None]
ACTIONS: tuple[Action, ...] = (
    Life.commit, Life.commit, Life.commit, Life.sync, Life.rotate, Life.snapshot, Life.fork,
    Life.fail, Life.reopen, Life.tag, Life.compact, Life.import_,
)  # fmt: skip
