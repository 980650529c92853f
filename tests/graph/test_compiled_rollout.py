"""A worked example: a rollout that is one `scan`, whose derived arrays follow in each step.

Poles are balanced by a policy that sees features alone, and these are derived: by the bus where one
pole is played, by the compiled wave of the same graph where a thousand branches are played at once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb

BRANCHES, STEPS = 1000, 12
TOLERANCE = 1e-6
"""Of what is derived, relative: under ``vmap`` a dot product may be summed in another order."""


def features(physics: Any, weights: Any) -> Any:
    return jnp.tanh(weights @ physics)


def score(features: Any) -> Any:
    return features.sum() / 8


def push(score: Any) -> Any:
    return jnp.where(score > 0, 10.0, -10.0)


def move(physics: Any, force: Any) -> Any:
    """One step of the pole (Barto, Sutton, Anderson, 1983)."""
    _, speed, angle, spin = physics
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    thrust = (force + 0.05 * spin**2 * sine) / 1.1
    turn = (9.8 * sine - cosine * thrust) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    drive = thrust - 0.05 * turn * cosine / 1.1
    return physics + 0.02 * jnp.stack([speed, drive, spin, turn])


def pole(seed: int) -> mmsb.Bus:
    """One pole on a bus, with what its policy sees; small arrays, and so small pages."""
    bus = mmsb.open(page_bytes=128)
    weights = jax.random.normal(jax.random.key(0), (8, 4))
    physics = jax.random.normal(jax.random.key(seed), (4,)) / 10
    bus.commit({"physics": physics, "weights": weights})
    bus.derive("features", ["physics", "weights"], features)
    bus.derive("score", ["features"], score)
    bus.derive("push", ["score"], push)
    return bus


class Rollout(NamedTuple):
    """A branch: the pages that it began with, those at its end, and the log of its sources."""

    base: mmsb.Pages
    pages: mmsb.Pages
    log: mmsb.TLog


with pole(0) as BUS:
    LAYOUT, WAVE = BUS.layout, BUS.graph.compile(BUS.layout)
    PAGES = LAYOUT.pack({region.name: BUS.read(region.name) for region in LAYOUT.regions})


def rollout(physics: Any) -> Rollout:
    def step(carry: Any, _: None) -> Any:
        pages, log = carry
        moved = move(LAYOUT.get(pages, "physics"), LAYOUT.get(pages, "push"))
        delta = mmsb.diff(pages, LAYOUT.set(pages, "physics", moved), 1)
        pages, _ = WAVE(pages, delta, version=log.version + log.count + 1)
        return (pages, log.append(delta)), None

    base, _ = WAVE.start(LAYOUT.set(PAGES, "physics", physics))
    log = mmsb.TLog.empty(STEPS, STEPS)
    (pages, log), _ = jax.lax.scan(step, (base, log), length=STEPS)
    return Rollout(base, pages, log)


def branch(branches: Rollout, index: int) -> Rollout:
    return jax.tree.map(lambda leaf: leaf[index], branches)


@pytest.fixture(scope="module")
def branches() -> Rollout:
    keys = jax.random.split(jax.random.key(7), BRANCHES)
    start = jax.vmap(lambda key: jax.random.normal(key, (4,)) / 10)(keys)
    return jax.jit(jax.vmap(rollout))(start)


def test_every_branch_went_its_own_way(branches):
    assert branches.log.count.tolist() == [STEPS] * BRANCHES
    assert not branches.log.overflow.any()
    scores = jax.vmap(lambda pages: LAYOUT.get(pages, "score"))(branches.pages)
    assert len(np.unique(scores)) > BRANCHES / 2


@pytest.mark.parametrize("index", [0, 499, 999])
def test_branch_is_what_the_bus_derives_from_the_log_of_its_sources(branches, index):
    one = branch(branches, index)
    with pole(0) as bus:
        bus.write("physics", LAYOUT.get(one.base, "physics"))
        before = bus.version
        bus.extend(one.log)
        for count in (1, STEPS // 2, STEPS):
            there = mmsb.replay(one.base, one.log, count, wave=WAVE)
            then = bus.checkout(version=before + count, arrays=["**"])
            for name in WAVE.arrays:  # alone, byte for byte
                assert LAYOUT.get(there, name).tobytes() == np.asarray(then[name]).tobytes()
        last = {name: LAYOUT.get(one.pages, name) for name in WAVE.arrays}
        assert last["physics"].tobytes() == np.asarray(bus.read("physics")).tobytes()
        for name, value in last.items():  # among a thousand
            np.testing.assert_allclose(value, bus.read(name), rtol=TOLERANCE, atol=TOLERANCE)


def test_replay_of_all_logs_at_once_recomputes_what_was_derived(branches):
    def again(base: mmsb.Pages, log: mmsb.TLog) -> mmsb.Pages:
        return mmsb.replay(base, log, wave=WAVE, capacity=1)

    found = jax.jit(jax.vmap(again))(branches.base, branches.log)
    assert (found.version == branches.pages.version).all()
    unpack = jax.vmap(LAYOUT.unpack)
    for value, expected in zip(
        jax.tree.leaves(unpack(found)), jax.tree.leaves(unpack(branches.pages)), strict=True
    ):
        np.testing.assert_allclose(value, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_thousand_branches_are_one_program(branches):
    start = jnp.zeros((BRANCHES, 4))
    text = jax.jit(jax.vmap(rollout)).lower(start).as_text()
    one = jax.jit(rollout).lower(start[0]).as_text()
    assert text.count("\n") < 1.5 * one.count("\n")
