"""Layout: what lives where; static, hashable, and strict about what it packs."""

import dataclasses
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from mmsb_jax import ArrayNotFoundError, Layout, Pages, Region, StructureError
from mmsb_jax._core.tree.leaves import LeafSpec
from mmsb_jax.testing import check_pages, strategies
from tests._sampled import halved
from tests.core._compare import assert_same_tree


class Linear(eqx.Module):
    weight: jax.Array
    activation: object
    width: int = eqx.field(static=True)


def linear(activation=jnp.tanh, width=3, dtype=jnp.float32):
    return Linear(jnp.ones(width, dtype), activation, width)


def by_hand():
    """A layout whose arrays are neither in order nor without gaps."""
    spec = LeafSpec("jax", "float32", (40,))
    regions = (Region("b", spec, 4, 2, 128), Region("a", LeafSpec("int", "int64", ()), 1, 1, 128))
    return Layout(regions, page_bytes=128)


def message_of(error_type, function, *args, **kwargs):
    with pytest.raises(error_type) as error:
        function(*args, **kwargs)
    return str(error.value)


def test_layout_of_a_tree_gives_each_array_whole_pages():
    tree = {"a": jnp.zeros(33), "b": jnp.zeros((0, 2)), "c": 7, "d": "name", "e": np.zeros(16)}
    layout = Layout.of(tree, page_bytes=128)
    places = [(r.name, r.page, r.pages, r.nbytes) for r in layout.regions]
    assert places == [("a", 0, 2, 132), ("b", 2, 0, 0), ("c", 2, 1, 8), ("e", 3, 1, 128)]
    assert (layout.pages, layout.page_words) == (4, 32)
    assert (layout.region("a").dtype, layout.region("a").shape) == ("float32", (33,))


@given(strategies.layouts())
def test_layouts_of_equal_trees_are_equal_and_hash_alike(drawn):
    tree, layout = drawn
    leaves, treedef = jax.tree_util.tree_flatten(tree)
    again = Layout.of(treedef.unflatten(leaves), page_bytes=layout.page_bytes)
    assert again == layout
    assert hash(again) == hash(layout)


def test_layout_of_new_values_is_the_same_layout():
    def state(seed):
        return {
            "w": jnp.full(3, seed),
            "lr": float(seed),
            "step": seed,
            "key": jax.random.key(seed),
        }

    assert Layout.of(state(1)) == Layout.of(state(2))


def test_layout_of_shapes_is_that_of_the_arrays():
    tree = linear()
    shapes = jax.eval_shape(lambda: {"w": tree.weight, "k": jax.random.key(0)})
    assert Layout.of(shapes) == Layout.of({"w": tree.weight, "k": jax.random.key(0)})


@pytest.mark.parametrize(
    "other",
    [
        {"a": jnp.zeros(4), "b": 1},
        {"a": jnp.zeros(3, jnp.int32), "b": 1},
        {"a": jnp.zeros(3), "b": 1.0},
        {"a": jnp.zeros(3)},
        {"a": jnp.zeros(3), "c": 1},
    ],
)
def test_layout_of_another_tree_is_another_layout(other):
    assert Layout.of(other) != Layout.of({"a": jnp.zeros(3), "b": 1})


def test_layout_is_static_under_jit():
    tree = {"a": jnp.arange(3.0)}
    layout = Layout.of(tree)

    @jax.jit
    def double(pages):
        return layout.pack({"a": 2 * layout.unpack(pages)["a"]})

    assert_same_tree(layout.unpack(double(layout.pack(tree))), {"a": 2 * jnp.arange(3.0)})
    function = jax.jit(lambda pages, layout: layout.get(pages, "a"), static_argnums=1)
    assert function(layout.pack(tree), layout)[2] == 2


def test_layout_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Layout.of(1).page_bytes = 128


def test_layout_of_plain_containers_survives_pickling():
    layout = Layout.of({"a": jnp.zeros(3), "b": [1, None]})
    assert pickle.loads(pickle.dumps(layout)) == layout


@pytest.mark.parametrize("page_bytes", [0, -128, 100, 64, True])
def test_layout_with_a_page_of_parts_of_lines_raises(page_bytes):
    message = message_of(ValueError, Layout.of, 1, page_bytes=page_bytes)
    assert message == f"page_bytes={page_bytes!r}: expected a positive multiple of 128 bytes"
    message_of(ValueError, Layout, (), page_bytes)


def test_layout_of_two_leaves_of_one_name_raises():
    class Twin:
        def __repr__(self):
            return "twin"

    @jax.tree_util.register_pytree_with_keys_class
    class Pair:
        def tree_flatten_with_keys(self):
            return [(Twin(), 1), (Twin(), 2)], None

        def tree_flatten(self):
            return [1, 2], None

        @classmethod
        def tree_unflatten(cls, aux, children):
            return cls()

    message = message_of(StructureError, Layout.of, {"x": Pair()})
    assert message == (
        "several leaves have the name 'x/~ktwin'. Expected one path a leaf: give the keys of that "
        "node different names."
    )


def test_layout_of_colliding_keys_keeps_the_leaves_apart():
    tree = {"a/b": jnp.int32(1), "a": {"b": jnp.int32(2)}, "0": [jnp.int32(3)], "": jnp.int32(4)}
    layout = Layout.of(tree)
    assert_same_tree(layout.unpack(layout.pack(tree)), tree)
    assert layout.get(layout.pack(tree), "a~1b") == 1
    assert layout.get(layout.pack(tree), "a/b") == 2


# pack: strict


def test_pack_of_a_tree_that_differs_names_every_path():
    layout = Layout.of(
        {
            "dtype": jnp.zeros(2),
            "gone": jnp.zeros(2),
            "name": "adam",
            "none": None,
            "same": jnp.zeros(2),
            "shape": jnp.zeros((2, 3)),
        }
    )
    arriving = {
        "dtype": jnp.zeros(2, jnp.bfloat16),
        "name": "sgd",
        "new": np.zeros(1),
        "none": 3,
        "same": jnp.ones(2),
        "shape": jnp.zeros((3, 2)),
    }
    assert message_of(StructureError, layout.pack, arriving) == (
        "the tree differs from the layout at 6 paths:\n"
        "  dtype: bfloat16[2] (jax) arrived, the layout has float32[2] (jax)\n"
        "  gone: missing, the layout has float32[2] (jax)\n"
        "  name: str 'sgd' arrived, the layout has str 'adam'\n"
        "  new: float64[1] (numpy), which the layout does not have\n"
        "  none: int64[] (int) arrived, the layout has None\n"
        "  shape: float32[3,2] (jax) arrived, the layout has float32[2,3] (jax)\n"
        "Make the layout of this tree with Layout.of(tree)."
    )


def test_pack_of_a_tree_that_differs_at_one_path_says_so():
    message = message_of(StructureError, Layout.of({"a": 1}).pack, {"a": 1.0})
    assert message.startswith(
        "the tree differs from the layout at 1 path:\n"
        "  a: float64[] (float) arrived, the layout has int64[] (int)\n"
    )


@pytest.mark.parametrize(
    ("tree", "other"),
    [
        ({"a": (1, 2)}, {"a": [1, 2]}),
        ({"a": 1, "b": {}}, {"a": 1, "b": []}),
        ({"a": 1, "b": {}}, {"a": 1}),
    ],
)
def test_pack_of_other_nodes_with_the_same_paths_raises(tree, other):
    message = message_of(StructureError, Layout.of(tree).pack, other)
    assert message.startswith("the tree has the paths of the layout, and other nodes")
    assert f"arrived  {jax.tree_util.tree_structure(other)}" in message
    assert f"expected {jax.tree_util.tree_structure(tree)}" in message


def test_pack_of_another_static_field_raises():
    tree = linear()
    other = eqx.tree_at(lambda m: m.weight, linear(width=4), tree.weight)
    assert "static fields" in message_of(StructureError, Layout.of(tree).pack, other)


def test_pack_of_another_function_raises():
    message = message_of(
        StructureError, Layout.of(linear()).pack, linear(activation=jax.nn.sigmoid)
    )
    assert "activation: function" in message
    assert "sigmoid" in message


def test_pack_of_the_same_function_by_name_works():
    def scale(x):
        return 2 * x

    def make():
        def inner(x):
            return x

        return inner

    layout = Layout.of({"f": make(), "g": scale})
    assert layout.unpack(layout.pack({"f": make(), "g": scale}))["g"] is scale


def test_pack_of_a_shape_raises():
    message = message_of(
        StructureError,
        Layout.of({"w": jnp.zeros(3)}).pack,
        {"w": jax.ShapeDtypeStruct((3,), jnp.float32)},
    )
    assert message == (
        "w: a ShapeDtypeStruct arrived, which has no bytes. Expected an array: Layout.of takes "
        "shapes, pack and set take values."
    )


def test_pack_takes_an_array_of_the_host_for_one_of_the_device():
    layout = Layout.of({"w": jnp.zeros(3)})
    tree = layout.unpack(layout.pack({"w": np.ones(3, np.float32)}))
    assert_same_tree(tree, {"w": jnp.ones(3)})


def test_pack_of_a_key_of_another_implementation_raises():
    layout = Layout.of({"k": jax.random.key(0, impl="rbg")})
    message = message_of(StructureError, layout.pack, {"k": jax.random.key(0, impl="unsafe_rbg")})
    assert "k: uint32[4] (key:unsafe_rbg) arrived, the layout has uint32[4] (key:rbg)" in message


def test_pack_by_hand_takes_a_dict_by_name():
    layout = by_hand()
    values = {"a": 3, "b": jnp.arange(40.0)}
    pages = layout.pack(values)
    check_pages(pages, layout)
    assert pages.words.shape == (6, 32)
    assert_same_tree(layout.unpack(pages), values)


@pytest.mark.parametrize(
    ("tree", "got"), [({"a": 3}, "['a']"), ([1, 2], "list"), ({"a": 1, "b": 2, "c": 3}, "'c'")]
)
def test_pack_by_hand_of_other_names_raises(tree, got):
    message = message_of(StructureError, by_hand().pack, tree)
    assert "Expected a dict with the names ['b', 'a']" in message
    assert got in message


# unpack, get, set


@pytest.mark.parametrize("method", ["unpack", "get", "set"])
def test_layout_with_the_pages_of_another_raises(method):
    layout = Layout.of({"a": jnp.zeros(3)}, page_bytes=128)
    pages = Pages(jnp.zeros((3, 32), jnp.uint32), jnp.zeros(3, jnp.uint32))
    args = {"unpack": (), "get": ("a",), "set": ("a", jnp.zeros(3))}[method]
    assert message_of(StructureError, getattr(layout, method), pages, *args) == (
        "pages of uint32[3, 32] arrived; the layout has uint32[1, 32]. Use the layout that packed "
        "them; for a batch, jax.vmap."
    )


@halved
@given(strategies.layouts())
def test_get_of_each_array_is_what_unpack_gives(drawn):
    tree, layout = drawn
    pages = layout.pack(tree)
    whole = Layout(layout.regions, layout.page_bytes).unpack(pages)
    assert_same_tree({r.name: layout.get(pages, r.name) for r in layout.regions}, whole)


def test_get_of_an_unknown_name_lists_what_is_near():
    layout = Layout.of({"params": {"weight": 1, "bias": 2}, "step": 3})
    message = message_of(
        ArrayNotFoundError,
        layout.get,
        layout.pack({"params": {"weight": 1, "bias": 2}, "step": 3}),
        "params/wieght",
    )
    assert (
        message == "no array is named 'params/wieght'. Did you mean 'params/weight', 'params/bias'?"
    )
    assert isinstance(ArrayNotFoundError(message), KeyError)


def test_region_of_a_layout_without_arrays_says_so():
    message = message_of(ArrayNotFoundError, Layout.of({}).region, "x")
    assert message == "no array is named 'x'. There are no arrays."


def test_set_replaces_one_array_and_marks_the_pages_that_differ():
    layout = Layout.of({"a": jnp.zeros(96), "b": jnp.ones(3)}, page_bytes=128)
    pages = layout.pack({"a": jnp.zeros(96), "b": jnp.ones(3)})
    new = layout.set(pages, "a", jnp.zeros(96).at[40].set(1), version=7)
    assert np.asarray(new.version).tolist() == [0, 7, 0, 0]
    expected = {"a": jnp.zeros(96).at[40].set(1), "b": jnp.ones(3)}
    assert_same_tree(layout.unpack(new), expected)
    assert_same_tree(layout.unpack(pages), {"a": jnp.zeros(96), "b": jnp.ones(3)})


def test_set_without_a_version_leaves_the_versions():
    layout = Layout.of({"a": jnp.zeros(3)}, page_bytes=128)
    pages = layout.set(layout.pack({"a": jnp.zeros(3)}), "a", jnp.ones(3), version=5)
    assert np.asarray(layout.set(pages, "a", jnp.zeros(3)).version).tolist() == [5]


def test_set_of_an_array_without_bytes_changes_nothing():
    layout = Layout.of({"a": jnp.zeros((0, 2)), "b": jnp.ones(2)})
    pages = layout.pack({"a": jnp.zeros((0, 2)), "b": jnp.ones(2)})
    assert layout.set(pages, "a", jnp.zeros((0, 2)), version=3) is pages


@pytest.mark.parametrize(
    ("value", "arrived"),
    [
        (jnp.zeros(4), "float32[4] (jax)"),
        (jnp.zeros(3, jnp.int32), "int32[3] (jax)"),
        (np.zeros(3), "float64[3] (numpy)"),
        (0.0, "float64[] (float)"),
        (None, "None"),
    ],
)
def test_set_of_another_shape_or_dtype_raises(value, arrived):
    layout = Layout.of({"a": jnp.zeros(3)})
    message = message_of(StructureError, layout.set, layout.pack({"a": jnp.zeros(3)}), "a", value)
    assert message == (
        f"set('a'): {arrived} arrived, the layout has float32[3] (jax). Nothing is cast: convert "
        f"it first."
    )


def test_set_of_an_unknown_name_raises():
    layout = Layout.of({"a": 1})
    assert "Did you mean 'a'?" in message_of(
        ArrayNotFoundError, layout.set, layout.pack({"a": 1}), "b", 1
    )
