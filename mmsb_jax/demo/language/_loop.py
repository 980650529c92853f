"""What a training loop adds: a log that is opened, a commit after each step."""

import sys
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp

import mmsb_jax as mmsb
from mmsb_jax.demo.language._model import ModelSize
from mmsb_jax.demo.language._training import Extra, State, Step

SPOILED = "params/blocks/0/up"
"""The array that a NaN is put into."""


def open_log(path: Path | str, size: ModelSize) -> mmsb.Bus:
    """The log of a run: bytes now and then and when it is told to end, digests in between."""
    return mmsb.open(
        path,
        save=mmsb.Every(steps=size.save_every) | mmsb.OnPreemption(),
        keep=mmsb.Keep(last=3, best=mmsb.Best("loss")),
    )


def train(
    bus: mmsb.Bus,
    step: Step,
    state: State,
    extra: Extra,
    until: int,
    tick: Callable[[int], None],
    spoil_at: int = 0,
) -> None:
    """Take steps up to ``until``, and commit each; ``tick`` is told its number.

    Behind step ``spoil_at`` something goes wrong in memory.
    """
    while extra["next"] < until:
        state, extra = step(state, extra)
        number = extra["next"]
        if number == spoil_at:
            state = spoil(state)
        bus.commit(state, step=number, extra=extra, note={"loss": state["loss"]}, wait=False)
        tick(number)
    bus.sync()


def spoil(state: State) -> State:
    """The state with one NaN in it, in `SPOILED`."""
    first, *others = state["params"]["blocks"]
    blocks = [first | {"up": first["up"].at[0, 0].set(jnp.nan)}, *others]
    return state | {"params": state["params"] | {"blocks": blocks}}


def show_progress(until: int) -> Callable[[int], None]:
    """Shows how far a run is, where there is a terminal to show it on."""
    if not sys.stderr.isatty():
        return lambda _: None
    return lambda step: print(f"  step {step} of {until}", end="\r", file=sys.stderr, flush=True)
