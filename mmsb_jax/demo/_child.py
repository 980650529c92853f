"""The process that trains, and that may be killed: ``python -m mmsb_jax.demo._child LOG STEPS``.

It prints a line a step, and at its end one with what it measured. Without a log (``-``) it trains
and commits nothing.
"""

import json
import statistics
import sys
import time
from typing import Any

import jax

import mmsb_jax as mmsb
from mmsb_jax.demo import _training as training

LEARNING_RATE = 3e-3


def train(path: str, steps: int) -> None:
    """Train to ``steps``, from where the log at ``path`` ends."""
    optimizer = training.adam(LEARNING_RATE)
    step = training.make_step(optimizer)
    data, _ = training.load()

    bus = mmsb.open(path)
    state, extra = bus.resume(training.start(optimizer), {"position": 0})
    batches = training.Batches(*data, **extra)
    step_ms, commit_ms = [], []
    for _ in range(state["step"], steps):
        begun = time.perf_counter()
        state, loss = step(state, next(batches))
        jax.block_until_ready(loss)
        stepped = time.perf_counter()
        bus.commit(
            state,
            step=state["step"],
            source="train",
            note={"loss": loss},
            extra={"position": batches.position},
            wait=False,
        )
        step_ms.append((stepped - begun) * 1e3)
        commit_ms.append((time.perf_counter() - stepped) * 1e3)
        print(state["step"], flush=True)
    bus.close()
    report(step_ms=step_ms, commit_ms=commit_ms)


def train_bare(steps: int) -> None:
    """The same training, and no commits."""
    optimizer = training.adam(LEARNING_RATE)
    step = training.make_step(optimizer)
    batches = training.Batches(*training.load()[0])
    state = training.start(optimizer)
    step_ms = []
    for _ in range(steps):
        begun = time.perf_counter()
        state, loss = step(state, next(batches))
        jax.block_until_ready(loss)
        step_ms.append((time.perf_counter() - begun) * 1e3)
    report(step_ms=step_ms)


def report(**times: list[float]) -> None:
    """Print the medians; the first steps compile."""
    medians: dict[str, Any] = {name: statistics.median(t[5:] or t) for name, t in times.items()}
    print(json.dumps(medians), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "-":
        train_bare(int(sys.argv[2]))
    else:
        train(sys.argv[1], int(sys.argv[2]))
