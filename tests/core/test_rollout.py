"""A worked example: a rollout that is one `scan`, vmapped over a thousand branches.

Each branch keeps its history in a log of its own, on the device, in one program with the dynamics.
The best branch is picked, and its log alone says what its state was at every step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsb_jax import Layout, Pages, TLog, apply, diff, digest, replay
from mmsb_jax.testing import check_log
from tests.core._compare import assert_same, assert_same_tree

BRANCHES, STEPS = 1000, 24
PAGE_BYTES = 128
BLOCK_WORDS = 8


class CartPole(NamedTuple):
    """The state of an environment: what a branch carries from step to step."""

    physics: jax.Array  # position, velocity, angle, angular velocity
    key: jax.Array
    reward: jax.Array
    is_done: jax.Array


def start(key):
    return CartPole(jnp.zeros(4), key, jnp.float32(0), jnp.bool_(False))


def act(state: CartPole) -> CartPole:
    """One step of the pole under a random push (Barto, Sutton, Anderson, 1983)."""
    key, push = jax.random.split(state.key)
    _, speed, angle, spin = state.physics
    force = jnp.where(jax.random.bernoulli(push), 10.0, -10.0)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    thrust = (force + 0.05 * spin**2 * sine) / 1.1
    turn = (9.8 * sine - cosine * thrust) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    drive = thrust - 0.05 * turn * cosine / 1.1
    physics = state.physics + 0.02 * jnp.stack([speed, drive, spin, turn])
    is_done = state.is_done | (jnp.abs(physics[0]) > 2.4) | (jnp.abs(physics[2]) > 0.21)
    reward = state.reward + jnp.where(is_done, 0.0, 1.0)
    # A pole that has fallen stays as it is: its branch costs nothing more.
    stays = jax.tree.map(lambda old, new: jnp.where(is_done, old, new), state.physics, physics)
    return CartPole(stays, key, reward, is_done)


LAYOUT = Layout.of(jax.eval_shape(start, jax.random.key(0)), PAGE_BYTES)


class Rollout(NamedTuple):
    """A branch: the pages that it began with, those at its end, its log, and all its states."""

    base: Pages
    pages: Pages
    log: TLog
    states: CartPole


def rollout(key: jax.Array) -> Rollout:
    def step(carry, _):
        pages, log = carry
        state = act(LAYOUT.unpack(pages))
        delta = diff(pages, LAYOUT.pack(state), capacity=4, block_words=BLOCK_WORDS)
        pages = apply(pages, delta, version=log.version + log.count + 1)
        # The state as it was recorded: XLA may compute ``state`` once for the pages and once more
        # for another use of it, and round the two in different ways.
        return (pages, log.append(delta)), LAYOUT.unpack(pages)

    base = LAYOUT.pack(start(key))
    log = TLog.empty(STEPS, 4 * STEPS, BLOCK_WORDS)
    (pages, log), states = jax.lax.scan(step, (base, log), length=STEPS)
    return Rollout(base, pages, log, states)


def branch(branches, index):
    return jax.tree.map(lambda leaf: leaf[index], branches)


@pytest.fixture(scope="module")
def branches():
    keys = jax.random.split(jax.random.key(7), BRANCHES)
    return jax.jit(jax.vmap(rollout))(keys)


@pytest.fixture(scope="module")
def best(branches):
    """The branch with the greatest reward."""
    return branch(branches, jnp.argmax(branches.states.reward[:, -1]))


def test_every_branch_has_the_whole_of_its_history(branches):
    assert branches.log.count.tolist() == [STEPS] * BRANCHES
    assert not branches.log.overflow.any()
    assert len(np.unique(branches.states.reward[:, -1])) > 3
    check_log(branch(branches, 0).log)


def test_replay_of_every_branch_gives_its_last_pages(branches):
    replayed = jax.jit(jax.vmap(replay))(branches.base, branches.log)
    assert_same(replayed, branches.pages)
    last = jax.tree.map(lambda leaf: leaf[:, -1], branches.states)
    assert_same_tree(jax.vmap(LAYOUT.unpack)(replayed), last)
    digests = jax.jit(jax.vmap(lambda pages: digest(pages, LAYOUT)))(replayed)
    assert len({tuple(lanes) for lanes in digests.reshape(BRANCHES, -1).tolist()}) == BRANCHES


def test_replay_of_the_best_branch_gives_its_state_at_every_step(best):
    steps = jnp.arange(1, STEPS + 1)
    every = jax.jit(jax.vmap(replay, (None, None, 0)))(best.base, best.log, steps)
    assert_same_tree(jax.vmap(LAYOUT.unpack)(every), best.states)
    assert every.version.max(axis=1).tolist() == steps.tolist()


def test_entries_of_the_best_branch_are_what_each_step_changed(best):
    pages, written = best.base, 0
    for i, delta in enumerate(best.log):
        pages = apply(pages, delta, version=i + 1)
        written += int(delta.changed_bytes)
    assert_same(pages, best.pages)
    assert 0 < written < STEPS * pages.words.nbytes
