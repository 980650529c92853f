"""Entry 19: another log comes to the path, or none is left there, under those who live with it.

Readers, followers and replicas say `DivergenceError` where another log stands there; where none
does, that or `ClosedError` or `LocationError`. A writer is refused before it acknowledges anything
that nobody will ever read. A lock that was deleted is noticed, at the latest after 100 ms.
"""

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.log.opened import OpenedLog
from tests.bus._script import ROOT, command_of, run_script
from tests.torture._scale import scaled

VERSIONS = 5
GONE = (mmsb.DivergenceError, mmsb.ClosedError, mmsb.LocationError)
DEADLINE_S = 20.0  # by far more than the 100 ms after which it has to be noticed


def tree_of(run: int, version: int) -> dict[str, Any]:
    """What a run commits; each run has other bytes."""
    return {"w": np.full(3_000, 100 * run + version, np.float32), "n": version}


def write(path: Path, run: int, until: int) -> None:
    """Commit up to a version."""
    with mmsb.open(path, page_bytes=128) as bus:
        while bus.version < until:
            bus.commit(tree_of(run, bus.version + 1))
            if bus.version == 3:
                bus.snapshot()


# -------------------------------------------------------------------------------- what happens


def a_new_run(path: Path, newest: int) -> None:
    """Removed, and made anew: as long as the old one, or longer, or shorter."""
    shutil.rmtree(path)
    write(path, 2, newest)


def another_log(path: Path, newest: int) -> None:
    """Another log renamed to the place; the old one is kept elsewhere."""
    write(path.with_name("other.mmsb"), 2, newest)
    path.rename(path.with_name("old.mmsb"))
    path.with_name("other.mmsb").rename(path)


def an_older_copy(path: Path, newest: int) -> None:
    """A copy of version 3 put back, and gone on from in another way."""
    shutil.rmtree(path)
    path.with_name("copy.mmsb").rename(path)
    write(path, 2, newest)


def moved_away(path: Path, newest: int) -> None:
    path.rename(path.with_name("old.mmsb"))


def removed(path: Path, newest: int) -> None:
    shutil.rmtree(path)


CHANGES: dict[str, Callable[[Path, int], None]] = {
    f.__name__: f for f in (a_new_run, another_log, an_older_copy, moved_away, removed)
}
NEWEST = {"shorter": 4, "as long": VERSIONS, "longer": VERSIONS + 3}


# --------------------------------------------------------------------------- who lives with it


def _follow(path: Path) -> Callable[[], Any]:
    bus = mmsb.open(path, mode="r")
    commits = bus.follow(after=0, timeout=DEADLINE_S)
    for _ in range(VERSIONS):
        next(commits)
    return lambda: next(commits)


def _replica(path: Path) -> Callable[[], Any]:
    replica = mmsb.Replica(path, like=tree_of(0, 0))
    replica.update()
    return replica.update


def _reader(look: Callable[[mmsb.Bus], Any]) -> Callable[[Path], Callable[[], Any]]:
    def make(path: Path) -> Callable[[], Any]:
        bus = mmsb.open(path, mode="r")
        assert bus.version == VERSIONS
        bus.tree()
        return lambda: look(bus)

    return make


LOOKERS: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "follower": _follow,
    "replica": _replica,
    "version": _reader(lambda bus: bus.version),
    "durable_version": _reader(lambda bus: bus.durable_version),
    "tree": _reader(lambda bus: bus.tree()),
    "read": _reader(lambda bus: bus.read("w")),
    "checkout": _reader(lambda bus: bus.checkout()),
    "checkout of an old version": _reader(lambda bus: bus.checkout(version=2)),
    "log": _reader(lambda bus: list(bus.log())),
    "history": _reader(lambda bus: bus.history("w").versions),
    "diff": _reader(lambda bus: bus.diff(1, 2)),
    "tags": _reader(lambda bus: bus.tags()),
    "export": _reader(lambda bus: bus.export(since=0)),
    "fork": _reader(lambda bus: bus.fork()),
    "verify": _reader(lambda bus: bus.verify()),
}


def replace_under(path: Path, looker: str, change: str, newest: str) -> None:
    """One trial: what is read from then on is an error, and stays one."""
    write(path, 1, 3)
    shutil.copytree(path, path.with_name("copy.mmsb"))
    write(path, 1, VERSIONS)
    look = LOOKERS[looker](path)
    CHANGES[change](path, NEWEST[newest])
    is_gone = not path.exists()
    for _ in range(1 if looker == "follower" else 2):  # an iterator that raised has ended
        try:
            found = look()
        except GONE if is_gone else mmsb.DivergenceError:
            continue
        except StopIteration:
            found = "the end"
        pytest.fail(f"{looker}, {change} ({newest}): nothing was said, and {found!r:.80} was read")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("looker", LOOKERS)
def test_reader_of_a_log_that_was_replaced_or_removed_says_so(tmp_path, looker, change):
    replace_under(tmp_path / "run.mmsb", looker, change, "longer")


@pytest.mark.parametrize("step", ["_open", "_go_on"])
def test_log_that_is_replaced_during_a_look_is_noticed_by_the_next_one(tmp_path, monkeypatch, step):
    path = tmp_path / "run.mmsb"
    write(path, 1, 3)
    bus = mmsb.open(path, mode="r") if step == "_go_on" else None
    with mmsb.open(path) as writer:
        writer._session.writing().writer.rotate()
    shutil.copytree(path, path.with_name("copy.mmsb"))
    write(path, 1, VERSIONS)
    read = getattr(OpenedLog, step)

    def read_then_replaced(log: OpenedLog) -> Any:
        monkeypatch.undo()
        found = read(log)
        an_older_copy(path, VERSIONS + 3)
        return found

    monkeypatch.setattr(OpenedLog, step, read_then_replaced)
    if bus is None:
        bus = mmsb.open(path, mode="r")
    else:
        assert bus.version == VERSIONS
    with pytest.raises(mmsb.DivergenceError):
        bus.tree()


@pytest.mark.long
def test_readers_of_logs_that_are_replaced_in_any_way_say_so(tmp_path):
    rng, counts = random.Random(1), 0
    for number in range(scaled(600, least=20)):
        place = tmp_path / str(number)
        place.mkdir()
        looker, change = rng.choice(list(LOOKERS)), rng.choice(list(CHANGES))
        replace_under(place / "run.mmsb", looker, change, rng.choice(list(NEWEST)))
        shutil.rmtree(place)
        counts += 1
    print(f"{counts} logs replaced or removed under their readers, none unnoticed")


# ------------------------------------------------------------------------------------ the writer


WRITES: dict[str, Callable[[mmsb.Bus], Any]] = {
    "commit": lambda bus: bus.commit(tree_of(3, 9)),
    "commit wait=False": lambda bus: bus.commit(tree_of(3, 9), wait=False).result(),
    "write": lambda bus: bus.write("raw", np.ones(8, np.uint8)),
    "tag": lambda bus: bus.tag("best"),
    "sync": lambda bus: bus.sync(),
    "snapshot": lambda bus: bus.snapshot(),
    "compact": lambda bus: bus.compact(keep_since=3),
    "export": lambda bus: bus.export(),
}
AT_ONCE = {"tag", "sync", "snapshot", "compact"}
"""Who looks at the path and the lock at once; the others may look every 100 ms."""


def _refused(bus: mmsb.Bus, write: Callable[[mmsb.Bus], Any], at_once: bool) -> int:
    """How often it was let before it was refused."""
    end, let = time.monotonic() + DEADLINE_S, 0
    while True:
        try:
            write(bus)
        except mmsb.ClosedError:
            return let
        let += 1
        assert not at_once, "it was acknowledged, and nobody will ever read it"
        assert time.monotonic() < end, f"{let} times acknowledged, and nobody will ever read it"


def _writer(path: Path, durability: Any) -> mmsb.Bus:
    write(path, 1, 3)
    shutil.copytree(path, path.with_name("copy.mmsb"))
    bus = mmsb.open(path, durability=durability)
    for version in range(4, VERSIONS + 1):
        bus.commit(tree_of(1, version))
    bus.create("raw", nbytes=8)
    bus.sync()
    return bus


@pytest.mark.parametrize("durability", ["os", "fsync", ("group", 5)], ids=str)
@pytest.mark.parametrize("name", WRITES)
def test_writer_whose_directory_was_removed_is_refused_at_once(tmp_path, name, durability):
    bus = _writer(tmp_path / "run.mmsb", durability)
    shutil.rmtree(tmp_path / "run.mmsb")
    assert _refused(bus, WRITES[name], at_once=True) == 0
    assert _refused(bus, WRITES["commit"], at_once=True) == 0
    bus.close()


def _close(bus: mmsb.Bus) -> None:
    """Close a bus; it tells once more of a commit that nobody waited for."""
    with contextlib.suppress(mmsb.ClosedError):
        bus.close()


@pytest.mark.parametrize("change", ["moved_away", "another_log"])
@pytest.mark.parametrize("name", WRITES)
def test_writer_whose_directory_is_elsewhere_is_refused_before_long(tmp_path, name, change):
    bus = _writer(tmp_path / "run.mmsb", "fsync")
    if change == "moved_away":
        moved_away(tmp_path / "run.mmsb", 0)
    else:  # a writer of another process: this one would be given the bus that it has
        run_script(
            """
            import sys
            from pathlib import Path
            from tests.torture.test_identity import another_log
            another_log(Path(sys.argv[1]), 8)
            """,
            tmp_path / "run.mmsb",
        )
    _refused(bus, WRITES[name], name in AT_ONCE)
    _close(bus)
    if change == "another_log":
        with mmsb.open(tmp_path / "run.mmsb", mode="r") as other:
            assert other.verify()
            assert other.version == 8


@pytest.mark.parametrize("how", ["deleted", "another file"])
@pytest.mark.parametrize("name", WRITES)
def test_writer_whose_lock_was_deleted_is_refused_before_long(tmp_path, name, how):
    path = tmp_path / "run.mmsb"
    bus = _writer(path, "fsync")
    (path / "lock").unlink()
    if how == "another file":
        (path / "lock").touch()
    _refused(bus, WRITES[name], name in AT_ONCE)
    newest = bus.durable_version
    _close(bus)
    with mmsb.open(path) as again:
        assert again.version >= newest
        assert again.verify()


def test_second_writer_behind_a_deleted_lock_loses_nothing(tmp_path):
    """What the second acknowledges is there; the first is refused before it writes into it."""
    path = tmp_path / "run.mmsb"
    bus = _writer(path, "fsync")
    (path / "lock").unlink()
    code = """
    import sys, mmsb_jax as mmsb
    from tests.torture.test_identity import tree_of
    with mmsb.open(sys.argv[1], durability="fsync") as bus:
        for number in range(5):
            commit = bus.commit(tree_of(7, number))
        print(commit.version)
    """
    acknowledged = int(run_script(code, path))
    with pytest.raises(mmsb.ClosedError):
        bus.sync()
    with pytest.raises(mmsb.ClosedError):
        bus.commit(tree_of(1, 99))
    bus.close()
    with mmsb.open(path) as again:
        assert again.version == acknowledged == VERSIONS + 6
        assert again.tree()["n"] == 4
        assert again.verify()


# ------------------------------------------------------- entry 22: what stands in a file's place


def _fifo(place: Path) -> None:
    os.mkfifo(place)


def _socket(place: Path) -> None:
    code = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    subprocess.run(command_of(code, place.name), cwd=place.parent, check=True)


def _folder(place: Path) -> None:
    place.mkdir()


def _link(place: Path) -> None:
    target = place.with_name("target")
    target.write_bytes(b"precious")
    place.symlink_to(target)


def _hard_link(place: Path) -> None:
    target = place.with_name("target")
    target.write_bytes(b"precious")
    place.hardlink_to(target)


def _dangling(place: Path) -> None:
    place.symlink_to("nowhere")


def _device(place: Path) -> None:
    try:
        os.mknod(place, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        pytest.skip("devices can only be made by root")


KINDS: dict[str, Callable[[Path], None]] = {
    f.__name__: f for f in (_fifo, _socket, _folder, _link, _hard_link, _dangling, _device)
}
PLACES = ("lock", "lock.holder", "manifest", "log/segment", "snapshots/snapshot")


def test_log_with_something_else_in_a_files_place_is_opened_or_refused(tmp_path):
    """An error of the library, in bounded time; or it opens, and all is there. Never a hang.

    What a link leads to is neither followed nor overwritten.
    """
    write(tmp_path / "run.mmsb", 1, VERSIONS)
    tried = {}
    for place in PLACES:
        for kind, make in KINDS.items():
            path = tmp_path / f"{len(tried)}.mmsb"
            shutil.copytree(tmp_path / "run.mmsb", path)
            target = _place_of(path, place)
            target.unlink(missing_ok=True)
            make(target)
            tried[path] = (place, kind)
    code = """
    import signal, sys, mmsb_jax as mmsb
    for path in sys.argv[1:]:
        print("at", path, flush=True)
        signal.alarm(30)
        for mode in "r", "a":
            try:
                with mmsb.open(path, mode=mode) as bus:
                    bus.checkout()
                    print("version", bus.version)
                    if mode == "a":
                        bus.commit({"w": 1}, structure="new")
                        with mmsb.open(path, mode="r") as reader:
                            assert reader.version == bus.version
            except mmsb.MMSBError as error:
                print(type(error).__name__)
    """
    done = subprocess.run(command_of(code, *tried), cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    at = [line.split()[1] for line in lines if line.startswith("at ")][-1]
    assert done.returncode == 0, f"{tried[Path(at)]}: {done.returncode}, {done.stderr}"
    for line in lines:
        at = line.split()[1] if line.startswith("at ") else at
        place, kind = tried[Path(at)]
        left = _place_of(Path(at), place).with_name("target")
        assert not left.exists() or left.read_bytes() == b"precious", f"{place}, {kind}"
        if line.startswith("version"):
            assert place not in ("manifest", "log/segment"), f"{place}, {kind}: {line}"
            assert line == f"version {VERSIONS}", f"{place}, {kind}: {line}"
    print(f"{len(tried)} logs with something else in a file's place")


def _place_of(path: Path, place: str) -> Path:
    if "/" not in place:
        return path / place
    folder = path / place.split("/")[0]
    return sorted(path for path in folder.iterdir() if path.name != "target")[-1]
