"""Every operation under ``jit``, ``vmap`` and ``scan`` gives what it gives in plain calls.

Under ``vmap`` every choice of batched arguments, and two axes of them; what plain calls give is
compared with the oracle elsewhere.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsb_jax import Delta, Layout, apply, compose, diff, digest, invert, replay, update_digest
from mmsb_jax.testing import strategies
from tests.core._compare import assert_same, stack, unstack

LAYOUT = Layout.of({"a": np.zeros(600, np.uint8), "b": np.zeros(250, np.uint8)}, 256)
"""A layout of the pool that the strategies draw."""

NBYTES = LAYOUT.region("b").nbytes


@dataclass(frozen=True)
class Case:
    """An operation, strategies of its arguments, and which of them are batched."""

    function: Callable[..., Any]
    arguments: tuple[st.SearchStrategy[Any], ...]
    batched: tuple[tuple[int | None, ...], ...]


ALL, FIRST, SECOND = (0, 0), (0, None), (None, 0)


def pages():
    return strategies.pages()


def deltas(block_words=8):
    return strategies.deltas(capacity=8, block_words=block_words)


def logs(block_words=8):
    return strategies.tlogs(block_words=block_words)


def numbers(last, dtype=np.uint32):
    return st.integers(0, last).map(lambda value: jnp.asarray(dtype(value)))


def raw_bytes(dtype, mask=0xFF):
    return st.binary(min_size=NBYTES, max_size=NBYTES).map(
        lambda raw: jnp.asarray(np.frombuffer(raw, np.uint8) & mask, dtype)
    )


CASES = {
    "diff": Case(
        lambda p, q: diff(p, q, capacity=40, block_words=8), (pages(), pages()), (ALL, SECOND)
    ),
    "apply": Case(
        lambda p, d, v: apply(p, d, version=v),
        (pages(), deltas(), numbers(2**32 - 1)),
        ((0, 0, 0), (None, 0, None), (None, None, 0)),
    ),
    "compose": Case(
        lambda a, b: compose(a, b, capacity=12), (deltas(), deltas()), (ALL, FIRST, SECOND)
    ),
    "invert": Case(invert, (pages(), deltas()), (ALL, FIRST, SECOND)),
    "from_bytes": Case(
        lambda mask, data: Delta.from_bytes(LAYOUT.region("b"), mask, data, 8, 8),
        (raw_bytes(bool, 1), raw_bytes(np.uint8)),
        (ALL, SECOND),
    ),
    "append": Case(lambda log, d: log.append(d), (logs(), deltas()), (ALL, FIRST, SECOND)),
    "entry": Case(
        lambda log, i: log.delta(i, capacity=6), (logs(), numbers(5, np.int32)), (ALL, SECOND)
    ),
    "slice": Case(
        lambda log, i: log.slice(i, i + 2), (logs(), numbers(5, np.int32)), (ALL, SECOND)
    ),
    "replay": Case(
        replay,
        (pages(), logs(), numbers(5, np.int32)),
        ((0, 0, 0), (0, None, None), (None, None, 0)),
    ),
    "digest": Case(lambda p: digest(p, LAYOUT), (pages(),), ((0,),)),
    "update_digest": Case(
        lambda p, d: update_digest(digest(p, LAYOUT), p, LAYOUT, d),
        (pages(), deltas()),
        (ALL, FIRST, SECOND),
    ),
}

BLOCKS_OF_OTHER_SIZES = {
    "apply words": Case(apply, (pages(), deltas(1)), (ALL, FIRST, SECOND)),
    "apply lines": Case(apply, (pages(), deltas(32)), (ALL, FIRST)),
    "replay words": Case(replay, (pages(), logs(1)), (ALL, FIRST, SECOND)),
    "replay lines": Case(replay, (pages(), logs(32)), (ALL, SECOND)),
}

every_case = pytest.mark.parametrize("name", CASES)
few = settings(max_examples=4)


def case_of(name):
    return CASES.get(name) or BLOCKS_OF_OTHER_SIZES[name]


@functools.cache
def compiled(name, transform, axes=()):
    """One program a case and transform, however many examples."""
    function = case_of(name).function
    match transform:
        case "jit":
            return jax.jit(function)
        case "vmap":
            return jax.jit(jax.vmap(function, in_axes=axes))
        case "nested":
            outer, inner = axes
            return jax.jit(jax.vmap(jax.vmap(function, in_axes=inner), in_axes=outer))
        case "scan":
            return jax.jit(functools.partial(scanned, function))


def scanned(function, *batches):
    """The function of each element of the batches, one after the other."""
    return jax.lax.scan(lambda _, args: (None, function(*args)), None, batches)[1]


def lanes(data, name, count):
    """``count`` drawn values of each argument of a case."""
    return [[data.draw(argument) for _ in range(count)] for argument in case_of(name).arguments]


@every_case
@few
@given(data=st.data())
def test_operation_under_jit_is_that_of_the_plain_call(name, data):
    args = [values[0] for values in lanes(data, name, 1)]
    assert_same(compiled(name, "jit")(*args), case_of(name).function(*args))


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        (name, axes)
        for name, case in (CASES | BLOCKS_OF_OTHER_SIZES).items()
        for axes in case.batched
    ],
    ids=lambda value: value if isinstance(value, str) else "".join("01"[a == 0] for a in value),
)
@few
@given(data=st.data())
def test_operation_under_vmap_is_that_of_each(name, axes, data):
    drawn = lanes(data, name, 2)
    args = [
        stack(*values) if axis == 0 else values[0] for values, axis in zip(drawn, axes, strict=True)
    ]
    batch = unstack(compiled(name, "vmap", axes)(*args))
    for lane, found in enumerate(batch):
        each = [values[lane if axis == 0 else 0] for values, axis in zip(drawn, axes, strict=True)]
        assert_same(found, case_of(name).function(*each))


@pytest.mark.parametrize("name", ["diff", "apply", "append", "replay", "update_digest"])
@few
@given(data=st.data())
def test_operation_under_two_vmaps_is_that_of_each(name, data):
    """The outer axis over the first argument, the inner one over the others."""
    drawn = lanes(data, name, 2)
    rest = len(drawn) - 1
    function = compiled(name, "nested", ((0, *[None] * rest), (None, *[0] * rest)))
    batch = function(*(stack(*values) for values in drawn))
    for i, row in enumerate(unstack(batch)):
        for j, found in enumerate(unstack(row)):
            assert_same(
                found, case_of(name).function(drawn[0][i], *(values[j] for values in drawn[1:]))
            )


@every_case
@few
@given(data=st.data())
def test_operation_in_a_scan_is_that_of_each(name, data):
    drawn = lanes(data, name, 2)
    batch = unstack(compiled(name, "scan")(*(stack(*values) for values in drawn)))
    for lane, found in enumerate(batch):
        assert_same(found, case_of(name).function(*(values[lane] for values in drawn)))


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("name", ["apply lines", "replay lines"])
def test_operation_under_vmap_over_nothing_gives_nothing(name, axes):
    log = strategies.TLog.empty(2, 4).append(strategies.delta_of({(0, 0): 1}, 2, 32))
    values = [
        strategies.Pages(jnp.zeros((4, 64), jnp.uint32), jnp.zeros(4, jnp.uint32)),
        log if "replay" in name else log.delta(0),
    ]
    args = [
        jax.tree.map(lambda x: jnp.zeros((0, *x.shape), x.dtype), value) if axis == 0 else value
        for value, axis in zip(values, axes, strict=True)
    ]
    found = jax.vmap(case_of(name).function, axes)(*args)
    assert (found.words.shape, found.version.shape) == ((0, 4, 64), (0, 4))
