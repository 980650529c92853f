"""A writer at full speed and readers beside it, forked from a process that has imported everything.

``python -m tests.torture._processes PATH READERS COMMITS SECONDS``: the writer commits until it has
made so many commits, or so many seconds have gone; between them it snapshots, rotates and compacts.
What a version holds follows from its number, so a reader knows what is right. Each process tells
what it did in a line.
"""

import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmsb_jax as mmsb

KEPT = 300
"""Versions that the writer keeps when it compacts."""


def content(version: int) -> dict[str, Any]:
    """What a version holds: bytes that all change, bytes of which few do, its number."""
    numbers = np.random.default_rng(version)
    few = np.zeros(5_000, np.float32)
    few[version % few.size] = version
    return {"dense": numbers.integers(0, 256, 300, np.uint8), "few": few, "number": version}


def is_right(tree: dict[str, Any], version: int) -> bool:
    """Whether a tree has every byte of a version."""
    expected = content(version)
    return tree.keys() == expected.keys() and all(
        np.asarray(tree[name]).tobytes() == np.asarray(value).tobytes()
        for name, value in expected.items()
    )


def write(path: Path, commits: int, seconds: float) -> str:
    """The writer."""
    end, version, compacted = time.monotonic() + seconds, 0, 0
    bus = mmsb.open(path, page_bytes=128)
    while version < commits and time.monotonic() < end:
        version += 1
        bus.commit(content(version), wait=version % 3 > 0)
        if version % 100 == 0:
            bus.snapshot()
        if version % 350 == 0:
            bus.compact(keep_since=version - KEPT)
            compacted += 1
    bus.close()
    (path.parent / "done").touch()
    return f"wrote {bus._session.log.version} versions, compacted {compacted} times"


def read(path: Path, number: int, writer: int) -> str:
    """A reader: the newest version, and one that is older, again and again."""
    rng, reads, seen, dropped = random.Random(number), 0, set(), 0
    _is_refused(path, writer)
    with mmsb.open(path, mode="r") as bus:
        is_done = False
        while not is_done:
            is_done = (path.parent / "done").exists()
            least = bus.version
            tree = bus.checkout()
            if tree:
                version = int(tree["number"])
                assert version >= least, f"version {version} after {least}"
                assert is_right(tree, version), f"version {version}"
                seen.add(version)
                dropped += not _has_older(bus, rng.randint(1, version))
            reads += 1
        assert bus.verify()
        return (
            f"reader {number}: {reads} reads, {len(seen)} versions seen, {dropped} compacted away"
        )


def _has_older(bus: mmsb.Bus, version: int) -> bool:
    """Compare an older version; False where it was compacted away."""
    try:
        tree = bus.checkout(version=version)
    except mmsb.VersionError:
        return False
    assert is_right(tree, version), f"version {version}"
    return True


def _is_refused(path: Path, writer: int) -> None:
    """A second writer is refused, with the pid of the first."""
    with pytest.raises(mmsb.LockedError, match=f"process {writer} "):
        mmsb.open(path)


def _fork(run: Callable[[], str]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.write(1, (run() + "\n").encode())
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main() -> None:
    """Fork them all, and wait; what failed ends the process with an error."""
    path, readers = Path(sys.argv[1]), int(sys.argv[2])
    writer = _fork(lambda: write(path, int(sys.argv[3]), float(sys.argv[4])))
    while not (path / "lock.holder").exists() or not (path / "manifest").exists():
        os.sched_yield()
    children = [_fork(lambda n=n: read(path, n, writer)) for n in range(readers)]
    for child in (writer, *children):
        if os.waitpid(child, 0)[1]:
            (path.parent / "done").touch()
            sys.exit(f"process {child} failed")


if __name__ == "__main__":
    main()
