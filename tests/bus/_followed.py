"""The processes of the test of followers: ``PATH write COMMITS`` and ``PATH read KIND``.

Each prints lines of a version and a digest of its bytes, from scratch. The writer commits at full
speed, begins new segments and compacts. Readers are of the kinds `checkouts`, `followed`, `replica`
and `mirror`.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb
from tests.bus._killed import digest

KINDS = ("checkouts", "followed", "replica", "mirror")
FIVE_MINUTES = -300
"""So many seconds, given as a number of commits below zero."""

_LARGE, _SMALL = 120_000, 500
_LIKE = {
    "dense": jax.ShapeDtypeStruct((_SMALL,), np.uint16),
    "few": jax.ShapeDtypeStruct((_LARGE,), np.float32),
    "mixed": jax.ShapeDtypeStruct((_LARGE,), jnp.bfloat16),
    "number": 0,
}


def contents(seed: int = 0) -> Iterator[dict[str, Any]]:
    """What is committed: one after the other."""
    rng = np.random.default_rng(seed)
    few, mixed = np.zeros(_LARGE, np.float32), np.zeros(_LARGE, np.uint16)
    number = 0
    while True:
        number += 1
        few[rng.integers(0, _LARGE, 40)] = number
        if number % 20 == 0:
            mixed ^= rng.integers(0, 4, _LARGE).astype(np.uint16)
        dense = rng.integers(0, 2**16, _SMALL, np.uint16)
        yield {
            "dense": jnp.asarray(dense),
            "few": jnp.array(few),
            "mixed": jax.lax.bitcast_convert_type(jnp.array(mixed), jnp.bfloat16),
            "number": number,
        }


def write(path: str, commits: int) -> None:
    """Commit so many times; for so many seconds where it is below zero."""
    while any(not os.path.exists(f"{path}.{kind}") for kind in KINDS):
        time.sleep(0.01)
    until = time.monotonic() - commits if commits < 0 else float("inf")
    told = []
    with mmsb.open(path) as bus:
        for number, tree in enumerate(contents(), 1):
            bus.commit(tree, wait=number % 2 == 0)
            told.append(f"{number} {digest(tree)}")
            if number % 50 == 0:
                bus.snapshot()
                bus.compact(keep_since=number - 10)
            if number == commits or time.monotonic() > until:
                break
    draft = Path(f"{path}.draft")
    draft.write_text(str(number))
    draft.rename(f"{path}.done")
    print("\n".join(told))


Seen = Iterator[tuple[int, dict[str, Any]]]


def checkouts(path: str) -> Seen:
    """Whatever is newest, again and again."""
    with mmsb.open(path, mode="r") as reader:
        while True:
            version = reader.version
            with contextlib.suppress(mmsb.VersionError):  # compacted away meanwhile
                yield version, reader.checkout(version=version)


def followed(path: str) -> Seen:
    """Every commit, one after the other; from the newest on where some were compacted away."""
    with mmsb.open(path, mode="r") as reader:
        after = 0
        while True:
            try:
                for commit in reader.follow(after=after, timeout=0.1):
                    yield commit.version, reader.checkout(version=commit.version)
                    after = commit.version
            except mmsb.VersionError:
                after = reader.version - 1
            else:
                yield after, {}


def replica(path: str) -> Seen:
    """A replica's arrays."""
    with mmsb.Replica(path, like=_LIKE) as replica:
        while True:
            tree = replica.update()
            yield replica.version, tree


def mirror(path: str) -> Seen:
    """A bus that takes in what is exported; from the newest state on where some is gone."""
    bus = mmsb.open()
    with mmsb.open(path, mode="r") as reader:
        while True:
            try:
                bus.import_(reader.export(since=bus.version))
            except mmsb.VersionError:
                bus.close()
                bus = mmsb.open()
                with contextlib.suppress(mmsb.VersionError):
                    bus.import_(reader.export())
            yield bus.version, bus.tree()


def read(path: str, kind: str) -> None:
    """Read until the writer is done, and its last version then; tell a digest a version."""
    Path(f"{path}.{kind}").touch()  # the writer waits until all are there
    while not os.path.exists(f"{path}/manifest"):
        time.sleep(0.01)
    told: dict[int, str] = {}
    last = 0
    for version, tree in globals()[kind](path):
        if version and tree and version not in told:
            told[version] = digest(tree)
        if not last and os.path.exists(f"{path}.done"):
            last = int(Path(f"{path}.done").read_text())
        if last and version == last:
            break
    print("\n".join(f"{version} {found}" for version, found in told.items()))


if __name__ == "__main__":
    if sys.argv[2] == "write":
        write(sys.argv[1], int(sys.argv[3]))
    else:
        read(sys.argv[1], sys.argv[3])
