"""Packing: trees into words and back, to the bit, in plain calls and under transformations."""

import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import Layout, StructureError
from mmsb_jax.testing import check_pages, oracle, strategies
from tests._sampled import halved
from tests.core._compare import assert_pages, assert_same_tree, plain, stack, unstack, what

PAGE_BYTES = 128


def data_of(layout, tree):
    """The data leaves of a tree, in the order of the layout, as the oracle takes them."""
    leaves = jax.tree_util.tree_leaves(tree, is_leaf=lambda x: x is None)
    constants = dict(layout.constants)
    return [plain(leaf) for i, leaf in enumerate(leaves) if i not in constants]


def packed_by_oracle(layout, tree):
    return oracle.pack(data_of(layout, tree), layout.page_bytes)


def example(name, count=40):
    """``count`` elements of a dtype, in all sorts of bit patterns."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    raw = np.random.default_rng(0).integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    if name == "bool":
        raw &= 1
    if name in strategies.BITS:
        raw &= 2 ** strategies.BITS[name] - 1
    return jnp.asarray(raw.view(dtype))


def mixed(seed):
    """A tree with a leaf of each kind that JAX has."""
    return {
        "w": jnp.arange(40, dtype=jnp.float32) + seed,
        "b": (jnp.full((3, 5), seed, jnp.bfloat16), jnp.arange(5).astype(jnp.int4)),
        "k": jax.random.key(seed),
        "rbg": jax.random.split(jax.random.key(seed, impl="rbg"), 2),
        "c": jnp.full(2, seed + 1j, jnp.complex64),
        "t": jnp.arange(3) > seed,
        "z": jnp.float32(seed),
        "e": jnp.zeros((0, 2), jnp.int8),
        "f": jnp.tanh,
        "s": "name",
        "n": None,
    }


# Any tree


@halved
@given(strategies.layouts())
def test_pack_of_any_tree_has_the_bytes_of_its_leaves(drawn):
    tree, layout = drawn
    pages = layout.pack(tree)
    check_pages(pages, layout)
    assert_pages(pages, packed_by_oracle(layout, tree))


@halved
@given(strategies.layouts())
def test_unpack_of_pack_of_any_tree_gives_it_back(drawn):
    tree, layout = drawn
    assert_same_tree(layout.unpack(layout.pack(tree)), tree)


@halved
@given(st.data())
def test_unpack_of_pack_with_x64_gives_any_tree_back(data):
    with jax.enable_x64(True):
        tree, layout = data.draw(strategies.layouts())
        pages = layout.pack(tree)
        assert_pages(pages, packed_by_oracle(layout, tree))
        assert_same_tree(layout.unpack(pages), tree)


@halved
@given(st.data())
def test_unpack_without_x64_gives_back_what_was_packed_with_it(data):
    with jax.enable_x64(True):
        tree, layout = data.draw(strategies.layouts())
        pages = layout.pack(tree)
    assert_same_tree(layout.unpack(pages), tree)


@halved
@given(strategies.layouts(strategies.trees(strategies.device_arrays(), max_leaves=3)))
def test_unpack_of_the_oracles_bytes_agrees_with_the_oracle(drawn):
    tree, layout = drawn
    pool = packed_by_oracle(layout, tree)
    leaves = data_of(layout, tree)
    arrays = oracle.unpack(pool, [(leaf.dtype, leaf.shape) for leaf in leaves])
    unpacked = jax.tree_util.tree_leaves(layout.unpack(layout.pack(tree)))
    for array, leaf in zip(arrays, unpacked, strict=True):
        assert (array.dtype, array.shape, array.tobytes()) == what(leaf)[1:]


@pytest.mark.parametrize("tree", [{}, [], None, "name", {"a": (), "b": None}], ids=str)
def test_pack_of_a_tree_without_data_has_no_pages(tree):
    layout = Layout.of(tree)
    pages = layout.pack(tree)
    assert pages.words.shape == (0, 1024)
    assert_same_tree(layout.unpack(pages), tree)


@pytest.mark.parametrize(
    "leaf", [3, -0.0, True, 1j, jnp.float32(2), np.float64(3), np.arange(3.0), jax.random.key(1)]
)
def test_unpack_of_a_bare_leaf_gives_the_leaf(leaf):
    layout = Layout.of(leaf)
    assert what(layout.unpack(layout.pack(leaf))) == what(leaf)


# Every dtype, every bit pattern


@pytest.mark.parametrize("name", strategies.DEVICE_DTYPES)
def test_pack_and_unpack_under_jit_keep_every_dtype(name):
    with jax.enable_x64(True):
        array = example(name)
        layout = Layout.of(array, page_bytes=PAGE_BYTES)
        pages = jax.jit(layout.pack)(array)
        assert_pages(pages, oracle.pack([array], PAGE_BYTES))
        assert what(jax.jit(layout.unpack)(pages)) == what(array)


@pytest.mark.parametrize(
    ("name", "unsigned"),
    [
        ("bfloat16", np.uint16),
        ("float16", np.uint16),
        *(
            (name, np.uint8)
            for name in strategies.DEVICE_DTYPES
            if name.startswith("float8") or name in strategies.BITS
        ),
    ],
)
@pytest.mark.parametrize("transform", ["plain", "jit", "vmap"])
def test_every_bit_pattern_of_a_small_dtype_comes_back(name, unsigned, transform):
    count = 2 ** strategies.BITS.get(name, 8 * np.dtype(unsigned).itemsize)
    patterns = np.arange(count, dtype=unsigned).view(np.dtype(getattr(ml_dtypes, name, name)))
    array = jnp.asarray(patterns.reshape(2, -1))
    layout = Layout.of(array[0] if transform == "vmap" else array)

    def there_and_back(x):
        return layout.unpack(layout.pack(x))

    function = {"plain": lambda f: f, "jit": jax.jit, "vmap": jax.vmap}[transform](there_and_back)
    assert what(function(array)) == what(array)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", ["float32", "complex64", "float64", "complex128"])
def test_nan_payloads_and_signed_zeros_come_back(name, jitted):
    part = "float64" if name in ("float64", "complex128") else "float32"
    patterns = {
        "float32": [0x7F800001, 0xFFC12345, 0x7FC00000, 0x80000000, 0x7F800000, 1],
        "float64": [0x7FF0000000000001, 0xFFF8123456789ABC, 1 << 63, 0x7FF0 << 48, 1, 0],
    }[part]
    bits = np.array(patterns, "u4" if part == "float32" else "u8")
    with jax.enable_x64(True):
        array = jnp.asarray(bits.view(name))
        layout = Layout.of(array)
        pack, unpack = (jax.jit(f) if jitted else f for f in (layout.pack, layout.unpack))
        assert what(unpack(pack(array))) == what(array)
        assert np.asarray(array).tobytes() == bits.tobytes()


@pytest.mark.parametrize("implementation", strategies.KEY_IMPLEMENTATIONS)
def test_keys_under_vmap_come_back(implementation):
    keys = jax.random.split(jax.random.key(7, impl=implementation), 3)
    layout = Layout.of({"k": keys[0]}, page_bytes=PAGE_BYTES)
    pages = jax.vmap(layout.pack)({"k": keys})
    assert what(jax.vmap(layout.unpack)(pages)["k"]) == what(keys)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24.0).reshape(4, 6)[::2, ::-3],
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.arange(5, dtype=">i2"),
        np.array(["one", "three"]),
        np.array([b"ab", b""]),
        np.array(["2020-01-01", "NaT"], "M8[ms]"),
        np.longdouble([1, 2]) / 3,
    ],
    ids=lambda array: str(array.dtype),
)
def test_an_array_that_only_numpy_holds_comes_back(array):
    layout = Layout.of({"x": array}, page_bytes=PAGE_BYTES)
    back = layout.unpack(layout.pack({"x": array}))["x"]
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


# Under transformations


def test_pack_under_vmap_is_pack_of_each():
    trees = [mixed(seed) for seed in range(3)]
    layout = Layout.of(trees[0], page_bytes=PAGE_BYTES)
    arrays = [{k: v for k, v in tree.items() if k not in "fsn"} for tree in trees]

    def pack(arrays):
        return layout.pack({**arrays, "f": jnp.tanh, "s": "name", "n": None})

    for batched in (jax.vmap(pack), jax.jit(jax.vmap(pack))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is donated in vain
            packed = batched(stack(*arrays))
        for pages, tree in zip(unstack(packed), trees, strict=True):
            assert_pages(pages, packed_by_oracle(layout, tree))


def test_unpack_under_vmap_is_unpack_of_each():
    trees = [{k: v for k, v in mixed(seed).items() if k not in "fsn"} for seed in range(3)]
    layout = Layout.of(trees[0], page_bytes=PAGE_BYTES)
    pages = stack(*(layout.pack(tree) for tree in trees))
    for unpacked in (jax.vmap(layout.unpack)(pages), jax.jit(jax.vmap(layout.unpack))(pages)):
        for tree, expected in zip(unstack(unpacked), trees, strict=True):
            assert_same_tree(tree, expected)


def test_pack_and_unpack_in_a_scan_carry_the_state():
    tree = {"x": jnp.bfloat16(1), "n": jnp.int32(0)}
    layout = Layout.of(tree, page_bytes=PAGE_BYTES)

    def step(pages, _):
        state = layout.unpack(pages)
        return layout.pack({"x": state["x"] / 2, "n": state["n"] + 1}), state["n"]

    pages, counts = jax.lax.scan(step, layout.pack(tree), length=5)
    assert_same_tree(layout.unpack(pages), {"x": jnp.bfloat16(2**-5), "n": jnp.int32(5)})
    assert counts.tolist() == [0, 1, 2, 3, 4]


def test_pack_under_vmap_with_one_batched_leaf_repeats_the_others():
    tree = {"a": jnp.arange(3.0), "b": jnp.ones(2)}
    layout = Layout.of(tree, page_bytes=PAGE_BYTES)
    rows = jnp.arange(6.0).reshape(2, 3)
    batch = jax.vmap(lambda a: layout.pack({"a": a, "b": tree["b"]}))(rows)
    for pages, row in zip(unstack(batch), rows, strict=True):
        assert_same_tree(layout.unpack(pages), {"a": row, "b": tree["b"]})


def test_pack_under_jit_takes_what_the_host_holds():
    layout = Layout.of({"a": jnp.zeros(2), "n": 3, "x": np.arange(2.0)})
    pages = jax.jit(lambda a: layout.pack({"a": a, "n": 4, "x": np.ones(2)}))(jnp.ones(2))
    assert_same_tree(layout.unpack(pages), {"a": jnp.ones(2), "n": 4, "x": np.ones(2)})


def test_unpack_under_jit_of_what_only_the_host_holds_raises():
    tree = {"a": jnp.zeros(2), "opt": {"x": np.arange(2.0)}}
    layout = Layout.of(tree)
    with pytest.raises(StructureError) as error:
        jax.jit(layout.unpack)(layout.pack(tree))
    assert str(error.value) == (
        "opt/x: float64[2] (numpy) cannot be held by JAX here, and so not unpacked inside a "
        "transformation. Turn on 64-bit types (jax_enable_x64), or leave it out."
    )


def test_get_and_set_under_jit_and_vmap_are_those_of_each():
    tree = {"a": jnp.zeros(40), "b": jnp.ones(2, jnp.bfloat16)}
    layout = Layout.of(tree, page_bytes=PAGE_BYTES)
    pages = layout.pack(tree)
    rows = jnp.arange(80.0).reshape(2, 40).at[:, 32:].set(0)

    def change(row, version):
        changed = layout.set(pages, "a", row, version=version)
        return changed, layout.get(changed, "a")

    batch, got = jax.jit(jax.vmap(change))(rows, jnp.array([3, 4]))
    np.testing.assert_array_equal(got, rows)
    assert batch.version.tolist() == [[3, 0, 0], [4, 0, 0]]
    for changed, row in zip(unstack(batch), rows, strict=True):
        assert_same_tree(layout.unpack(changed), {**tree, "a": row})


def test_words_carry_no_gradient():
    layout = Layout.of(jnp.zeros(3))

    def loss(x):
        pages = layout.pack(x)
        return x.sum() + layout.unpack(pages).sum(), pages

    (value, pages), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.ones(3))
    assert value == 6
    np.testing.assert_array_equal(gradient, jnp.ones(3))
    np.testing.assert_array_equal(layout.unpack(pages), jnp.ones(3))


# Whose memory


def test_pages_do_not_share_memory_with_the_tree():
    tree = {"a": jnp.arange(1024.0), "n": np.arange(1024.0)}
    layout = Layout.of(tree)
    pages = layout.pack(tree)
    tree["a"].delete()
    tree["n"][:] = -1
    back = layout.unpack(pages)
    np.testing.assert_array_equal(back["a"], np.arange(1024, dtype=np.float32))
    np.testing.assert_array_equal(back["n"], np.arange(1024.0))


def test_what_unpack_gives_may_be_donated_and_overwritten():
    tree = {"a": jnp.arange(1024.0), "n": np.arange(1024.0)}
    layout = Layout.of(tree)
    pages = layout.pack(tree)
    first = layout.unpack(pages)
    first["a"].delete()
    first["n"][:] = -1
    assert_same_tree(layout.unpack(pages), tree)
