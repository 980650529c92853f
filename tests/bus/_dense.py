"""Runs in which every word changes, in segments of a few states."""

import numpy as np

import mmsb_jax as mmsb

STATE_BYTES = 4 * 2_000


def state(number: int) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(number)
    return {"w": noise.integers(0, 1 << 32, STATE_BYTES // 4, np.uint32)}


def settled(bus: mmsb.Bus) -> None:
    """Wait for what goes on in the background."""
    bus._session.engine.writer.finish_background()


def note(step: int) -> dict[str, float]:
    return {"loss": abs(step - 37.0)}


def train(bus: mmsb.Bus, steps: range) -> None:
    """Commit steps, no faster than the background does its work."""
    for step in steps:
        bus.commit(state(step), step=step, note=note(step), extra={"at": step})
        settled(bus)
