"""TLog: a log on the device against the oracle's, its capacity and its slices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import Delta, InvalidDeltaError, Layout, Pages, TLog, VersionError, diff, replay
from mmsb_jax.testing import check_log, oracle, strategies
from tests._sampled import halved
from tests.core._compare import assert_delta, assert_log, assert_same

COMMITS, BLOCKS, CAPACITY = 4, 12, 6


def written(*places, capacity=CAPACITY, block_words=32):
    """A delta that writes a byte in each of some pages."""
    return strategies.delta_of({(page, 0): 1 + page for page in places}, capacity, block_words)


def overflowed(capacity=2):
    old = Pages(jnp.zeros((4, 32), jnp.uint32), jnp.zeros(4, jnp.uint32))
    return diff(old, Pages(old.words + 1, old.version), capacity=capacity)


def message_of(error_type, function, *args, **kwargs):
    with pytest.raises(error_type) as error:
        function(*args, **kwargs)
    return str(error.value)


@st.composite
def entries(draw, block_words):
    return draw(st.lists(strategies.writes(capacity=CAPACITY, block_words=block_words), max_size=6))


@halved
@given(st.data(), st.sampled_from([1, 8, 32]))
def test_append_is_that_of_the_oracle(data, block_words):
    log = TLog.empty(COMMITS, BLOCKS, block_words, version=5)
    expected = oracle.LogModel(COMMITS, BLOCKS, block_words, version=5)
    for writes in data.draw(entries(block_words)):
        log = log.append(strategies.delta_of(writes, CAPACITY, block_words))
        expected = oracle.append(expected, writes)
        assert_log(log, expected)
    assert len(log) == len(expected.entries)


@given(strategies.tlogs(), st.integers(-6, 6), st.integers(-6, 6))
def test_slice_is_that_of_the_oracle(log, start, stop):
    assert_log(log.slice(start, stop), oracle.slice_log(oracle.log_of(log), start, stop))
    entries = oracle.log_of(log).entries
    assert oracle.log_of(log[start:stop]).entries == entries[start:stop]


@given(strategies.tlogs())
def test_delta_of_each_entry_is_what_was_appended(log):
    entries = oracle.log_of(log).entries
    for i, writes in enumerate(entries):
        assert_delta(log.delta(i, capacity=8), writes)
        assert_delta(log[i], writes)
        assert_delta(log[i - len(entries)], writes)


def test_empty_log_has_no_entries_and_no_blocks():
    log = TLog.empty(3, 5, version=2**32 - 1)
    check_log(log)
    assert (len(log), int(log.blocks), bool(log.overflow)) == (0, 0, False)
    assert int(log.version) == 2**32 - 1


def test_blocks_counts_those_in_use():
    log = TLog.empty(4, 12).append(written(0, 1)).append(written()).append(written(2))
    assert int(log.blocks) == 3


# Capacity


def test_append_behind_the_last_commit_overflows_and_stays_so():
    log = TLog.empty(2, 12).append(written(0)).append(written(1))
    assert not log.overflow
    full = log.append(written(2))
    assert full.overflow
    assert_log(full, oracle.append(oracle.log_of(log), {(2, 0): 3}))
    assert full.append(written()).overflow


def test_append_behind_the_last_block_overflows_and_keeps_what_was_there():
    log = TLog.empty(4, 3).append(written(0, 1))
    full = log.append(written(2, 3))
    assert full.overflow
    assert oracle.log_of(full).entries == oracle.log_of(log).entries
    assert_log(full.append(written(2)), oracle.log_of(full))


def test_append_that_fills_the_log_does_not_overflow():
    log = TLog.empty(2, 3).append(written(0, 1)).append(written(3))
    assert not log.overflow
    assert (len(log), int(log.blocks)) == (2, 3)


def test_append_of_an_overflowed_delta_overflows_the_log():
    log = TLog.empty(4, 12).append(written(0))
    full = log.append(overflowed())
    assert full.overflow
    assert oracle.log_of(full).entries == oracle.log_of(log).entries
    assert full.append(written(1)).overflow


def test_slice_and_scan_keep_the_overflow():
    full = TLog.empty(1, 12).append(written(0)).append(written(1))
    assert full.slice(0, 1).overflow

    def step(log, page):
        delta = strategies.delta_of({(0, 0): 1}, 1, 32)
        return log.append(Delta(page[None], *jax.tree.leaves(delta)[1:])), log.overflow

    log, overflow = jax.lax.scan(step, TLog.empty(3, 12), jnp.arange(5, dtype=jnp.int32))
    assert (len(log), bool(log.overflow)) == (3, True)
    assert overflow.tolist() == [False, False, False, False, True]


@pytest.mark.parametrize(("commits", "blocks"), [(0, 4), (4, 0), (0, 0)])
def test_log_without_room_takes_nothing_but_empty_entries(commits, blocks):
    log = TLog.empty(commits, blocks)
    assert log.append(written(0)).overflow
    assert bool(log.append(Delta.empty(2)).overflow) == (commits == 0)
    assert len(log.append(Delta.empty())) == min(commits, 1)
    assert len(log[0:3]) == 0
    assert log.delta(0, capacity=2).count == 0


def test_append_of_a_delta_wider_than_the_log_takes_its_blocks():
    log = TLog.empty(2, 2).append(written(1, 2, capacity=64))
    assert_log(log, oracle.LogModel(2, 2, 32, entries=({(1, 0): 2, (2, 0): 3},)))


# Slices and entries


def test_slice_begins_at_the_version_before_its_first_entry():
    log = TLog.empty(4, 12, version=10)
    for page in range(3):
        log = log.append(written(page))
    assert int(log[1:].version) == 11
    assert int(log[1:][1:].version) == 12
    assert [len(log[i:]) for i in range(5)] == [3, 2, 1, 0, 0]


def test_slice_of_traced_bounds_is_that_of_the_numbers():
    log = TLog.empty(4, 12).append(written(0)).append(written(1, 2))
    sliced = jax.jit(lambda log, start: log.slice(start, start + 1))(log, 1)
    assert_same(sliced, log[1:2])


@pytest.mark.parametrize("entry", [-1, 2, 3, 100])
def test_delta_of_an_entry_that_is_not_there_is_empty(entry):
    log = TLog.empty(2, 12).append(written(0)).append(written(1))
    assert_delta(log.delta(entry), {})
    assert_delta(log.delta(entry, capacity=3), {})


@pytest.mark.parametrize("capacity", [0, 1, 2])
def test_delta_with_too_little_capacity_overflows(capacity):
    log = TLog.empty(2, 12).append(written(0, 1, 2))
    delta = log.delta(0, capacity)
    assert_delta(delta, {(page, 0): page + 1 for page in range(3)})
    assert delta.overflow


def test_delta_under_jit_needs_a_capacity():
    log = TLog.empty(2, 12).append(written(0)).append(written(1, 2))
    assert_same(jax.jit(lambda log, i: log.delta(i, capacity=2))(log, 1), log.delta(1, 2))
    message = message_of(InvalidDeltaError, jax.jit(lambda log: log.delta(0)), log)
    assert message == (
        "TLog.delta needs capacity=… under a transformation: the most blocks that an entry has"
    )


@pytest.mark.parametrize("index", [2, -3])
def test_index_of_no_entry_raises(index):
    log = TLog.empty(2, 12).append(written(0)).append(written(1))
    assert message_of(IndexError, lambda: log[index]) == (f"entry {index} of a log with 2 entries")


def test_slice_with_a_step_raises():
    log = TLog.empty(2, 12).append(written(0))
    assert message_of(ValueError, lambda: log[::2]) == "a slice of a log has no step; got step=2"


def test_entries_of_a_log_can_be_iterated():
    log = TLog.empty(3, 12).append(written(0)).append(written(1, 2))
    assert [np.asarray(delta.count).item() for delta in log] == [1, 2]


def test_append_of_blocks_of_another_size_raises():
    assert message_of(InvalidDeltaError, TLog.empty(1, 1, 32).append, Delta.empty(1, 8)) == (
        "append of blocks of 8 words to a log of blocks of 32; make both with the same block_words"
    )


@pytest.mark.parametrize("version", [-1, 2**32, 0.5])
def test_empty_log_at_a_version_that_is_none_raises(version):
    assert message_of(VersionError, TLog.empty, 1, 1, version=version).startswith(
        f"version={version} arrived"
    )


@pytest.mark.parametrize("number", [2**40, 2**31, np.int64(2**32 + 1), np.uint32(2**31 + 5)])
def test_replay_until_beyond_all_entries_is_replay_of_all(number):
    layout = Layout.of({"w": jnp.zeros(3)}, 256)
    base, new = layout.pack({"w": jnp.zeros(3)}), layout.pack({"w": jnp.ones(3)})
    log = TLog.empty(2, 4).append(diff(base, new))
    with jax.enable_x64(True):
        for given in (number, np.asarray(number), jnp.asarray(number)):
            assert replay(base, log, given).version.tolist() == [1]
