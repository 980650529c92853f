"""The runs beside the main one: a fork, one in bfloat16, and those that are timed."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mmsb_jax as mmsb
from mmsb_jax.demo import _training as training
from mmsb_jax.demo._processes import Tick

FORK_RATE = 3e-4
_ROUNDS = 3


def go_on_slower(bus: mmsb.Bus, path: Path, version: int, steps: int, tick: Tick) -> None:
    """Fork at ``version``, and train to ``steps`` from there with another learning rate."""
    optimizer = training.adam()
    step = training.make_step(optimizer)
    with bus.fork(path, version=version) as fork:
        state, extra = fork.resume(training.start(optimizer))
        batches = training.Batches(training.load()[0], **extra)
        state["opt"].hyperparams["learning_rate"] = jnp.float32(FORK_RATE)
        for i in range(state["step"], steps):
            state, _ = step(state, next(batches))
            extra = {"position": batches.position}
            fork.commit(state, step=i + 1, source="fork", extra=extra, wait=False)
            tick(i + 1)


def train_bfloat16(path: Path, learning_rate: float, steps: int, tick: Tick) -> None:
    """Train the same network with bfloat16 weights and plain SGD."""
    optimizer = optax.sgd(learning_rate)
    step = training.make_step(optimizer)
    batches = training.Batches(training.load()[0])
    state = training.start(optimizer, jnp.bfloat16)
    with mmsb.open(path) as bus:
        for i in range(steps):
            state, _ = step(state, next(batches))
            bus.commit(state, step=i + 1, wait=False)
            tick(i + 1)


@dataclass(frozen=True)
class StepTime:
    """Time of a step, medians in milliseconds: the whole loop's, divided by its steps.

    Attributes:
        batch: digits in a batch.
        alone_ms: without commits.
        committed_ms: with a commit after each step, until the last of them has landed.
    """

    batch: int
    alone_ms: float
    committed_ms: float

    @property
    def commit_ms(self) -> float:
        """What a commit adds to a step."""
        return self.committed_ms - self.alone_ms


def time_steps(path: Path, batch: int, steps: int) -> StepTime:
    """Time the same loop without and with commits, in turn."""
    optimizer = training.adam()
    step = training.make_step(optimizer)
    digits, _ = training.load()

    def loop(bus: mmsb.Bus | None, state: Any, batches: training.Batches, count: int) -> Any:
        landing = None
        for _ in range(count):
            state, _ = step(state, next(batches))
            if bus is not None:
                landing = bus.commit(state, wait=False)
        if landing is not None:
            landing.result()
        return jax.block_until_ready(state)

    def step_ms(bus: mmsb.Bus | None) -> float:
        batches = training.Batches(digits, batch)
        state = loop(bus, training.start(optimizer), batches, 3)  # compiles
        begun = time.perf_counter()
        loop(bus, state, batches, steps)
        return (time.perf_counter() - begun) * 1e3 / steps

    with mmsb.open(path) as bus:
        rounds = [(step_ms(None), step_ms(bus)) for _ in range(_ROUNDS)]
    alone, committed = map(statistics.median, zip(*rounds, strict=True))
    return StepTime(batch, alone, committed)
