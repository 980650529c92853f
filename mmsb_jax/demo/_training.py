"""The training that the demo keeps: a small network on handwritten digits, as one would write it.

Nothing here knows of the bus.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

LEARNING_RATE = 3e-3
_TEST = 360

State = dict[str, Any]
Digits = tuple[np.ndarray, np.ndarray]


def load() -> tuple[Digits, Digits]:
    """(images, labels) to train on, and to test with: 1,437 and 360 digits of 8 × 8."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int32)
    return (images[_TEST:], labels[_TEST:]), (images[:_TEST], labels[:_TEST])


class Batches:
    """Batches in an order that follows from their number: its position is all of its state."""

    def __init__(self, digits: Digits, size: int = 64, position: int = 0) -> None:
        self._images, self._labels = digits
        self._size = size
        self.position = position

    def __next__(self) -> Digits:
        epoch, turn = divmod(self.position, len(self._labels) // self._size)
        order = np.random.default_rng(epoch).permutation(len(self._labels))
        chosen = order[turn * self._size : (turn + 1) * self._size]
        self.position += 1
        return self._images[chosen], self._labels[chosen]


def network(key: Any) -> tuple[Any, Any]:
    """(parameters, the rest) of a network with two hidden layers."""
    return eqx.partition(eqx.nn.MLP(64, 10, 128, 2, key=key), eqx.is_inexact_array)


def adam(learning_rate: float = LEARNING_RATE) -> optax.GradientTransformation:
    """Adam with its learning rate in its state, where a fork can change it."""
    return optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate)


def start(optimizer: optax.GradientTransformation, dtype: Any = jnp.float32) -> State:
    """The state before the first step."""

    params = jax.tree.map(lambda x: x.astype(dtype), network(jax.random.key(0))[0])
    return {"params": params, "opt": optimizer.init(params), "key": jax.random.key(1), "step": 0}


def make_step(optimizer: optax.GradientTransformation) -> Callable[[State, Any], Any]:
    """One step, jitted; it gives its input's buffers away. Returns (state, loss)."""
    static = network(jax.random.key(0))[1]

    def loss_of(params: Any, images: Any, labels: Any) -> Any:
        logits = jax.vmap(eqx.combine(params, static))(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def update(learned: Any, batch: Any) -> tuple[Any, Any]:
        params, opt, key = learned
        key, noise = jax.random.split(key)
        images = batch[0] + 0.1 * jax.random.normal(noise, batch[0].shape)
        dtype = jax.tree.leaves(params)[0].dtype
        loss, grads = jax.value_and_grad(loss_of)(params, images.astype(dtype), batch[1])
        updates, opt = optimizer.update(grads, opt, params)
        return (optax.apply_updates(params, updates), opt, key), loss

    def step(state: State, batch: Any) -> tuple[State, Any]:
        learned = (state["params"], state["opt"], state["key"])
        (params, opt, key), loss = update(learned, batch)
        return {"params": params, "opt": opt, "key": key, "step": state["step"] + 1}, loss

    return step


def make_accuracy(digits: Digits) -> Callable[[Any], float]:
    """The share of ``digits`` that parameters get right."""
    images, labels = digits
    static = network(jax.random.key(0))[1]

    @jax.jit
    def accuracy(params: Any) -> Any:
        logits = jax.vmap(eqx.combine(params, static))(images)
        return (logits.argmax(-1) == labels).mean()

    return lambda params: float(accuracy(params))
