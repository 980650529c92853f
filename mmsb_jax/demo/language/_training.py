"""The training of the language model, as one would write it. Nothing here knows of the bus.

The text is the reference of the Python language that `help` shows: half a megabyte, in the standard
library of every Python.
"""

import functools
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmsb_jax.demo.language._model import ModelSize, init, logits

State = dict[str, Any]
Extra = dict[str, int]
Step = Callable[[State, Extra], tuple[State, Extra]]


def read_text() -> np.ndarray:
    """All of the text, uint8."""
    return np.frombuffer("\n\n".join(topics[name] for name in sorted(topics)).encode(), np.uint8)


def batch_of(text: np.ndarray, size: ModelSize, number: int) -> np.ndarray:
    """The batch of a step, int32[batch, context + 1]: it follows from the number of the step."""
    length = size.context + 1
    starts = np.random.default_rng(number).integers(0, len(text) - length, size.batch)
    return text[starts[:, None] + np.arange(length)].astype(np.int32)


def adam(size: ModelSize) -> optax.GradientTransformation:
    """Adam with its learning rate in its state, where a fork can change it."""
    return optax.inject_hyperparams(optax.adam)(learning_rate=size.rate)


def start(
    size: ModelSize, optimizer: optax.GradientTransformation, dtype: Any = jnp.float32
) -> State:
    """The state before the first step."""
    params = init(size, jax.random.key(0), dtype)
    return {"params": params, "opt": optimizer.init(params), "loss": jnp.zeros(())}


def make_step(size: ModelSize, optimizer: optax.GradientTransformation) -> Step:
    """One step: (state, extra) → the same. It gives its input's buffers away."""
    text = read_text()

    def loss_of(params: Any, batch: Any) -> Any:
        found = logits(params, batch[:, :-1], size.heads)
        return optax.softmax_cross_entropy_with_integer_labels(found, batch[:, 1:]).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: State, batch: Any) -> State:
        loss, grads = jax.value_and_grad(loss_of)(state["params"], batch)
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt, "loss": loss}

    def step(state: State, extra: Extra) -> tuple[State, Extra]:
        number = extra["next"]
        return update(state, batch_of(text, size, number)), {"next": number + 1}

    return step
