"""A training loop under a policy, to be ended at any moment: it says what it is at, on a line each.

``python -m tests.bus._ended PATH POLICY SEED``. ``C n saved`` a commit of step n that has returned
and is synced; ``E`` an evaluation, ``X`` a compilation, ``S`` a step begins.
"""

import random
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mmsb_jax as mmsb

SIZE = 3_000
POLICIES: dict[str, Any] = {
    "all": None,
    "every": mmsb.Every(steps=4),
    "price": mmsb.AtMost(time_share=0.05),
    "function": lambda moment: moment.version % 3 == 0,
    "signal": mmsb.Every(steps=4) | mmsb.OnPreemption(grace=20.0),
}


def expected(step: int) -> np.ndarray:
    """The weights at a step."""
    return np.arange(SIZE, dtype=np.float32) + np.float32(step)


def main(path: str, policy: str, seed: int) -> None:
    """Train, evaluate, compile, until somebody ends it."""
    noise = random.Random(seed)
    donates = noise.random() < 0.5
    keep = mmsb.Keep(last=3) if noise.random() < 0.5 else None
    bus = mmsb.open(path, save=POLICIES[policy], keep=keep)
    step = jax.jit(lambda state: {"w": state["w"] + 1}, donate_argnums=(0,) if donates else ())
    state, extra = bus.resume({"w": jnp.arange(SIZE, dtype=jnp.float32)}, {"next": 0})
    number = extra["next"]
    print("B", number, flush=True)
    while True:
        wait = noise.random() < 0.5
        outcome = bus.commit(state, step=number, extra={"next": number}, wait=wait)
        commit = outcome if wait else outcome.result()
        bus.sync()
        print("C", number, int(commit.saved), flush=True)
        chance = noise.random()
        if chance < 0.1:
            print("E", flush=True)
            float(sum(jnp.sum(state["w"] * i) for i in range(20)))
        elif chance < 0.15:
            print("X", flush=True)
            jax.jit(lambda x, n=number: jnp.sin(x) * n + chance).lower(state["w"]).compile()
        print("S", flush=True)
        state, number = step(state), number + 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
