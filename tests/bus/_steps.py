"""Runs of a tiny tree, whose value says at which step of which run it is."""

import numpy as np

import mmsb_jax as mmsb


def tree(number: float) -> dict[str, np.ndarray]:
    return {"w": np.full(4, number, np.float32)}


def run_steps(bus: mmsb.Bus, first: int, last: int, run: int = 0) -> None:
    """A commit a step, of which the time is its version."""
    for step in range(first, last + 1):
        bus.commit(tree(1000 * run + step), step=step, extra={"next": step + 1, "run": run})


def value_at(bus: mmsb.Bus, **which) -> float:
    return float(bus.checkout(**which)["w"][0])
