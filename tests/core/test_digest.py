"""The digest: from scratch, from changed words, on the device, on the host and by the oracle."""

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
    Region,
    StructureError,
    apply,
    diff,
    digest,
)
from mmsb_jax import update_digest as update
from mmsb_jax._core.tree.leaves import LeafSpec, host_array
from mmsb_jax._store.encoding.digest import digest_words
from mmsb_jax.testing import oracle, strategies
from tests._sampled import halved
from tests.core._compare import plain

# Three arrays of a pool of four pages: the first is two pages, the second has no bytes.
LAYOUT = Layout.of(
    {"a": np.zeros(300, np.uint8), "b": np.zeros((0, 2)), "c": np.zeros(100, np.uint8)}, 256
)


def region(name, page, pages):
    return Region(name, LeafSpec("numpy", "uint8", (256 * pages,)), page, pages, 256)


GAPPED = Layout((region("late", 3, 1), region("early", 0, 2)), 256)
"""Arrays out of order, and a page (2) that is nobody's."""

LAYOUTS = [GAPPED, Layout((region("all", 0, 4),), 256)]
"""Layouts of a pool of the size that the strategies draw."""


def words_of_host(leaf):
    raw = host_array(plain(leaf)).reshape(-1).view(np.uint8)
    return np.concatenate([raw, np.zeros(-raw.size % 4, np.uint8)]).view(np.uint32)


def places(layout):
    return [(region.page, region.pages) for region in layout.regions]


@pytest.mark.parametrize("layout", LAYOUTS)
@given(pages=strategies.pages())
def test_digest_is_that_of_the_oracle(layout, pages):
    found = digest(pages, layout)
    assert found.dtype == jnp.uint32
    assert found.tolist() == [list(d) for d in oracle.digest(oracle.pool_of(pages), places(layout))]


@halved
@given(strategies.layouts())
def test_digest_of_any_tree_is_that_of_the_store_on_the_host(drawn):
    tree, layout = drawn
    leaves = jax.tree_util.tree_leaves(tree, is_leaf=lambda x: x is None)
    constants = dict(layout.constants)
    data = [leaf for i, leaf in enumerate(leaves) if i not in constants]
    expected = [list(digest_words(words_of_host(leaf))) for leaf in data]
    assert digest(layout.pack(tree), layout).tolist() == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block_words", [1, 8, 32])
@given(data=st.data())
def test_update_digest_is_the_digest_from_scratch(layout, block_words, data):
    pages = data.draw(strategies.pages())
    delta = data.draw(strategies.deltas(capacity=16, block_words=block_words))
    found = update(digest(pages, layout), pages, layout, delta)
    assert found.tolist() == digest(apply(pages, delta), layout).tolist()


def test_digest_of_a_long_array_is_that_of_the_store():
    words = np.random.default_rng(0).integers(0, 2**32, 5000, dtype=np.uint32)
    layout = Layout.of({"pad": jnp.zeros(1), "x": words}, page_bytes=4096)
    found = digest(layout.pack({"pad": jnp.zeros(1), "x": words}), layout)
    assert found.tolist() == [[0, 0], list(digest_words(words))]


def test_digest_survives_a_move_of_the_array():
    array = jnp.arange(100.0)
    alone = Layout.of({"x": array}, 128)
    behind = Layout.of({"a": jnp.ones(77), "x": array}, 128)
    first = digest(alone.pack({"x": array}), alone)[0]
    second = digest(behind.pack({"a": jnp.ones(77), "x": array}), behind)[1]
    assert first.tolist() == second.tolist()


def test_digest_of_zeros_is_zero_and_of_swapped_words_is_another():
    layout = Layout.of({"x": jnp.zeros(4)}, 128)
    assert digest(layout.pack({"x": jnp.zeros(4)}), layout).tolist() == [[0, 0]]
    one = digest(layout.pack({"x": jnp.array([1.0, 2.0, 0, 0])}), layout)
    other = digest(layout.pack({"x": jnp.array([2.0, 1.0, 0, 0])}), layout)
    assert (one != other).all()


def test_digest_of_a_layout_without_arrays_is_empty():
    layout = Layout.of({})
    pages = layout.pack({})
    assert digest(pages, layout).shape == (0, 2)
    delta = strategies.delta_of({(0, 0): 1}, 1, 32)
    assert update(digest(pages, layout), pages, layout, delta).shape == (0, 2)


def test_update_digest_under_jit_and_vmap_is_that_of_each():
    layout = LAYOUT
    pages = Pages(jnp.arange(192, dtype=jnp.uint32).reshape(3, 64), jnp.zeros(3, jnp.uint32))
    changed = jnp.stack([pages.words.at[i, 7].set(99) for i in range(3)])

    def step(words):
        delta = diff(pages, Pages(words, pages.version), capacity=2)
        return update(digest(pages, layout), pages, layout, delta)

    expected = [digest(Pages(words, pages.version), layout).tolist() for words in changed]
    assert jax.jit(jax.vmap(step))(changed).tolist() == expected


@pytest.mark.parametrize("place", [(-1, 0), (3, 0), (0, 2), (0, -1), (2**31 - 2, 0)])
def test_update_digest_drops_a_block_outside_of_the_pool(place):
    pages = Pages(jnp.arange(192, dtype=jnp.uint32).reshape(3, 64), jnp.zeros(3, jnp.uint32))
    inside = strategies.delta_of({(1, 0): 77}, 1, 32)
    page, block = (jnp.array([at], jnp.int32) for at in place)
    outside = Delta(page, block, inside.mask, inside.data, inside.count, inside.overflow)
    before = digest(pages, LAYOUT)
    assert update(before, pages, LAYOUT, outside).tolist() == before.tolist()
    assert update(before, pages, LAYOUT, inside).tolist() != before.tolist()


def test_digest_of_the_pages_of_another_layout_raises():
    pages = Pages(jnp.zeros((1, 64), jnp.uint32), jnp.zeros(1, jnp.uint32))
    delta = strategies.delta_of({(0, 0): 1}, 1, 32)
    expected = r"the layout has uint32\[3, 64\]"
    with pytest.raises(StructureError, match=expected):
        digest(pages, LAYOUT)
    with pytest.raises(StructureError, match=expected):
        update(jnp.zeros((3, 2), jnp.uint32), pages, LAYOUT, delta)


def test_update_digest_with_an_overflowed_delta_raises():
    pages = Pages(jnp.zeros((3, 64), jnp.uint32), jnp.zeros(3, jnp.uint32))
    delta = diff(pages, Pages(pages.words + 1, pages.version), capacity=2)
    with pytest.raises(InvalidDeltaError, match="the delta overflowed"):
        update(digest(pages, LAYOUT), pages, LAYOUT, delta)
