"""States to commit, and the next ones: what a share of the elements, or every one, changes."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np

State = dict[str, Any]
MB = 1 << 20


def bf16_state(nbytes: int, leaves: int = 32, seed: int = 0) -> State:
    """Normal bfloat16 weights, as JAX arrays; they repeat after 4 million elements."""
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal(4 << 20, np.float32).astype(ml_dtypes.bfloat16)
    shape = (nbytes // 2 // leaves // 1024, 1024)
    return {
        f"layer{i:02}": jnp.asarray(np.resize(np.roll(drawn, 12_345 * i), shape))
        for i in range(leaves)
    }


def changes(state: State, share: float, count: int) -> Iterator[State]:
    """States of bfloat16, each of which differs from the one before in ``share`` of its elements.

    The lowest bit of elements drawn at random; the few that are drawn twice change once.
    """
    rng = np.random.default_rng(1)
    arrays = {name: np.array(x) for name, x in state.items()}
    for _ in range(count):
        for x in arrays.values():
            bits = x.reshape(-1).view(np.uint16)
            bits[rng.integers(0, bits.size, round(bits.size * share))] ^= 1
        yield {name: jnp.array(x) for name, x in arrays.items()}


def there_and_back(states: Sequence[State]) -> Iterator[State]:
    """The states in their order, back to the first, and so on: each a neighbour of the last."""
    return itertools.cycle([*states, *reversed(states[1:-1])])


def noise(nbytes: int, arrays: int = 8) -> list[State]:
    """Two states of NumPy arrays of noise, which differ by noise, and in every byte."""
    rng = np.random.default_rng(0)
    first, change = (
        rng.integers(low, 256, (arrays, nbytes // arrays), np.uint8).view(np.uint32)
        for low in (0, 1)
    )
    return [{f"w{i}": x for i, x in enumerate(found)} for found in (first, first ^ change)]


def small_dense(count: int = 4) -> list[State]:
    """304 KB of float32 in 25 leaves, as NumPy arrays; each state moves every word a little."""
    rng = np.random.default_rng(0)
    shapes = [(64, 128), (128,), (128, 128), (128,), (128, 10), (10,), (2,), (1,)]
    shapes = [*shapes * 3, (64,)]
    state = {f"x{i:02}": rng.standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)}
    found = []
    for _ in range(count):
        state = {
            name: x * (1 + 1e-3 * rng.standard_normal(x.shape)).astype(np.float32)
            for name, x in state.items()
        }
        found.append(state)
    return found
