"""Deltas: each operation against the oracle, capacities, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import (
    Delta,
    InvalidDeltaError,
    Layout,
    Pages,
    VersionError,
    apply,
    compose,
    diff,
    invert,
)
from mmsb_jax._core.delta import NO_PAGE
from mmsb_jax.testing import check_delta, oracle, strategies
from tests.core._compare import assert_delta, assert_pages, assert_same

BLOCKS = st.sampled_from([1, 8, 32])
CAPACITY, ROOM = 16, 64
"""Blocks of a drawn delta, and of what is composed: few shapes, few compilations."""


def zeros(pages=4, page_words=64):
    return Pages(jnp.zeros((pages, page_words), jnp.uint32), jnp.zeros(pages, jnp.uint32))


def message_of(function, *args, error=InvalidDeltaError, **kwargs):
    with pytest.raises(error) as raised:
        function(*args, **kwargs)
    return str(raised.value)


@st.composite
def writes_and_delta(draw, block_words):
    writes = draw(strategies.writes(capacity=CAPACITY, block_words=block_words))
    return writes, strategies.delta_of(writes, CAPACITY, block_words)


@st.composite
def pages_and_delta(draw):
    writes, delta = draw(writes_and_delta(draw(BLOCKS)))
    return draw(strategies.pages()), writes, delta


@st.composite
def two_deltas(draw):
    block_words = draw(BLOCKS)
    return draw(writes_and_delta(block_words)), draw(writes_and_delta(block_words))


# Against the oracle


@given(pages_and_delta())
def test_apply_writes_the_bytes_of_the_delta(drawn):
    pages, writes, delta = drawn
    pool = oracle.pool_of(pages)
    assert_pages(apply(pages, delta), oracle.apply(pool, writes))
    assert_pages(apply(pages, delta, version=9), oracle.apply(pool, writes, 9))


@given(pages_and_delta())
def test_diff_is_the_bytes_that_differ(drawn):
    pages, writes, delta = drawn
    old = oracle.pool_of(pages)
    new = oracle.apply(old, writes)
    changed = apply(pages, delta)
    found = diff(pages, changed, capacity=delta.capacity, block_words=delta.block_words)
    assert_delta(found, oracle.diff(old, new))


@given(two_deltas())
def test_compose_is_the_union_in_which_the_second_wins(drawn):
    (first, left), (second, right) = drawn
    composed = compose(left, right, capacity=ROOM)
    assert_delta(composed, oracle.compose(first, second))


@given(pages_and_delta())
def test_invert_holds_the_bytes_before(drawn):
    pages, writes, delta = drawn
    assert_delta(invert(pages, delta), oracle.invert(oracle.pool_of(pages), writes))


@given(strategies.writes(), BLOCKS, st.sampled_from([0, 41, 250]))
def test_from_bytes_writes_where_the_mask_is_true(writes, block_words, nbytes):
    layout = Layout.of({"before": np.zeros(300, np.uint8), "x": np.zeros(nbytes, np.uint8)}, 256)
    region = layout.region("x")
    mask, data = np.zeros(nbytes, bool), np.arange(nbytes, dtype=np.uint8)
    for (page, byte), value in writes.items():
        if page == 0 and byte < nbytes:
            mask[byte], data[byte] = True, value
    delta = Delta.from_bytes(region, mask, data, capacity=64, block_words=block_words)
    assert region.page == 2
    assert_delta(delta, oracle.from_bytes(2, 256, mask, data))


@given(pages_and_delta())
def test_changed_bytes_counts_the_bytes_that_are_written(drawn):
    _, writes, delta = drawn
    assert delta.changed_bytes == len(writes)
    assert delta.changed_bytes.dtype == jnp.int32


# Capacities and overflow


@pytest.mark.parametrize(
    ("capacity", "block_words"), [(0, 32), (1, 32), (2, 8), (3, 1), (4, 8), (300, 32)]
)
def test_diff_keeps_the_first_blocks_that_fit(capacity, block_words):
    words = jnp.zeros((4, 64), jnp.uint32).at[jnp.array([0, 1, 1, 3]), jnp.array([1, 0, 40, 63])]
    new = Pages(words.set(jnp.array([1, 1 << 8, 1 << 31, 5], jnp.uint32)), jnp.zeros(4, jnp.uint32))
    delta = diff(zeros(), new, capacity=capacity, block_words=block_words)
    assert_delta(delta, oracle.diff(oracle.pool_of(zeros()), oracle.pool_of(new)))
    assert bool(delta.overflow) == (capacity < 4)


@pytest.mark.parametrize(("changed", "capacity"), [(0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_diff_without_capacity_makes_room_for_a_power_of_two(changed, capacity):
    new = Pages(zeros().words.reshape(8, 32).at[:changed, 3].set(1).reshape(4, 64), zeros().version)
    delta = diff(zeros(), new)
    check_delta(delta)
    assert (int(delta.count), delta.capacity, bool(delta.overflow)) == (changed, capacity, False)


def test_diff_without_capacity_under_a_transformation_raises():
    batch = jax.tree.map(lambda x: x[None], zeros())
    message = message_of(jax.jit(diff), zeros(), zeros())
    assert message.startswith("diff needs capacity=… under jit, vmap or scan")
    assert "Give the most blocks that may change, and check delta.overflow." in message
    assert message_of(jax.vmap(diff), batch, batch) == message


def test_compose_without_capacity_makes_room_for_what_there_is():
    one = diff(zeros(), Pages(zeros().words.at[0, 0].set(1), zeros().version))
    both = compose(one, diff(zeros(), Pages(zeros().words.at[2, 0].set(1), zeros().version)))
    assert (int(both.count), both.capacity) == (2, 2)
    assert compose(one, one).capacity == 1
    jitted = jax.jit(compose)(one, one)
    assert (int(jitted.count), jitted.capacity) == (1, 2)


@pytest.mark.parametrize("capacity", [0, 1, 2, 3])
def test_compose_keeps_the_first_blocks_that_fit(capacity):
    first, second = {(0, 1): 1, (3, 9): 2}, {(2, 200): 3, (3, 9): 4}
    left, right = (strategies.delta_of(writes, 4, 32) for writes in (first, second))
    composed = compose(left, right, capacity=capacity)
    assert_delta(composed, first | second)
    assert bool(composed.overflow) == (capacity < 3)


@pytest.mark.parametrize("position", [0, 1])
def test_compose_with_an_overflowed_delta_has_overflowed(position):
    new = Pages(zeros().words.at[:, 0].set(1), zeros().version)
    deltas = [Delta.empty(2), Delta.empty(2)]
    deltas[position] = diff(zeros(), new, capacity=2)
    composed = compose(*deltas)
    assert composed.overflow
    assert_same(jax.jit(lambda a, b: compose(a, b, capacity=composed.capacity))(*deltas), composed)
    assert invert(zeros(), deltas[position]).overflow
    assert compose(composed, Delta.empty()).overflow


def test_apply_of_an_overflowed_delta_raises_outside_of_transformations():
    new = Pages(zeros().words.at[:, 0].set(1), zeros().version)
    delta = diff(zeros(), new, capacity=2)
    expected = (
        "the delta overflowed: more blocks changed than its capacity of 2, or a slice did not lie "
        "within its array. Make it again with a larger capacity: Layout.capacity(names) is always "
        "enough."
    )
    assert message_of(apply, zeros(), delta) == expected
    batch = jax.tree.map(lambda x: x[None], zeros())
    assert message_of(jax.vmap(apply, (0, None)), batch, delta) == expected
    assert jax.jit(apply)(zeros(), delta).words[:, 0].tolist() == [1, 1, 0, 0]


def test_empty_delta_of_any_capacity_changes_nothing():
    pages = Pages(jnp.arange(256, dtype=jnp.uint32).reshape(4, 64), zeros().version)
    for capacity in (0, 3):
        empty = Delta.empty(capacity)
        check_delta(empty)
        assert (empty.capacity, int(empty.count), int(empty.changed_bytes)) == (capacity, 0, 0)
        assert_same(apply(pages, empty, version=3), pages)


def test_operations_on_a_pool_without_pages_give_one():
    pages, delta = zeros(0), strategies.delta_of({(0, 0): 1}, 4, 32)
    assert_same(apply(pages, delta, version=1), pages)
    assert int(diff(pages, pages).count) == 0
    assert int(diff(pages, pages, capacity=3).count) == 0
    assert_delta(invert(pages, delta), {(0, 0): 0})


# Blocks outside of the pool


OUTSIDE = {
    "negative page": (-1, 0),
    "very negative page": (-(2**31), 0),
    "page behind the last": (4, 0),
    "far page": (2**31 - 2, 0),
    "negative block": (0, -1),
    "block behind the last": (0, 2),
    "block behind the last of the last page": (3, 2),
    "far block": (0, 2**26),
}


@pytest.mark.parametrize("place", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("transform", ["plain", "jit", "vmap"])
def test_a_block_outside_of_the_pool_is_dropped(place, transform):
    page, block = place
    pages = Pages(
        jnp.arange(1, 257, dtype=jnp.uint32).reshape(4, 64), jnp.arange(4, dtype=jnp.uint32)
    )
    delta = Delta(
        jnp.array([page, 1], jnp.int32),
        jnp.array([block, 1], jnp.int32),
        jnp.full((2, 32), 0xFFFFFFFF, jnp.uint32),
        jnp.full((2, 32), 7, jnp.uint32),
        jnp.int32(2),
        jnp.bool_(False),
    )
    expected = Pages(pages.words.at[1, 32:].set(7), pages.version.at[1].set(9))
    if transform == "vmap":
        batch = jax.tree.map(lambda x: jnp.stack([x, x]), pages)
        written = jax.vmap(apply, (0, None, None))(batch, delta, jnp.uint32(9))
        assert_same(written, jax.tree.map(lambda x: jnp.stack([x, x]), expected))
        return
    functions = (apply, invert) if transform == "plain" else (jax.jit(apply), jax.jit(invert))
    assert_same(functions[0](pages, delta, jnp.uint32(9)), expected)
    before = functions[1](pages, delta)
    assert not before.data[0].any()
    np.testing.assert_array_equal(before.data[1], pages.words[1, 32:])


def test_rows_behind_count_are_outside_of_every_pool():
    assert int(NO_PAGE) == oracle.NO_PAGE == np.iinfo(np.int32).max


# What is refused


def test_diff_of_pools_of_two_sizes_raises():
    assert message_of(diff, zeros(4), zeros(5)) == (
        "diff of pools of [4, 64] and [5, 64] words; expected pages of one layout"
    )


@pytest.mark.parametrize("block_words", [3, 24, 128])
def test_blocks_that_do_not_divide_the_page_raise(block_words):
    expected = f"block_words={block_words} does not divide a page of 64 words"
    delta = Delta.empty(1, block_words)
    assert message_of(diff, zeros(), zeros(), block_words=block_words) == expected
    assert message_of(apply, zeros(), delta) == expected
    assert message_of(invert, zeros(), delta) == expected
    region = Layout.of(np.zeros(4), page_bytes=256).region("~")
    arrays = np.zeros(32, bool), np.zeros(32, np.uint8)
    assert message_of(Delta.from_bytes, region, *arrays, block_words=block_words) == expected


@pytest.mark.parametrize("block_words", [0, -1])
def test_blocks_without_words_raise(block_words):
    expected = f"block_words={block_words}: expected 1 to 2147483647 words"
    assert message_of(Delta.empty, 1, block_words) == expected
    assert message_of(diff, zeros(), zeros(), block_words=block_words) == expected


def test_compose_of_blocks_of_two_sizes_raises():
    assert message_of(compose, Delta.empty(1, 8), Delta.empty(1, 32)) == (
        "compose of blocks of 8 and 32 words; make both with the same block_words"
    )


@pytest.mark.parametrize(
    ("mask", "data", "message"),
    [
        (
            np.zeros(11, bool),
            np.zeros(12, np.uint8),
            "mask is bool[11]; 'x' has 12 bytes, so bool[12] was expected",
        ),
        (
            np.zeros(12, np.uint8),
            np.zeros(12, np.uint8),
            "mask is uint8[12]; 'x' has 12 bytes, so bool[12] was expected",
        ),
        (
            np.zeros(12, bool),
            np.zeros(3, np.float32),
            "data is float32[3]; 'x' has 12 bytes, so uint8[12] was expected",
        ),
        (
            [False] * 12,
            np.zeros(12, np.uint8),
            "mask is None[12]; 'x' has 12 bytes, so bool[12] was expected",
        ),
    ],
)
def test_from_bytes_of_another_size_or_dtype_raises(mask, data, message):
    region = Layout.of({"x": np.zeros(3, np.float32)}).region("x")
    assert message_of(Delta.from_bytes, region, mask, data) == message


def test_from_bytes_without_capacity_under_jit_raises():
    region = Layout.of(np.zeros(4, np.uint8), page_bytes=128).region("~")
    make = jax.jit(lambda mask: Delta.from_bytes(region, mask, jnp.zeros(4, jnp.uint8)))
    assert message_of(make, jnp.ones(4, bool)).startswith("Delta.from_bytes needs capacity=…")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (-1, "version=-1 arrived; expected 0 to 2³² − 1, the versions of a device."),
        (2**32, f"version={2**32} arrived; expected 0 to 2³² − 1"),
        (1.0, "version=1.0 arrived; expected an integer"),
        (True, "version=True arrived; expected an integer"),
    ],
)
def test_apply_with_a_version_that_is_none_raises(version, message):
    delta = Delta.empty(1)
    assert message_of(apply, zeros(), delta, version=version, error=VersionError).startswith(
        message
    )


@pytest.mark.parametrize("version", [0, 2**31, 2**32 - 1, np.uint64(5), jnp.int32(6)], ids=repr)
def test_apply_takes_every_version_of_32_bits(version):
    delta = strategies.delta_of({(2, 5): 1}, 1, 32)
    assert apply(zeros(), delta, version=version).version.tolist() == [0, 0, int(version), 0]
