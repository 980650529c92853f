"""Replay: a fold of `apply`, page versions included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import Delta, InvalidDeltaError, Pages, TLog, apply, replay
from mmsb_jax._core import replay as module
from mmsb_jax.testing import oracle, strategies
from tests._sampled import halved
from tests.core._compare import assert_pages, assert_same, stack, unstack
from tests.core.test_delta import OUTSIDE

BLOCKS = st.sampled_from([1, 8, 32])


@pytest.fixture(params=["loop", "fold"], scope="module", autouse=True)
def form(request):
    """What replays on a CPU, and what does so on a GPU: here both run on the CPU."""
    module._replay_until.clear_cache()
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "fold":
            patch.setattr(module, "_loop", module._fold)
            patch.setattr(module, "_loop_many", module._fold_many)
        yield request.param
    module._replay_until.clear_cache()


@st.composite
def pages_and_log(draw):
    return draw(strategies.pages()), draw(strategies.tlogs(block_words=draw(BLOCKS)))


def folded(pages, log, until=None):
    """Replay by its definition."""
    for i in range(len(log) if until is None else min(until, len(log))):
        pages = apply(pages, log[i], version=int(log.version) + i + 1)
    return pages


@halved
@given(pages_and_log(), st.none() | st.integers(-1, 6))
def test_replay_is_that_of_the_oracle(drawn, until):
    pages, log = drawn
    expected = oracle.replay(oracle.pool_of(pages), oracle.log_of(log), until)
    assert_pages(replay(pages, log, until), expected)


@halved
@given(pages_and_log(), st.integers(0, 6))
def test_replay_equals_the_fold_of_apply(drawn, until):
    pages, log = drawn
    assert_same(replay(pages, log), folded(pages, log))
    assert_same(replay(pages, log, until), folded(pages, log, until))


@halved
@given(pages_and_log(), st.integers(0, 4))
def test_replay_of_a_slice_after_the_rest_equals_replay(drawn, middle):
    pages, log = drawn
    assert_same(replay(replay(pages, log, until=middle), log[middle:]), replay(pages, log))


def test_replay_marks_a_page_with_the_last_entry_that_changed_a_byte_of_it():
    log = TLog.empty(8, 8, version=100)
    for writes in ({(0, 0): 1, (1, 0): 1}, {(0, 0): 2}, {(0, 0): 2, (2, 5): 0}, {(1, 0): 0}):
        log = log.append(strategies.delta_of(writes, 2, 32))
    pages = Pages(jnp.zeros((4, 32), jnp.uint32), jnp.full(4, 7, jnp.uint32))
    assert replay(pages, log).version.tolist() == [102, 104, 7, 7]
    assert replay(pages, log, until=3).version.tolist() == [102, 101, 7, 7]
    assert replay(pages, log, until=0).version.tolist() == [7, 7, 7, 7]


def test_replay_counts_versions_past_2_to_the_31():
    log = TLog.empty(1, 1, version=2**32 - 2).append(strategies.delta_of({(1, 3): 5}, 1, 32))
    pages = Pages(jnp.zeros((2, 32), jnp.uint32), jnp.zeros(2, jnp.uint32))
    assert replay(pages, log).version.tolist() == [0, 2**32 - 1]


def test_replay_until_a_traced_number_is_that_of_the_number():
    log = TLog.empty(3, 3)
    for value in (1, 2, 3):
        log = log.append(strategies.delta_of({(value, value): value}, 1, 32))
    pages = Pages(jnp.zeros((4, 32), jnp.uint32), jnp.zeros(4, jnp.uint32))
    every = jax.jit(jax.vmap(replay, (None, None, 0)))(pages, log, jnp.arange(5))
    for until, found in enumerate(unstack(every)):
        assert_same(found, folded(pages, log, until))


@pytest.mark.parametrize("block_words", [1, 32])
def test_replay_under_vmap_of_logs_of_other_lengths_is_that_of_each(block_words):
    logs, pages = [], []
    for lane in range(3):
        log = TLog.empty(4, 8, block_words, version=10 * lane)
        for entry in range(lane + 1):
            log = log.append(strategies.delta_of({(entry, 9): lane + 1}, 2, block_words))
        logs.append(log)
        pages.append(Pages(jnp.full((4, 64), lane, jnp.uint32), jnp.zeros(4, jnp.uint32)))
    batch = jax.jit(jax.vmap(replay))(stack(*pages), stack(*logs))
    for found, base, log in zip(unstack(batch), pages, logs, strict=True):
        assert_same(found, folded(base, log))


@pytest.mark.parametrize("place", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("batched", [False, True])
def test_replay_drops_a_block_outside_of_the_pool(place, batched):
    page, block = place
    words = jnp.arange(1, 257, dtype=jnp.uint32).reshape(4, 64)
    pages = Pages(words, jnp.arange(4, dtype=jnp.uint32))
    delta = Delta(
        jnp.array([page, 1], jnp.int32),
        jnp.array([block, 1], jnp.int32),
        jnp.full((2, 32), 0xFFFFFFFF, jnp.uint32),
        jnp.full((2, 32), 7, jnp.uint32),
        jnp.int32(2),
        jnp.bool_(False),
    )
    log = TLog.empty(1, 2, version=8).append(delta)
    expected = Pages(words.at[1, 32:].set(7), pages.version.at[1].set(9))
    if batched:
        found = jax.jit(jax.vmap(replay, (0, None)))(stack(pages, pages), log)
        assert_same(found, stack(expected, expected))
    else:
        assert_same(replay(pages, log), expected)


@pytest.mark.parametrize(("pages", "commits", "blocks"), [(0, 2, 2), (4, 0, 2), (4, 2, 0)], ids=str)
def test_replay_of_nothing_gives_the_base(pages, commits, blocks):
    base = Pages(jnp.ones((pages, 32), jnp.uint32), jnp.ones(pages, jnp.uint32))
    log = TLog.empty(commits, blocks).append(Delta.empty())
    assert_same(replay(base, log), base)
    assert_same(jax.vmap(replay, (0, None))(stack(base, base), log), stack(base, base))


def test_replay_of_blocks_that_do_not_divide_the_page_raises():
    base = Pages(jnp.zeros((1, 64), jnp.uint32), jnp.zeros(1, jnp.uint32))
    with pytest.raises(InvalidDeltaError) as error:
        replay(base, TLog.empty(1, 1, 24))
    assert str(error.value) == "block_words=24 does not divide a page of 64 words"


@pytest.mark.parametrize("skewed", [False, True])
def test_replay_of_335_000_blocks(skewed):
    """The last of those that meet in a block wins, be they few or thousands."""
    rng, pages, count = np.random.default_rng(0), 4096, 335_000
    page = rng.integers(0, pages, count).astype(np.int32)
    if skewed:
        page[:5000] = 7
    rng.shuffle(page)
    log = TLog(
        page=jnp.asarray(page),
        block=jnp.zeros(count, jnp.int32),
        mask=jnp.full((count, 1), 0xFFFFFFFF, jnp.uint32),
        data=jnp.arange(1, count + 1, dtype=jnp.uint32)[:, None],
        entry=jnp.arange(count, dtype=jnp.int32),
        ends=jnp.arange(1, count + 1, dtype=jnp.int32),
        count=jnp.int32(count),
        overflow=jnp.bool_(False),
        version=jnp.uint32(10),
        block_words=1,
    )
    found = replay(Pages(jnp.zeros((pages, 1), jnp.uint32), jnp.zeros(pages, jnp.uint32)), log)
    last = np.full(pages, -1)
    np.maximum.at(last, page, np.arange(count))
    np.testing.assert_array_equal(found.words[:, 0], last + 1)
    np.testing.assert_array_equal(found.version, np.where(last < 0, 0, last + 11))
