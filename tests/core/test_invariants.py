"""The checks of `mmsb_jax.testing` fail on each kind of fault."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from mmsb_jax import Delta, Layout, Pages, TLog
from mmsb_jax.testing import check_delta, check_log, check_pages, oracle, strategies


def changed(value, **fields):
    """A copy of a value of the core with other arrays."""
    names = value.__dataclass_fields__
    return type(value)(**{name: fields.get(name, getattr(value, name)) for name in names})


def a_delta():
    return strategies.delta_of({(0, 0): 1, (0, 130): 2, (2, 5): 3}, 4, 32)


def a_log():
    entry = strategies.delta_of({(0, 0): 1, (2, 5): 3}, 2, 32)
    return TLog.empty(3, 6).append(entry).append(entry)


@given(strategies.pages(), strategies.deltas(), strategies.tlogs(block_words=8))
def test_checks_pass_for_what_the_strategies_draw(pages, delta, log):
    check_pages(pages)
    check_delta(delta, pages=4, page_words=64)
    check_log(log)


@given(strategies.layouts())
def test_check_pages_passes_for_what_pack_gives(drawn):
    tree, layout = drawn
    check_pages(layout.pack(tree), layout)


def test_check_pages_sees_a_byte_behind_an_array():
    layout = Layout.of({"a": np.zeros(5, np.uint8), "b": np.zeros(4, np.uint8)}, 128)
    pages = layout.pack({"a": np.ones(5, np.uint8), "b": np.ones(4, np.uint8)})
    check_pages(pages, layout)
    bad = Pages(pages.words.at[0, 1].set(0x0101), pages.version)
    with pytest.raises(AssertionError, match="1 bytes that no array owns are not zero"):
        check_pages(bad, layout)
    with pytest.raises(AssertionError, match="the layout has"):
        check_pages(Pages(pages.words[:1], pages.version[:1]), layout)


DELTA_FAULTS = {
    "count is 5": {"count": jnp.int32(5)},
    "count is -1": {"count": jnp.int32(-1)},
    "not ascending": {"page": jnp.array([2, 0, 0, oracle.NO_PAGE], jnp.int32)},
    r"places \[\(0, 0\), \(0, 0\)": {"block": jnp.array([0, 0, 0, 0], jnp.int32)},
    "pages behind count": {"page": jnp.array([0, 0, 2, 3], jnp.int32)},
    "rows behind count": {"block": jnp.array([0, 1, 0, 1], jnp.int32)},
    "row in use has no page": {"page": jnp.array([0, 0] + [oracle.NO_PAGE] * 2, jnp.int32)},
    "part set": {"mask": jnp.full((4, 32), 0x0F, jnp.uint32)},
    r"rows \[0, 1, 2\] write nothing": {"mask": jnp.zeros((4, 32), jnp.uint32)},
    r"rows \[0, 1, 2\] have data": {"data": jnp.full((4, 32), 7, jnp.uint32)},
}


@pytest.mark.parametrize("message", DELTA_FAULTS)
def test_check_delta_sees_a_fault(message):
    check_delta(a_delta())
    with pytest.raises(AssertionError, match=message):
        check_delta(changed(a_delta(), **DELTA_FAULTS[message]))


def test_check_delta_sees_a_block_outside_of_the_pool():
    with pytest.raises(AssertionError, match=r"rows \[2\] are outside of 2 pages"):
        check_delta(a_delta(), pages=2)
    with pytest.raises(AssertionError, match=r"rows \[1\] are outside of their page"):
        check_delta(a_delta(), page_words=32)


LOG_FAULTS = {
    "count is 4 for 3 commits": {"count": jnp.int32(4)},
    "entries end at": {"ends": jnp.array([4, 2, 0], jnp.int32)},
    "ends behind entry 1": {"ends": jnp.array([2, 4, 5], jnp.int32)},
    "entry 0 is marked": {"entry": jnp.ones(6, jnp.int32)},
    "entry 1, places": {"page": jnp.array([0, 2, 2, 0] + [oracle.NO_PAGE] * 2, jnp.int32)},
    "pages behind count": {"page": jnp.array([0, 2, 0, 2, 1, 1], jnp.int32)},
}


@pytest.mark.parametrize("message", LOG_FAULTS)
def test_check_log_sees_a_fault(message):
    check_log(a_log())
    with pytest.raises(AssertionError, match=message):
        check_log(changed(a_log(), **LOG_FAULTS[message]))


@given(strategies.deltas(block_words=8))
def test_oracle_reads_back_the_delta_that_it_describes(delta):
    writes = oracle.writes_of(delta)
    arrays = oracle.delta_arrays(writes, 8, delta.capacity)
    again = Delta(**{name: jnp.asarray(x) for name, x in arrays.items()}, block_words=8)
    assert oracle.writes_of(again) == writes
    assert int(delta.changed_bytes) == len(writes)
