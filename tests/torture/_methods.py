"""Every public method that writes, with what is right behind it: before, after, or a step between.

A `World` is a bus, and a model of what it holds: the bytes of every array, tags, versions. A method
of `METHODS` makes a `Trial` of it: a call, and the states that the log may be in where the call is
cut off. Nothing here looks behind the public names of the library. Who cuts the calls off, and how,
is another's business: a signal, an exception, a system call that fails, a fork.
"""

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import mmsb_jax as mmsb

PAGE_BYTES = 128
SIZE = 3_000
PATIENCE_S = 15.0
"""A wait that takes so long is one that does not end: nothing here takes a tenth of a second."""

BESIDE = "beside"
BUSES: dict[str, Any] = {"memory": None, "os": "os", "fsync": "fsync", "group": ("group", 5)}


@dataclass
class State:
    """What a bus may hold.

    Attributes:
        values: the arrays by name, without that of the thread beside.
        tags: the tags.
        commits: how many commits of the call have landed.
    """

    values: dict[str, Any]
    tags: dict[str, int]
    commits: int = 0


@dataclass
class Trial:
    """A call that is to be cut off.

    Attributes:
        call: what is called.
        states: what the bus may hold afterwards; where the call has returned, the last.
        ends: how many of them count as the last.
        world: whose bus it is.
        finish: what is to be done and looked at then, given whether the call returned and what.
        may_close: whether the call may leave the bus closed.
    """

    call: Callable[[], Any]
    states: list[State]
    world: "World"
    finish: Callable[[bool, Any], None] = lambda is_done, result: None
    may_close: bool = False
    ends: int = 1


def bytes_of(value: Any) -> bytes:
    """Dtype, shape and bytes of an array."""
    array = np.asarray(value)
    return f"{array.dtype}{array.shape}".encode() + array.tobytes()


def tree_of(number: int) -> dict[str, Any]:
    """The tree that is committed: one with few changes, one with all, a number."""
    few = np.zeros(SIZE, np.float32)
    few[number % SIZE] = number
    return {"w": few, "b": np.full(10, number, np.int32), "n": number}


def follow(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The arrays after a change (None deletes), and what is derived from them."""
    after = {name: value for name, value in (values | changes).items() if value is not None}
    if "w" in changes and "twice" in after and "twice" not in changes:
        after["twice"] = after["w"] * np.float32(2)
    return after


class Beside(threading.Thread):
    """Another thread that commits, as often as it is let."""

    def __init__(self, bus: mmsb.Bus) -> None:
        super().__init__(name="beside", daemon=True)
        self.bus = bus
        self.acknowledged = 0
        self.failure: BaseException | None = None
        self._turns: queue.Queue[bool] = queue.Queue()
        self.start()

    def let(self, commits: int) -> None:
        """Let it make so many commits, now."""
        for _ in range(commits):
            self._turns.put(True)

    def wait(self) -> None:
        """Return once they are made.

        Raises:
            AssertionError: they are not, or one failed.
        """
        with self._turns.all_tasks_done:
            done = self._turns.all_tasks_done.wait_for(
                lambda: not self._turns.unfinished_tasks, PATIENCE_S
            )
        assert done, "hang: the thread beside waits for ever in its commit"
        failure, self.failure = self.failure, None
        if failure is not None:
            raise AssertionError(f"the thread beside failed: {failure!r}") from failure

    def end(self) -> None:
        self._turns.put(False)

    def run(self) -> None:
        while self._turns.get():
            try:
                number = np.int64(self.acknowledged + 1)
                self.bus.write(BESIDE, number, source=BESIDE)
                self.acknowledged += 1
            except BaseException as error:
                self.failure = error
            finally:
                self._turns.task_done()


@dataclass
class World:
    """A bus and what it holds.

    Attributes:
        path: where its log is; None in memory.
        durability: when its commits count.
        is_bare: whether it begins as an empty bus, without arrays.
        derives: whether some of its arrays are derived, which costs a compilation each time that it
            is opened.
        may_leave_drafts: whether a file that was begun may be left.
    """

    path: Path | None
    durability: Any
    has_beside: bool = False
    is_bare: bool = False
    derives: bool = True
    may_leave_drafts: bool = False
    state: State = field(default_factory=lambda: State({}, {}))
    version: int = 0
    past: dict[int, dict[str, Any]] = field(default_factory=dict)
    number: int = 0
    beside: Beside | None = None

    def __post_init__(self) -> None:
        self.open()
        if self.is_bare:
            return
        bus, tree = self.bus, tree_of(0)
        bus.commit(tree)
        bus.create("raw", nbytes=100)
        bus.create(BESIDE, shape=(), dtype="int64")
        bus.create("plot", nbytes=8)
        bus.sync()
        values = tree | {"raw": np.zeros(100, np.uint8), "plot": np.zeros(8, np.uint8)}
        if self.derives:
            derive(bus)
            bus.link("b", "lazy", kind="control")
            bus.read("lazy")
            values["twice"] = tree["w"] * np.float32(2)
            values["lazy"] = tree["w"] + np.float32(1)
        self.state, self.version = State(values, {}), bus.version
        self.past[self.version] = values
        if self.has_beside:
            self.beside = Beside(bus)
        self.look([self.state])

    @property
    def values(self) -> dict[str, Any]:
        return self.state.values

    def open(self) -> None:
        """Open the bus, or open it again."""
        options = {} if self.durability is None else {"durability": self.durability}
        self.bus = mmsb.open(self.path, page_bytes=PAGE_BYTES, **options)
        if self.derives and not self.is_bare and self.bus.version:
            derive(self.bus)
        if self.beside is not None:
            self.beside.bus = self.bus

    def after(self, *changes: dict[str, Any] | None) -> list[State]:
        """The states from now on, one commit each; None for one that changes nothing."""
        states = [replace(self.state, commits=0)]
        for change in changes:
            last = states[-1]
            values = follow(last.values, change or {})
            states.append(State(values, last.tags, last.commits + 1))
        return states

    def next(self) -> int:
        """A number that was not used before."""
        self.number += 1
        return self.number

    def look(self, states: Sequence[State], is_done: bool = False, ends: int = 1) -> State:
        """Which of ``states`` the bus is in, by its log, its head, and what it tells of both.

        Raises:
            AssertionError: in none; for a call that returned, in none of the last ``ends``.
        """
        if self.beside is not None:
            self.beside.wait()
        bus = self.bus
        commits = list(bus.log(since=self.version + 1))
        newest = bus.version
        versions = [commit.version for commit in commits]
        assert versions == list(range(newest + 1 - len(versions), newest + 1)), versions
        other = sum(commit.source == BESIDE for commit in commits)
        mine = newest - self.version - other
        assert len(versions) == newest - self.version or self.is_bare, (versions, self.version)
        logged = {name: bytes_of(value) for name, value in everything(bus).items()}
        held = {name: bytes_of(value) for name, value in head_of(bus).items()}
        differs = [name for name in held if held[name] != logged.get(name, held[name])]
        assert held.keys() - logged.keys() <= {"made"}, "arrays that nobody made"
        assert not differs, f"the head has other bytes than the log in {differs}"
        count = logged.pop(BESIDE, None)
        if self.beside is not None:
            expected = bytes_of(np.int64(self.beside.acknowledged))
            assert count == expected, "the array of the thread beside is not what it wrote last"
        tags = bus.tags()
        wanted = states[-ends:] if is_done else states
        for state in reversed(wanted):
            same = (state.commits, state.tags) == (mine, tags)
            if same and {n: bytes_of(v) for n, v in state.values.items()} == logged:
                self.state = replace(state, commits=0)
                self.version = newest
                self.past[newest] = state.values
                return state
        raise AssertionError(
            f"{mine} commits landed and {other} beside, tags {tags}; expected "
            + " or ".join(
                f"{state.commits} commits, tags {state.tags} (differs in "
                f"{difference(state, logged)})"
                for state in wanted
            )
        )

    def do(self, call: Callable[[], Any], *changes: dict[str, Any] | None) -> Any:
        """Call what nobody cuts off, and see that it did what it should."""
        result = call()
        self.look(self.after(*changes), is_done=True)
        return result

    def reopen(self, states: Sequence[State] | None = None) -> None:
        """Close and open it; what the log says is one of ``states``."""
        self.bus.close()
        if self.path is not None:
            self.open()
            self.look(states or [replace(self.state, commits=0)])

    def check_past(self, versions: int) -> None:
        """Verify the log, and compare versions that were seen, evenly chosen, newest first."""
        report = self.bus.verify()
        assert report, report
        known = sorted(self.past, reverse=True)
        for version in known[:: max(1, len(known) // versions)]:
            try:
                found = self.bus.checkout(version=version, arrays=["**"])
            except mmsb.VersionError:
                continue  # compacted away
            found.pop(BESIDE, None)
            expected = {name: bytes_of(value) for name, value in self.past[version].items()}
            assert {n: bytes_of(v) for n, v in found.items()} == expected, f"version {version}"

    def end(self) -> None:
        """Close it all."""
        if self.beside is not None:
            self.beside.end()
            self.beside.join(PATIENCE_S)
        self.bus.close()


def difference(state: State, found: dict[str, bytes]) -> list[str]:
    """The names of arrays that are not as they should be."""
    wanted = {name: bytes_of(value) for name, value in state.values.items()}
    return sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))


def derive(bus: mmsb.Bus) -> None:
    """Derive what the model derives: with each commit, and when it is read."""
    bus.derive("twice", ["w"], _twice)
    bus.derive("lazy", ["w"], _more, when="read")


def _twice(w: Any) -> Any:
    return w * 2


def _more(w: Any) -> Any:
    return w + 1


def _half(w: Any) -> Any:
    return w / 2


def everything(bus: mmsb.Bus) -> dict[str, Any]:
    """All arrays, as the log has them."""
    return bus.checkout(arrays=["**"]) if bus.version else {}


def head_of(bus: mmsb.Bus) -> dict[str, Any]:
    """All arrays that are not stale, as the head has them."""
    stale = {name for each in bus.derived().values() if each.is_stale for name in each.arrays}
    names = [region.name for region in bus.layout.regions if region.name not in stale]
    read = {name: bus.read(name) for name in names}
    tree = bus.tree()
    if isinstance(tree, dict):
        read |= {name: value for name, value in tree.items() if name not in stale}
    return read


# ------------------------------------------------------------------------------------ the methods


def commit(world: World) -> Trial:
    tree = tree_of(world.next())
    return Trial(lambda: world.bus.commit(tree, step=world.number), world.after(tree), world)


def commit_new_structure(world: World) -> Trial:
    tree = tree_of(world.next())
    change = tree | {"x": None if "x" in world.values else np.full(50, world.number, np.int16)}
    given = {name: value for name, value in change.items() if value is not None}
    return Trial(
        lambda: world.bus.commit(given, structure="new", extra={"at": world.number}),
        world.after(change),
        world,
        lambda is_done, result: _without_x(world),
    )


def _without_x(world: World) -> None:
    if "x" in world.values:
        tree = tree_of(world.next())
        world.do(lambda: world.bus.commit(tree, structure="new"), tree | {"x": None})


def commit_and_result(world: World) -> Trial:
    trees = [tree_of(world.next()) for _ in range(3)]

    def call() -> Any:
        return [future.result() for future in [world.bus.commit(t, wait=False) for t in trees]]

    return Trial(call, world.after(*trees), world)


def commit_and_next_call(world: World) -> Trial:
    tree = tree_of(world.next())

    def call() -> Any:
        world.bus.commit(tree, wait=False)
        return world.bus.sync()

    return Trial(call, world.after(tree), world)


def write(world: World) -> Trial:
    value = np.full(len(world.values["raw"]), world.next() % 256, np.uint8)
    return Trial(lambda: world.bus.write("raw", value), world.after({"raw": value}), world)


def apply(world: World) -> Trial:
    delta, value = _delta(world)
    return Trial(lambda: world.bus.apply(delta), world.after({"b": value}), world)


def _delta(world: World) -> tuple[mmsb.Delta, np.ndarray]:
    value = np.full(10, world.next(), np.int32)
    region = world.bus.layout.region("b")
    return mmsb.Delta.from_bytes(region, np.ones(40, bool), value.view(np.uint8)), value


def extend(world: World) -> Trial:
    log, changes = mmsb.TLog.empty(commits=3, blocks=9), []
    for _ in range(3):
        delta, value = _delta(world)
        log = log.append(delta)
        changes.append({"b": value})
    return Trial(lambda: world.bus.extend(log), world.after(*changes), world)


def batch(world: World) -> Trial:
    number = world.next()
    change = {
        "raw": np.full(len(world.values["raw"]), number % 256, np.uint8),
        "plot": np.full(8, number % 256, np.uint8),
    }

    def call() -> None:
        with world.bus.batch():
            for name, value in change.items():
                world.bus.write(name, value)

    return Trial(call, world.after(change), world)


def create_and_sync(world: World) -> Trial:
    def call() -> None:
        world.bus.create("made", nbytes=16)
        world.bus.sync()

    def finish(is_done: bool, result: Any) -> None:
        if "made" in world.values:
            world.do(lambda: world.bus.delete("made"), {"made": None})
        elif not is_done:
            with contextlib.suppress(mmsb.ArrayNotFoundError):  # made, and not recorded
                world.bus.delete("made")
                world.look(world.after(None, None))

    states = world.after({"made": np.zeros(16, np.uint8)})
    # What is made is recorded with the next commit, also that of another thread.
    states.insert(1, replace(states[1], commits=0))
    return Trial(call, states, world, finish, ends=2)


def clone(world: World) -> Trial:
    def finish(is_done: bool, result: Any) -> None:
        if "copy" in world.values:
            world.do(lambda: world.bus.delete("copy"), {"copy": None})

    change = {"copy": world.values["raw"]}
    return Trial(lambda: world.bus.clone("raw", "copy"), world.after(change), world, finish)


def resize(world: World) -> Trial:
    old = world.values["raw"]
    size = 300 if len(old) == 100 else 100
    value = np.zeros(size, np.uint8)
    value[: min(size, len(old))] = old[:size]
    return Trial(lambda: world.bus.resize("raw", nbytes=size), world.after({"raw": value}), world)


def delete(world: World) -> Trial:
    world.do(lambda: world.bus.clone("raw", "copy"), {"copy": world.values["raw"]})

    def finish(is_done: bool, result: Any) -> None:
        if "copy" in world.values:
            world.do(lambda: world.bus.delete("copy"), {"copy": None})

    return Trial(lambda: world.bus.delete("copy"), world.after({"copy": None}), world, finish)


def derive_one(world: World) -> Trial:
    def finish(is_done: bool, result: Any) -> None:
        if "half" in world.values:
            world.do(lambda: world.bus.delete("half"), {"half": None})

    change = {"half": world.values["w"] / np.float32(2)}
    return Trial(lambda: world.bus.derive("half", ["w"], _half), world.after(change), world, finish)


def link_data(world: World) -> Trial:
    def finish(is_done: bool, result: Any) -> None:
        if "mirror" in world.values:
            world.do(lambda: world.bus.delete("mirror"), {"mirror": None})

    change = {"mirror": world.values["b"]}
    return Trial(lambda: world.bus.link("b", "mirror"), world.after(change), world, finish)


def link_label(world: World) -> Trial:
    edge: dict[str, Any] = {"parent": "w", "child": "raw", "kind": "device_sync"}

    def finish(is_done: bool, result: Any) -> None:
        try:
            world.bus.unlink(**edge)
        except mmsb.ArrayNotFoundError:
            assert not is_done, "there is no link, and link returned"
        else:
            world.look(world.after(None), is_done=True)

    return Trial(lambda: world.bus.link(**edge), world.after(None), world, finish)


def unlink(world: World) -> Trial:
    edge: dict[str, Any] = {"parent": "w", "child": "raw", "kind": "compiler"}
    world.do(lambda: world.bus.link(**edge), None)

    def finish(is_done: bool, result: Any) -> None:
        try:
            world.bus.unlink(**edge)
        except mmsb.ArrayNotFoundError:
            pass
        else:
            assert not is_done, "the link is there, and unlink returned"
            world.look(world.after(None), is_done=True)

    return Trial(lambda: world.bus.unlink(**edge), world.after(None), world, finish)


def propagate(world: World) -> Trial:
    world.bus.mode = "deferred"
    tree = tree_of(world.next())
    world.do(lambda: world.bus.commit(tree), tree | {"twice": world.values["twice"]})

    def finish(is_done: bool, result: Any) -> None:
        world.bus.mode = "immediate"
        if not np.array_equal(world.values["twice"], tree["w"] * 2):
            world.do(world.bus.propagate, {"w": tree["w"]})

    return Trial(world.bus.propagate, world.after({"w": tree["w"]}), world, finish)


def read_stale(world: World) -> Trial:
    tree = tree_of(world.next())
    world.do(lambda: world.bus.commit(tree), tree)
    value = tree["w"] + np.float32(1)

    def finish(is_done: bool, result: Any) -> None:
        if is_done:
            assert bytes_of(result) == bytes_of(value), "the old value was read"
        elif bytes_of(world.values["lazy"]) != bytes_of(value):
            world.do(lambda: world.bus.read("lazy"), {"lazy": value})

    return Trial(lambda: world.bus.read("lazy"), world.after({"lazy": value}), world, finish)


def tag(world: World) -> Trial:
    tags = {**world.state.tags, f"t{world.next() % 5}": world.version}
    after = replace(world.state, tags=tags, commits=0)
    name = f"t{world.number % 5}"
    states = [replace(world.state, commits=0), after]
    return Trial(lambda: world.bus.tag(name, world.version), states, world)


def untag(world: World) -> Trial:
    version = world.version
    world.bus.tag("gone", version)
    before = replace(world.state, tags={**world.state.tags, "gone": version}, commits=0)
    world.look([before], is_done=True)
    tags = {name: at for name, at in world.state.tags.items() if name != "gone"}
    return Trial(lambda: world.bus.untag("gone"), [before, replace(before, tags=tags)], world)


def snapshot(world: World) -> Trial:
    return Trial(lambda: world.bus.snapshot(), world.after(), world)


def sync(world: World) -> Trial:
    tree = tree_of(world.next())
    world.do(lambda: world.bus.commit(tree), tree)
    return Trial(lambda: world.bus.sync(), world.after(), world)


def compact(world: World) -> Trial:
    for _ in range(3):
        tree = tree_of(world.next())
        world.do(lambda tree=tree: world.bus.commit(tree), tree)
    keep = world.version - 2
    return Trial(lambda: world.bus.compact(keep_since=keep), world.after(), world)


def fork_memory(world: World) -> Trial:
    def finish(is_done: bool, result: Any) -> None:
        if result is not None:
            _check_fork(world, result)

    return Trial(lambda: world.bus.fork(), world.after(), world, finish)


def _check_fork(world: World, fork: mmsb.Bus) -> None:
    version = fork.version
    assert version == world.version or (world.beside is not None and version < world.version)
    found = everything(fork)
    found.pop(BESIDE)
    different = difference(world.state, {name: bytes_of(value) for name, value in found.items()})
    assert not different, f"the fork has other bytes in {different}"
    fork.write("raw", np.zeros(len(world.values["raw"]), np.uint8))
    assert fork.version == version + 1
    fork.close()


def fork_path(world: World) -> Trial:
    """What is cut off leaves nothing in the way of the same fork, or all of it."""
    assert world.path is not None
    place = world.path.with_name(f"fork{world.next()}.mmsb")
    version = world.version

    def finish(is_done: bool, result: Any) -> None:
        fork = result
        if fork is None:
            try:
                fork = world.bus.fork(place, version=version)
            except mmsb.LocationError as error:
                if "is a log already" in str(error):
                    fork = mmsb.open(place)
                elif world.may_leave_drafts:  # as the message says, it is to be removed
                    shutil.rmtree(place)
                    fork = world.bus.fork(place, version=version)
                else:
                    raise
        _check_fork(world, fork)
        shutil.rmtree(place)

    return Trial(lambda: world.bus.fork(place, version=version), world.after(), world, finish)


def export(world: World) -> Trial:
    def finish(is_done: bool, result: Any) -> None:
        if is_done:
            with mmsb.open(page_bytes=PAGE_BYTES) as other:
                _check_export(world, other.import_(result))

    return Trial(lambda: world.bus.export(), world.after(), world, finish)


def _check_export(world: World, commits: list[mmsb.Commit]) -> None:
    version = commits[-1].version
    assert version == world.version or (world.beside is not None and version < world.version)


def export_path(world: World) -> Trial:
    """The file is there, and whole, or it is not; nothing else is left."""
    assert world.path is not None
    folder = world.path.with_name(f"export{world.next()}")
    folder.mkdir()
    file = folder / "stream"

    def finish(is_done: bool, result: Any) -> None:
        if not folder.exists():
            return  # looked at already
        left = sorted(path.name for path in folder.iterdir())
        if world.may_leave_drafts and not is_done and "stream.draft" in left:
            left.remove("stream.draft")
        assert left == ["stream"] if is_done else left in ([], ["stream"]), f"left: {left}"
        if left:
            with mmsb.open(page_bytes=PAGE_BYTES) as other:
                _check_export(world, other.import_(file))
        shutil.rmtree(folder)

    return Trial(lambda: world.bus.export(path=file), world.after(), world, finish)


class _Source:
    """What is imported: six versions of another bus, whole and in parts."""

    def __init__(self) -> None:
        bus = mmsb.open(page_bytes=PAGE_BYTES)
        self.trees = [{}, *map(tree_of, range(100, 106))]
        for tree in self.trees[1:4]:
            bus.commit(tree)
        bus.snapshot()
        self.first = bus.export(since=0)
        for tree in self.trees[4:]:
            bus.commit(tree)
        self.joining, self.behind = bus.export(), bus.export(since=3)
        bus.close()

    def states(self, *versions: int) -> list[State]:
        return [State(self.trees[v], {}, v) for v in versions]


_sources: list[_Source] = []


def _source() -> _Source:
    if not _sources:
        _sources.append(_Source())
    return _sources[0]


def _bare(world: World) -> World:
    path = world.path and world.path.with_name(f"import{world.next()}.mmsb")
    return World(path, world.durability, is_bare=True)


def _import(world: World, before: bytes | None, stream: bytes, *versions: int) -> Trial:
    bare, source = _bare(world), _source()
    if before is not None:
        bare.bus.import_(before)
    states = source.states(*versions)

    def finish(is_done: bool, result: Any) -> None:
        # ``look`` counts from the version that it found last.
        at = bare.version
        bare.bus.import_(stream)
        bare.look([State(source.trees[6], {}, 6 - at)], is_done=True)
        tree = tree_of(world.next())
        bare.do(lambda: bare.bus.commit(tree), tree)
        bare.reopen()
        if not bare.bus.closed:
            assert bare.bus.verify()
        bare.end()
        if bare.path is not None:
            shutil.rmtree(bare.path)

    return Trial(lambda: bare.bus.import_(stream), states, bare, finish)


def import_joining(world: World) -> Trial:
    """Into an empty log, from a snapshot on."""
    return _import(world, None, _source().joining, 0, 3, 4, 5, 6)


def import_behind(world: World) -> Trial:
    """Onto a log that has the first half."""
    return _import(world, _source().first, _source().behind, 3, 4, 5, 6)


def revert_to(world: World) -> Trial:
    """In a log of its own: what another thread has written would go back with the rest."""
    path = world.path and world.path.with_name(f"revert{world.next()}.mmsb")
    other = World(path, world.durability, derives=False)
    tree, old = tree_of(world.next()), other.version
    before = other.values
    other.do(
        lambda: other.bus.commit(tree | {"x": np.ones(50)}, structure="new"),
        tree | {"x": np.ones(50)},
    )
    other.do(lambda: other.bus.delete("plot"), {"plot": None})

    def finish(is_done: bool, result: Any) -> None:
        later = tree_of(world.next())
        other.do(lambda: other.bus.commit(later, structure="new"), later | {"x": None})
        other.reopen()
        if not other.bus.closed:
            assert other.bus.verify(deep=True)
        other.end()
        if path is not None:
            shutil.rmtree(path)

    return Trial(lambda: other.bus.revert_to(old), other.after(before | {"x": None}), other, finish)


def open_again(world: World) -> Trial:
    if world.beside is not None:
        world.beside.wait()
    world.bus.close()
    return Trial(world.open, world.after(), world, lambda is_done, result: None, may_close=True)


def close(world: World) -> Trial:
    tree = tree_of(world.next())
    if world.beside is not None:
        world.beside.wait()
    bus = world.bus

    def call() -> None:
        bus.commit(tree, wait=False)
        bus.close()

    return Trial(call, world.after(tree), world, may_close=True)


def commit_with_handlers(world: World) -> Trial:
    tree, seen = tree_of(world.next()), []
    bus, at = world.bus, world.version

    def handle(event: mmsb.Event) -> None:
        seen.append((event.version, event.kind))
        assert bus.version >= event.version
        bus.read("b")

    kinds = ("changed", "recomputed", "commit")
    subscription = bus.subscribe(kinds, handle, lambda event: event.array in (None, "w", "twice"))

    def finish(is_done: bool, result: Any) -> None:
        subscription.cancel()
        if is_done:
            told = [kind for version, kind in seen if version == result.version]
            assert told == ["changed", "changed", "recomputed", "commit"], told
        commits = [version for version, kind in seen if kind == "commit"]
        assert commits == sorted(set(commits)), f"events of versions {commits} behind {at}"

    return Trial(lambda: bus.commit(tree), world.after(tree), world, finish)


def subscribe(world: World) -> Trial:
    def call() -> None:
        with world.bus.subscribe("*", str):
            pass

    return Trial(call, world.after(), world)


def checkout(world: World) -> Trial:
    def call() -> Any:
        return world.bus.checkout(arrays=["**"]), world.bus.tree(), list(world.bus.log())

    return Trial(call, world.after(), world)


def verify(world: World) -> Trial:
    return Trial(lambda: world.bus.verify(deep=True), world.after(), world)


METHODS: dict[str, Callable[[World], Trial]] = {
    "commit": commit,
    "commit new structure": commit_new_structure,
    "commit wait=False, result": commit_and_result,
    "commit wait=False, sync": commit_and_next_call,
    "write": write,
    "apply": apply,
    "extend": extend,
    "batch": batch,
    "create, sync": create_and_sync,
    "clone": clone,
    "resize": resize,
    "delete": delete,
    "derive": derive_one,
    "link data": link_data,
    "link device_sync": link_label,
    "unlink": unlink,
    "propagate": propagate,
    "read what is stale": read_stale,
    "tag": tag,
    "untag": untag,
    "snapshot": snapshot,
    "sync": sync,
    "compact": compact,
    "fork in memory": fork_memory,
    "fork": fork_path,
    "export": export,
    "export to a file": export_path,
    "import_ into an empty log": import_joining,
    "import_ onto a log": import_behind,
    "revert_to": revert_to,
    "open": open_again,
    "close": close,
    "commit with handlers": commit_with_handlers,
    "subscribe, cancel": subscribe,
    "checkout, tree, log": checkout,
    "verify": verify,
}
DERIVING = {
    "commit", "derive", "link data", "propagate", "read what is stale", "commit with handlers",
}  # fmt: skip
"""What needs arrays that are derived."""

ON_DISK_ALONE = {"fork", "export to a file", "open"}
"""What a bus in memory does not have."""


# ------------------------------------------------------------------- what reads, and the disk's own


def rotate(world: World) -> Trial:
    """A commit so large that a snapshot is made by itself."""
    big = {f"big{n}": np.zeros(1 << 18, np.uint8) for n in range(4)}
    rng = np.random.default_rng(world.next())
    path = world.path and world.path.with_name(f"import{world.next()}.mmsb")
    other = World(path, world.durability, is_bare=True)
    other.bus.commit(big)
    for _ in range(7):  # 4 MB of deltas make one due
        for name in big:
            big[name] = big[name].copy()
            big[name][::2] = rng.integers(0, 256, 1 << 17, np.uint8)
        other.bus.commit(big)
    state = State(dict(big), {}, other.bus.version)
    last = {name: array ^ 1 for name, array in big.items()}

    def call() -> None:
        other.bus.commit(last)
        other.bus.commit(last)
        other.bus.snapshot()

    def finish(is_done: bool, result: Any) -> None:
        other.do(lambda: other.bus.commit(big), big)
        other.bus.snapshot()
        other.reopen()
        if not other.bus.closed:
            assert other.bus.verify()
        other.end()
        if path is not None:
            shutil.rmtree(path)

    at = state.commits
    states = [state, State(last, {}, at + 1), State(last, {}, at + 2)]
    return Trial(call, states, other, finish)


def _reading(
    prepare: Callable[[World], Any],
    call: Callable[[World, Any], Any],
    is_right: Callable[..., bool],
    may_be: Callable[..., bool] = lambda world, result: False,
) -> Callable[[World], Trial]:
    """A trial of a call that only reads: what it returns is right, and it can be had afterwards.

    ``may_be`` says what else it may return when it is cut off.
    """

    def make(world: World) -> Trial:
        reader = prepare(world)
        tree = tree_of(world.next())
        world.do(lambda: world.bus.commit(tree), tree)
        if world.path is not None:
            world.bus.sync()

        def finish(is_done: bool, result: Any) -> None:
            again = None
            try:
                if result is not None and not may_be(world, result):
                    assert is_right(world, result), "what was read is wrong"
                again = call(world, reader)
                assert is_right(world, again), "what is read afterwards is wrong"
            finally:
                for each in (reader, result, again):
                    if isinstance(each, mmsb.Bus | mmsb.Replica) and each is not world.bus:
                        each.close()

        return Trial(lambda: call(world, reader), world.after(), world, finish)

    return make


def _open_reader(world: World, reader: Any = None) -> mmsb.Bus:
    return mmsb.open(world.path, mode="r")


def _has_all(world: World, found: Any) -> bool:
    found = dict(found)
    found.pop(BESIDE)
    return not difference(world.state, {name: bytes_of(value) for name, value in found.items()})


def _make_replica(world: World, replica: Any = None) -> mmsb.Replica:
    replica = mmsb.Replica(world.path, like=tree_of(0))
    replica.update()
    return replica


def _has_tree(world: World, tree: Any) -> bool:
    return all(bytes_of(tree[n]) == bytes_of(world.values[n]) for n in ("w", "b", "n"))


def _newest(world: World, commits: list[mmsb.Commit]) -> bool:
    return [c.version for c in commits][-1:] == [world.version] and commits[-1].changed != ()


READERS: dict[str, Callable[[World], Trial]] = {
    "reader: open": _reading(
        lambda world: None, _open_reader, lambda world, bus: bus.version == world.version
    ),
    "reader: version": _reading(
        _open_reader, lambda world, bus: bus.version, lambda world, n: n == world.version
    ),
    "reader: checkout": _reading(
        _open_reader, lambda world, bus: bus.checkout(arrays=["**"]), _has_all
    ),
    "reader: an old version": _reading(
        _open_reader,
        lambda world, bus: bus.checkout(version=world.version - 1)["n"],
        lambda world, n: n < world.number,
    ),
    "reader: log": _reading(_open_reader, lambda world, bus: list(bus.log()), _newest),
    "reader: history": _reading(
        _open_reader,
        lambda world, bus: bus.history("n")[-1].value,
        lambda world, n: n == world.values["n"],
    ),
    "reader: diff": _reading(
        _open_reader,
        lambda world, bus: bus.diff(world.version - 1, world.version).delta,
        lambda world, delta: int(delta.changed_bytes) > 0,
    ),
    "reader: follow": _reading(
        _open_reader,
        lambda world, bus: list(bus.follow(after=world.version - 1, timeout=0)),
        _newest,
    ),
    "reader: tags": _reading(
        _open_reader, lambda world, bus: bus.tags(), lambda world, tags: tags == world.state.tags
    ),
    "reader: verify": _reading(
        _open_reader,
        lambda world, bus: bus.verify(),
        lambda world, report: bool(report),
        lambda world, report: all("could not be read" in fault for fault in report.faults),
    ),
    "reader: export": _reading(
        _open_reader, lambda world, bus: bus.export(), lambda world, stream: len(stream) > 0
    ),
    "reader: fork": _reading(
        _open_reader, lambda world, bus: bus.fork(), lambda world, fork: fork.version > 0
    ),
    "replica: made": _reading(
        lambda world: None, _make_replica, lambda world, r: r.version == world.version
    ),
    "replica: update": _reading(_make_replica, lambda world, r: r.update(), _has_tree),
    "old version": _reading(
        lambda world: None,
        lambda world, none: world.bus.checkout(version=world.version - 1)["n"],
        lambda world, n: n < world.number,
    ),
    "history": _reading(
        lambda world: None,
        lambda world, none: world.bus.history("n")[-1].value,
        lambda world, n: n == world.values["n"],
    ),
    "diff": _reading(
        lambda world: None,
        lambda world, none: world.bus.diff(world.version - 1, world.version).delta,
        lambda world, delta: int(delta.changed_bytes) > 0,
    ),
    "follow": _reading(
        lambda world: None,
        lambda world, none: list(world.bus.follow(after=world.version - 1, timeout=0)),
        _newest,
    ),
}
