"""The demonstration's whole pipeline: what a commit after each step takes of a step of training."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import mmsb_jax as mmsb
from benchmarks.peers import Rows, beside
from mmsb_jax.bench import works
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row

_STEPS = 25


def rows(folder: Path, long: bool) -> Rows:
    """Batches of 64 and of 1,024 digits; float32 with Adam, bfloat16 with plain SGD."""
    del long

    def steps() -> Rows:
        import optax

        from mmsb_jax.demo import _training as training

        for dtype, optimizer in ((jnp.float32, training.adam()), (jnp.bfloat16, optax.sgd(0.01))):
            yield from _steps(folder, dtype, optimizer)

    yield from beside("the demonstration (the extra demo)", steps)


def _steps(folder: Path, dtype: Any, optimizer: Any) -> Iterator[Row]:
    from mmsb_jax.demo import _training as training

    step, (digits, _) = training.make_step(optimizer), training.load()
    word = jnp.dtype(dtype).name

    def loop(bus: mmsb.Bus | None, batch: int) -> Work:
        batches = training.Batches(digits, batch)
        held = training.start(optimizer, dtype)

        def run() -> None:
            nonlocal held
            landing = None
            for _ in range(_STEPS):
                held, _ = step(held, next(batches))
                if bus is not None:
                    landing = bus.commit(held, wait=False)
            jax.block_until_ready(held)
            if landing is not None:
                landing.result()

        return Work("the step alone", run, items=_STEPS)

    for batch in (64, 1024):
        with works.bus_in(folder) as bus:
            row = compare(
                f"pipeline/{word}-{batch}",
                f"a step of training, batch {batch:,}, {word}, with a commit after it",
                loop(bus, batch), loop(None, batch), rounds=7,
            )  # fmt: skip
        share = 1 - 1 / row.ratio
        yield dataclasses.replace(row, note=f"the commit is {share:.0%} of it")
