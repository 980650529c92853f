"""What the demo reads from logs, and the runs that it makes beside the first one."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mmsb_jax as mmsb
from mmsb_jax.demo import _training as training
from mmsb_jax.demo._child import LEARNING_RATE

FORK_RATE = 3e-4
SMALL_RATE = 1e-3


@dataclass(frozen=True)
class Cost:
    """What a run's commits cost.

    Attributes:
        steps: commits, the first one left out: it is a full copy.
        logged_bytes: bytes that they take in the log.
        full_bytes: bytes of as many full copies.
        changed: median share of the bytes that changed in a step.
    """

    steps: int
    logged_bytes: int
    full_bytes: int
    changed: float


def cost_of(bus: Any) -> Cost:
    """The cost of the commits of a log."""
    commits = list(bus.log())[1:]
    state_bytes = bus.stats().state_bytes
    return Cost(
        len(commits),
        sum(commit.logged_bytes for commit in commits),
        state_bytes * len(commits),
        statistics.median(commit.changed_bytes for commit in commits) / state_bytes,
    )


def differing_arrays(left: Any, right: Any) -> list[str]:
    """Names of the arrays of two states that are not equal byte for byte."""
    one, other = ({name: _bytes(x) for name, x in state.items()} for state in (left, right))
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _bytes(leaf: Any) -> bytes:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def accuracies(bus: Any, versions: list[int]) -> list[float]:
    """The accuracy of the parameters at each version, from the log alone."""
    accuracy = training.make_accuracy(*training.load()[1])
    like = training.start(training.adam(LEARNING_RATE))
    return [accuracy(bus.checkout(version=v, like=like)["params"]) for v in versions]


def go_on_slower(bus: Any, path: Path, version: int, steps: int) -> Any:
    """A fork from ``version`` on that trains to ``steps`` with another learning rate."""
    optimizer = training.adam(LEARNING_RATE)
    step = training.make_step(optimizer)
    fork = bus.fork(path, version=version)
    state, extra = fork.resume(training.start(optimizer))
    batches = training.Batches(*training.load()[0], **extra)
    state["opt"].hyperparams["learning_rate"] = jnp.asarray(FORK_RATE, jnp.float32)
    for _ in range(state["step"], steps):
        state, _ = step(state, next(batches))
        fork.commit(state, step=state["step"], extra={"position": batches.position}, wait=False)
    return fork


def train_bfloat16(path: Path, steps: int) -> Cost:
    """The same network with bfloat16 weights and plain SGD at a small rate."""
    optimizer = optax.sgd(SMALL_RATE)
    step = training.make_step(optimizer)
    batches = training.Batches(*training.load()[0])
    state = training.start(optimizer, jnp.bfloat16)
    with mmsb.open(path) as bus:
        for _ in range(steps + 1):
            bus.commit(state, step=state["step"], wait=False)
            state, _ = step(state, next(batches))
        bus.sync()
        return cost_of(bus)
