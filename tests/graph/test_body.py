"""Bodies: which functions are the same, what is taken out of them, and how they are known again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from mmsb_jax._compile.body import Slot, Traced, trace
from mmsb_jax._core.tree.leaves import LeafSpec

THREE = LeafSpec("jax", "float32", (3,))
X = np.array([1.5, -2.0, 3.0], np.float32)


def traced(function: Callable[..., Any], *specs: LeafSpec) -> Traced:
    specs = specs or (THREE,)
    return trace(function, tuple(map(Slot, range(len(specs)))), specs)


def called(one: Traced, *arguments: Any) -> list[np.ndarray]:
    return [np.asarray(out) for out in one.body.call(one.constants, arguments)]


def ramp(k: float) -> np.ndarray:
    return np.arange(3, dtype=np.float32) * k


def with_jvp(array: Any) -> Callable[[Any], Any]:
    @jax.custom_jvp
    def f(x: Any) -> Any:
        return x * array

    f.defjvp(lambda primals, tangents: (f(*primals), tangents[0]))
    return f


def jitted(k: float) -> Callable[[Any], Any]:
    return jax.jit(lambda y: y + ramp(k))


SHARED: dict[str, Callable[[float], Callable[..., Any]]] = {
    "number": lambda k: lambda x: x * k + 1,
    "array of JAX": lambda k: lambda x, array=jnp.asarray(ramp(k)): x + array,
    "array of NumPy": lambda k: lambda x: x + ramp(k),
    "key": lambda k: lambda x: x + jax.random.normal(jax.random.key(int(k)), (3,)),
    "own derivative": lambda k: with_jvp(ramp(k)),
    "number beside a jitted function": lambda k: lambda x: jax.nn.relu(x) * k,
}

OTHER: dict[str, Callable[[float], Callable[..., Any]]] = {
    "number in a scan": lambda k: lambda x: jax.lax.scan(lambda c, y: (c, y * k), 0.0, x)[1],
    "array in a jitted function": lambda k: lambda x: jitted(k)(x),
    "number in a branch": lambda k: lambda x: jax.lax.cond(x[0] > 0, lambda: x * k, lambda: x),
    "shift": lambda k: lambda x: jnp.roll(x, int(k)),
    "dtype": lambda k: lambda x: x.astype([jnp.int8, jnp.int16, jnp.int32][int(k)]),
    "number that is returned": lambda k: lambda x: (x, k),
    "callback": lambda k: (
        lambda x: jax.pure_callback(lambda y: np.asarray(y) * np.float32(k), x, x)
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_functions_that_differ_in_constants_share_a_body_and_keep_their_constants(name):
    first, again, other = (traced(SHARED[name](k)) for k in (1.0, 1.0, 2.0))
    assert first.body == again.body == other.body
    assert len({hash(one.body) for one in (first, again, other)}) == 1
    assert first.fingerprint == again.fingerprint != other.fingerprint
    for k, one in ((1.0, first), (2.0, other)):
        # The body of one with the constants of the other is the other.
        [got] = first.body.call(one.constants, [X])
        np.testing.assert_allclose(got, SHARED[name](k)(jnp.asarray(X)), rtol=1e-6)


@pytest.mark.parametrize("name", OTHER)
def test_functions_that_differ_in_structure_are_others(name):
    first, other = traced(OTHER[name](1.0)), traced(OTHER[name](2.0))
    assert first.body != other.body
    if name != "callback":  # what Python code does, nobody can see
        assert traced(OTHER[name](1.0)).body == first.body
        assert traced(OTHER[name](1.0)).fingerprint == first.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (lambda x: x + x, lambda x: x * x),
        (lambda x: (x, x), lambda x: (x, x + 0)),
        (lambda x: (x, -x), lambda x: (-x, x)),
        (lambda x: x - 1, lambda x: 1 - x),
        (lambda x: x.sum(), lambda x: x.max()),
        (lambda x: {"a": x, "b": -x}, lambda x: {"a": -x, "b": x}),
    ],
)
def test_functions_that_do_something_else_have_other_bodies(left, right):
    assert traced(left).body != traced(right).body
    assert traced(left).fingerprint != traced(right).fingerprint


def test_name_of_a_function_and_of_its_arguments_says_nothing():
    def one(x: Any) -> Any:
        return jax.jit(lambda y: jnp.tanh(y) * 2)(x)

    def two(other: Any) -> Any:
        doubled = jax.jit(lambda z: jnp.tanh(z) * 2)
        return doubled(other)

    assert traced(one).body == traced(two).body


def test_order_of_arguments_and_repeated_ones_matter():
    pair = (THREE, THREE)
    assert traced(lambda x, y: x - y, *pair).body != traced(lambda x, y: y - x, *pair).body
    assert traced(lambda x, y: x - x, *pair).body != traced(lambda x, y: x - y, *pair).body


@pytest.mark.parametrize(
    "spec",
    [
        LeafSpec("jax", "float32", (4,)),
        LeafSpec("jax", "float16", (3,)),
        LeafSpec("jax", "float64", (3,)),
        LeafSpec("float", "float64", ()),
    ],
)
def test_same_function_of_other_arrays_is_another_body(spec):
    def double(x: Any) -> Any:
        return x * 2

    assert traced(double, spec).body != traced(double).body
    assert traced(double, spec).body == traced(double, spec).body


def test_literal_is_an_argument_so_that_a_division_stays_one():
    third = traced(lambda x: x / 3)
    [got] = jax.jit(third.body.call)(list(third.constants), [jnp.asarray(X)])
    assert np.asarray(got).tobytes() == (X / np.float32(3)).tobytes()


def test_results_are_named_by_their_path_and_keep_their_structure():
    one = traced(lambda x: {"b": (x, x + 1), "a": {"0": x.sum(), "1/2": x > 0}})
    assert one.names == ("a/~s0", "a/1~12", "b/0", "b/1")
    assert one.treedef.num_leaves == 4
    assert traced(lambda x: x).names == ("",)


def test_keys_go_in_and_out_as_their_data():
    spec = LeafSpec("key:threefry2x32", "uint32", (2,))
    one = traced(lambda key: jax.random.split(key), spec)
    assert one.body.outputs == (LeafSpec("key:threefry2x32", "uint32", (2, 2)),)
    key = jax.random.key(5)
    [got] = called(one, jax.random.key_data(key))
    np.testing.assert_array_equal(got, jax.random.key_data(jax.random.split(key)))


@pytest.mark.parametrize("is_on", [True, False])
def test_wide_arrays_are_computed_wide_whatever_the_setting(is_on):
    with jax.enable_x64(is_on):
        wide = traced(lambda x: x / 3, LeafSpec("numpy", "float64", (3,)))
    assert wide.body.is_wide
    assert wide.body.outputs[0].dtype == "float64"


def test_numbers_of_python_take_the_size_that_jax_has_for_them():
    number = LeafSpec("int", "int64", ())
    with jax.enable_x64(False):
        assert traced(lambda n: n + 1, number).body.inputs[0].dtype == "int32"
    with jax.enable_x64(True):
        assert traced(lambda n: n + 1, number).body.inputs[0].dtype == "int64"


def test_what_may_fail_while_it_runs_is_known():
    def checked(x: Any) -> Any:
        checkify.check(x[0] > 0, "no")
        return x

    def inside(x: Any) -> Any:
        return jax.lax.scan(jax.jit(lambda c, y: (c, checked(x))), 0.0, x)[1]

    def printing(x: Any) -> Any:
        jax.debug.print("{}", x)
        return x

    def calling(x: Any) -> Any:
        return jax.pure_callback(np.asarray, x, x)

    for function, has_checks in (
        (checked, True),
        (inside, True),
        (printing, False),
        (calling, False),
    ):
        body = traced(function).body
        assert body.can_fail
        assert body.has_checks == has_checks
    assert not traced(lambda x: x / 0).body.can_fail


def test_fingerprint_does_not_depend_on_where_it_is_printed(monkeypatch):
    def long(x: Any) -> Any:
        for _ in range(20):
            x = jnp.tanh(x) * 2 + 1
        return x

    plain = traced(long).fingerprint
    monkeypatch.setattr("jax._src.pretty_printer.CAN_USE_COLOR", True)
    assert traced(long).fingerprint == plain


def test_function_with_checks_is_known_again():
    def checked(limit: float, count: int) -> Callable[[Any], Any]:
        def inner(x: Any) -> Any:
            checkify.check(x.sum() < limit, "too large")
            return x * count

        def outer(x: Any) -> Any:
            checkify.check(x[0] < limit, "too large")
            return jax.lax.scan(lambda c, y: (c, inner(x).sum()), 0.0, x)[1]

        return outer

    one, again = (traced(checked(3.0, 2)) for _ in range(2))
    assert one.fingerprint == again.fingerprint
    assert traced(checked(4.0, 2)).fingerprint != one.fingerprint
    assert traced(checked(3.0, 5)).fingerprint != one.fingerprint


def test_constants_of_several_kinds_come_back_in_their_places():
    key, table = jax.random.key(1), np.arange(3, dtype=np.int8)

    def mixed(x: Any) -> Any:
        noise = jax.random.normal(key, (3,))
        return x * 2 + noise - 3, table + jnp.int8(1), jnp.bool_(True)

    one = traced(mixed)
    got = called(one, X)
    for mine, wanted in zip(got, mixed(jnp.asarray(X)), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-6)
        assert mine.dtype == wanted.dtype


def test_trace_of_what_is_no_array_says_so():
    with pytest.raises(TypeError, match="returned a str"):
        traced(lambda x: "text")
    assert traced(lambda x: (1, 2.5, True, x)).body.outputs[0].dtype == "int32"
