"""The process that is killed while it commits, forked from one that has imported everything.

Lines that it is told: ``PATH SEED``. Lines that it tells, each written at once:

- ``P pid``: the child that commits now;
- ``S version digest``: what is submitted next;
- ``A version``: that it is acknowledged;
- ``D``: the child is dead, and nothing follows of it.
"""

import hashlib
import os
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb


def content(seed: int, number: int) -> dict[str, np.ndarray]:
    """What is committed: bytes that all change, bytes of which few change, a counter."""
    rng = np.random.default_rng([seed, number])
    few = np.zeros(20_000, np.float32)
    few[rng.integers(0, few.size, 50)] = number
    return {
        "dense": rng.integers(0, 2**16, 40_000, np.uint16),
        "few": few,
        "number": np.asarray(number),
    }


def digest(tree: Mapping[str, Any]) -> str:
    """A digest of names and bytes."""
    whole = hashlib.sha256()
    for name in sorted(tree):
        whole.update(name.encode() + b"\0" + np.asarray(tree[name]).tobytes())
    return whole.hexdigest()


def _tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def _commit_for_ever(path: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bus = mmsb.open(path)
    first = bus.version + 1
    few = np.zeros(20_000, np.float32)
    donate = jax.jit(lambda x: x + 1, donate_argnums=0)
    waiting: deque[Any] = deque()
    for version in range(first, first + 10**6):
        host = content(seed, version)
        few[:] = host["few"]
        tree = {"dense": jnp.array(host["dense"]), "few": few, "number": version}
        is_waiting = bool(rng.integers(2))
        _tell("S", version, digest(host))
        done = bus.commit(tree, wait=is_waiting)
        donate(tree["dense"])
        few[:] = -1
        if not is_waiting:
            waiting.append(done)
        while waiting and (is_waiting or len(waiting) > 1):
            _tell("A", waiting.popleft().result().version)
        if is_waiting:
            _tell("A", done.version)


def main() -> None:
    """Fork a child for every line read, and tell when it is dead."""
    for line in sys.stdin:
        path, seed = line.split()
        child = os.fork()
        if child == 0:
            _tell("P", os.getpid())
            _commit_for_ever(path, int(seed))
        os.waitpid(child, 0)
        _tell("D")


if __name__ == "__main__":
    main()
