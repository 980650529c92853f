"""The table of causes: two calls that differ in one thing, and the text that names it."""

import dataclasses
import functools
import gc
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from mmsb_jax import programs
from tests.bus._script import run_script


def total(x, scale=1.0):
    """A function whose arguments may be anything that has numbers."""
    return scale * sum(jnp.sum(leaf) for leaf in jax.tree_util.tree_leaves(x))


def power(x, n):
    return x if n is None else x**2


@dataclasses.dataclass(frozen=True)
class ByValue:
    rate: float


class ByIdentity:
    pass


X = np.arange(12, dtype=np.float32).reshape(3, 4)

CAUSES = {
    "shape": (X, X[:2], "shape", "argument x: shape (3, 4) -> (2, 4)"),
    "dtype": (X, X.astype(np.int32), "dtype", "argument x: dtype float32 -> int32"),
    "weak type": (np.float32(2), 2.0, "weak type", "argument x: weak type no -> yes"),
    "a key came": ({"a": X}, {"a": X, "b": X}, "structure",
                   "argument x: structure without ['b'] -> with ['b']"),
    "a key went": ({"a": X, "b": X}, {"a": X}, "structure",
                   "argument x: structure with ['b'] -> without ['b']"),
    "another key": ({"a": X}, {"b": X}, "structure",
                    "argument x: structure with ['a'] -> with ['b']"),
    "a list": ((X, X), [X, X], "structure", "argument x: structure tuple -> list"),
    "below a key": ({"a": {"w": X}}, {"a": {"w": X[:1]}}, "shape",
                    "argument x['a']['w']: shape (3, 4) -> (1, 4)"),
    "many at once": ([X] * 9, [X[:2]] * 9, "shape",
                     "argument x[0] and 8 more: shape (3, 4) -> (2, 4)"),
}  # fmt: skip


def nested(value, depth):
    """A value below many keys."""
    for number in range(depth):
        value = {f"a layer of a long name {number}": value}
    return value


def compiled_by(function, *calls):
    """The last compilation of calls, of which each compiles."""
    for number, call in enumerate(calls, 1):
        call(function)
        assert len(function.compilations) == number
    return function.compilations[-1]


@pytest.mark.parametrize("name", CAUSES)
@pytest.mark.parametrize("way", ["plain", "grad", "vmap", "donated"])
def test_difference_of_arguments_is_named(name, way):
    before, after, kind, text = CAUSES[name]
    before, after = jax.tree_util.tree_map(to_jax, (before, after))
    jitted = jax.jit(lambda x: total(x), donate_argnums=0 if way == "donated" else ())
    function = programs.watch(jitted, name="total")

    def call(x):
        if way == "grad":
            jax.grad(function)(x)
        elif way == "vmap":
            jax.vmap(function)(jax.tree_util.tree_map(lambda leaf: jnp.stack([leaf] * 2), x))
        else:
            function(x)

    if name == "weak type" and way != "plain":
        pytest.skip("an array that was stacked is of no weak type, and no number is donated")
    if name == "dtype" and way == "grad":
        after = jax.tree_util.tree_map(lambda x: x.astype(np.float16), after)
        text = text.replace("int32", "float16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is donated cannot be used
        found = compiled_by(function, lambda _: call(before), lambda _: call(after))
    assert (found.causes[0].kind, str(found.causes[0])) == (kind, text)
    assert len(found.causes) == 1
    # Under a transformation JAX does not say whether it traced.
    assert found.what == ("lowered again" if way in ("grad", "vmap") else "traced again")


def fresh(**options):
    """`total` as a function that was not compiled before."""
    return programs.watch(jax.jit(lambda x, scale=1.0: total(x, scale), **options))


def to_jax(leaf):
    return leaf if isinstance(leaf, float) else jnp.array(leaf)


def on_host(x):
    return jax.device_put(x, SingleDeviceSharding(jax.devices()[0], memory_kind="unpinned_host"))


def transposed(x):
    layout = Layout((1, 0))
    return jax.device_put(x, Format(layout, SingleDeviceSharding(jax.devices()[0])))


@pytest.mark.parametrize(
    ("put", "text"),
    [
        (on_host, "memory kind device -> unpinned_host"),
        (transposed, "layout (0, 1) -> (1, 0)"),
    ],
)
def test_memory_kind_and_layout_are_named(put, text):
    function = fresh()
    x = jax.device_put(X, jax.devices()[0])
    found = compiled_by(function, lambda f: f(x), lambda f: f(put(x)))
    assert found.why == f"argument x: {text}"
    assert "device_put" in found.advice[0]


STATIC = {
    "a number": (2, 3, "argument n: static value 2 -> 3"),
    "none": (None, 3, "argument n: static value None -> 3"),
    "a string": ("token", "other", "a str of 5 characters -> another str of 5 characters"),
    "a tuple": ((1, "a"), (2, "a"), "(1, a str of 1 characters) -> (2, a str of 1 characters)"),
    "a dtype": (np.dtype("int8"), np.dtype("int16"), "static value int8 -> int16"),
    "by value": (ByValue(1), ByValue(2), "a ByValue -> another ByValue"),
    "by identity": (ByIdentity(), ByIdentity(), "a ByIdentity -> another ByIdentity"),
    "a function": (lambda: 1, lambda: 2, "<lambda> -> another <lambda>"),
}


@pytest.mark.parametrize("how", ["argnums", "argnames"])
@pytest.mark.parametrize("name", STATIC)
def test_static_value_is_named(name, how):
    before, after, text = STATIC[name]
    statics = {"static_argnums": 1} if how == "argnums" else {"static_argnames": "n"}
    function = programs.watch(jax.jit(lambda x, n: power(x, n), **statics))
    found = compiled_by(function, lambda f: f(X, before), lambda f: f(X, after))
    (cause,) = found.causes
    assert cause.kind == "static value"
    assert text in str(cause)
    is_by_identity = name in ("by identity", "a function")
    assert ("__hash__" in cause.advice) == is_by_identity


@pytest.mark.parametrize("depth", [4, 20])
def test_leaf_at_the_end_of_a_long_path_is_named(depth):
    function = programs.watch(jax.jit(lambda x: jax.tree_util.tree_leaves(x)[0] + 1))
    before, after = (nested({"a": a, "b": X[:1]}, depth) for a in (X, X[:1]))
    found = compiled_by(function, lambda f: f(before), lambda f: f(after))
    (cause,) = found.causes
    assert cause.kind == "shape"
    assert cause.where.startswith("argument x['a layer of")
    assert cause.where.endswith("name 0']['a']")
    assert len(cause.where) < 100


def test_static_values_whose_hashes_are_equal_by_chance_are_told_apart():
    function = programs.watch(jax.jit(power, static_argnums=1))
    values = ByValue(-1), ByValue(-2)
    assert hash(values[0]) == hash(values[1])
    found = compiled_by(function, lambda f: f(X, values[0]), lambda f: f(X, values[1]))
    assert found.why == "argument n: static value a ByValue -> another ByValue"


def test_static_value_that_is_gone_is_no_difference():
    function = programs.watch(jax.jit(power, static_argnums=1))
    function(X, ByValue(2))
    jax.clear_caches()
    gc.collect()
    function(X, ByValue(2))
    assert [cause.kind for cause in function.compilations[-1].causes] == ["nothing seen"]


def test_static_default_that_is_given_is_named():
    function = fresh(static_argnames="scale")
    found = compiled_by(function, lambda f: f(X), lambda f: f(X, scale=2.0))
    assert found.why == "argument scale: static value not given -> 2.0"


def test_number_that_is_not_static_is_not_named():
    function = fresh()
    function(X, 1.0)
    function(X, 2.0)
    function(X[:1], 3.0)
    assert [each.why for each in function.compilations[1:]] == [
        "argument x: shape (3, 4) -> (1, 4)"
    ]


def test_argument_by_keyword_is_named():
    function = fresh()
    found = compiled_by(function, lambda f: f(X), lambda f: f(x=X), lambda f: f(X, 1.0))
    assert function.compilations[1].why == "argument x: passed by position -> by keyword"
    assert found.why == "argument scale: passed not given -> by position"


def test_static_field_of_a_node_is_named():
    class Node(eqx.Module):
        weight: jax.Array
        name: str = eqx.field(static=True)

    function = programs.watch(jax.jit(lambda node: node["n"].weight * 2))
    found = compiled_by(
        function, lambda f: f({"n": Node(X, "secret")}), lambda f: f({"n": Node(X, "other")})
    )
    (cause,) = found.causes
    assert cause.kind == "structure"
    assert cause.after.endswith("Node with other static fields")
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("jax_default_matmul_precision", lambda: jax.default_matmul_precision("float32")),
        ("jax_numpy_rank_promotion", lambda: jax.numpy_rank_promotion("raise")),
        ("jax_threefry_partitionable", lambda: jax.threefry_partitionable(False)),
    ],
)
def test_configuration_is_named(name, setting):
    function = programs.watch(jax.jit(lambda x: x @ x.T))

    def call(_):
        with setting():
            function(X)

    found = compiled_by(function, lambda f: f(X), call)
    assert [cause.kind for cause in found.causes] == ["configuration"]
    assert name in found.why


def test_version_of_profiles_is_named():
    function = programs.watch(jax.jit(lambda x: x + 1))
    before = jax.config.jax_xla_profile_version
    function(X)
    jax.config.update("jax_xla_profile_version", before + 1)
    try:
        function(X)
    finally:
        jax.config.update("jax_xla_profile_version", before)
    (cause,) = function.compilations[-1].causes
    assert cause.where == "configuration jax_xla_profile_version"


def test_wide_types_are_named():
    function = programs.watch(jax.jit(lambda x: x * 2))

    def call(_):
        with jax.enable_x64(True):
            function(X.astype(np.float64))

    found = compiled_by(function, lambda f: f(X.astype(np.float64)), call)
    assert [str(cause) for cause in found.causes] == [
        "argument x: dtype float32 -> float64",
        "configuration jax_enable_x64: False -> True",
    ]


def test_nearest_earlier_call_is_compared():
    function = fresh()
    for x in (X, X[:1], X[:1].astype(np.int32)):
        function(x)
    function(X[:2].astype(np.int32))
    assert function.compilations[-1].why == "argument x: shape (1, 4) -> (2, 4)"


@pytest.mark.parametrize("clear", [jax.clear_caches, None])
def test_cleared_caches_are_said_to_be_unseen(clear):
    function = fresh()
    clear = clear or function.clear_cache
    function(X)
    clear()
    function(X)
    found = function.compilations[-1]
    assert [cause.kind for cause in found.causes] == ["nothing seen"]
    assert "caches were cleared" in found.why


def test_other_function_object_is_named():
    for number in range(3):
        function = programs.watch(jax.jit(lambda x: x + 1))
        function(X)
        (cause,) = function.compilations[0].causes
        assert cause.kind == ("function object" if number else "first call")
    assert "2 others were compiled before" in cause.after
    assert "outside of the loop" in cause.advice


def test_same_function_jitted_anew_is_no_other_object():
    def twice(x):
        return x * 2

    for _ in range(2):
        jax.clear_caches()
        function = programs.watch(jax.jit(twice))
        function(X)
        assert function.compilations[0].why == "first call"


def test_other_size_that_vmap_maps_over_is_said_to_be_unseen():
    function = fresh()
    for size in (2, 3):
        jax.vmap(function)(jnp.ones((size, 4)))
    assert "the same arguments under vmap" in function.compilations[1].why
    assert function.compilations[1].what == "lowered again"
    jax.grad(function)(jnp.ones(4))
    assert function.compilations[2].why == "argument x: transformation vmap -> grad or jvp"


def test_function_inside_another_is_compiled_with_that_one():
    inner = programs.watch(jax.jit(lambda x: x + 1))
    outer = programs.watch(jax.jit(lambda x: inner(x) * 2), name="outer")
    outer(X)
    assert not inner.compilations
    assert [each.function for each in outer.compilations] == ["outer"]
    inner(X)
    assert [each.what for each in inner.compilations] == ["first"]


def test_equinox_filter_jit_names_static_leaves():
    function = programs.watch(eqx.filter_jit(power))
    found = compiled_by(function, lambda f: f(X, 2), lambda f: f(X, 3))
    assert found.why == "argument n: static value 2 -> 3"


@pytest.mark.parametrize(
    "make", [functools.partial(power, n=2), jax.tree_util.Partial(power, n=2), ByIdentity]
)
def test_callable_without_a_signature_of_its_own(make):
    if make is ByIdentity:

        class Callable:
            def __call__(self, x):
                return x + 1

        make = Callable()
    function = programs.watch(jax.jit(make), name="own")
    found = compiled_by(function, lambda f: f(X), lambda f: f(X[:2]))
    assert found.why == "argument x: shape (3, 4) -> (2, 4)"


PLACES = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    from mmsb_jax import programs

    mesh = jax.make_mesh((8,), ("d",))
    x = jnp.arange(16.0)
    devices = jax.devices()
    along, across = (NamedSharding(mesh, P(*spec)) for spec in (["d"], []))
    donate = {donate}

    def put(array, place):
        return jax.device_put(array, place) + 0

    def check(before, after, *expected):
        function = programs.watch(jax.jit(lambda x: 2 * x, donate_argnums=donate))
        for call in (before, after):
            call(function) if callable(call) else function(put(*call) if call[1] else call[0] + 0)
        first, second = function.compilations
        got = [str(cause) for cause in second.causes]
        assert got == list(expected), (got, expected)
        return second

    check((x, None), (x, devices[0]), "argument x: committed no -> yes")
    found = check((x, devices[0]), (x, devices[1]), "argument x: device cpu:0 -> cpu:1")
    assert "device_put" in found.advice[0]
    check((x, along), (x, across), "argument x: sharding P(d) over d=8 -> P() over d=8")
    check((x, devices[0]), (x, along), "argument x: sharding cpu:0 -> P(d) over d=8")
    check((x, along), (x, devices[0]), "argument x: sharding P(d) over d=8 -> cpu:0")

    def inside(function):
        with jax.set_mesh(mesh):
            function(jax.device_put(np.arange(16, dtype=np.float32), across))

    found = check((x, across), inside, "mesh in scope: none -> (d=8 explicit)")
    assert "set_mesh" in found.advice[0]

    def on_second(function):
        with jax.default_device(devices[1]):
            function(np.arange(16, dtype=np.float32))

    check((x, None), on_second, "configuration jax_default_device: None -> cpu:1")

    # Of what is mapped or differentiated JAX shows no place.
    auto = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = programs.watch(jax.jit(lambda x: 2 * x, donate_argnums=donate))
    for spec in P("d"), P():
        y = put(jnp.ones((16, 8)), NamedSharding(auto, spec))
        jax.vmap(mapped)(y + 0)
        jax.grad(lambda y: mapped(y).sum())(y + 0)
    kinds = [[cause.kind for cause in each.causes] for each in mapped.compilations]
    assert kinds == [["first call"], ["shape", "transformation"], *[["nothing seen"]] * 2], kinds
    print("done")
"""


@pytest.mark.parametrize("donate", [(), (0,)])
def test_place_is_named_on_eight_devices(donate):
    out = run_script(
        PLACES.format(donate=donate), XLA_FLAGS="--xla_force_host_platform_device_count=8"
    )
    assert out.endswith("done")
