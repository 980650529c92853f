"""The laws of every instance, on every dtype that it allows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import algebra
from mmsb_jax.algebra._instances import INSTANCES
from mmsb_jax.algebra._values import laws
from tests.algebra._graphs import relations

CASES = [(semiring, dtype) for semiring in INSTANCES for dtype in semiring.dtypes]
IDS = [f"{semiring.name}-{dtype}" for semiring, dtype in CASES]


def values_of(semiring, dtype):
    """Values of a semiring's dtype, finite sums of which stay inside of it, and infinities."""
    kind = jnp.dtype(dtype).kind
    if kind == "b":
        return st.booleans()
    if kind in "iu":
        ends = np.iinfo(dtype)
        low, high, special = ends.min // 4, ends.max // 4, [0, 1, int(ends.min), int(ends.max)]
        if semiring is algebra.max_times:
            low, special = 0, [0, 1, int(ends.max)]
        return st.integers(low, high) | st.sampled_from(special)
    # Products of three stay inside of float16: one that is rounded to 0 meets an infinity as 0.
    low = 1 / 16 if semiring is algebra.max_times else -32
    special = {"plus_times": [1.0], "log": [-np.inf], "max_times": [np.inf]}
    infinite = special.get(semiring.name, [np.inf, -np.inf])
    return st.floats(low, 32, width=16) | st.sampled_from([0.0, -0.0, *infinite])


@pytest.mark.parametrize(("semiring", "dtype"), CASES, ids=IDS)
def test_semiring_law_holds_for_drawn_values(semiring, dtype):
    known = list(laws.laws(semiring))
    assert len(known) == len({law.name for law in known}) >= 10
    all_sides = jax.jit(lambda *given: [law.sides(*given[: law.values]) for law in known])
    vector = st.lists(values_of(semiring, dtype), min_size=8, max_size=8)

    @given(vector, vector, vector)
    def holds(a, b, c):
        given = [jnp.asarray(np.array(values, dtype)) for values in (a, b, c)]
        if semiring.contains is not None:
            assert all(semiring.contains(values).all() for values in given)
        for law, (left, right) in zip(known, all_sides(*given), strict=True):
            equal = laws.agree(left, right, given[: law.values], law.is_exact)
            assert equal.all(), (law.name, given, left, right)
            assert left.dtype == right.dtype == dtype

    with jax.enable_x64(True):
        holds()


@pytest.mark.parametrize(("semiring", "dtype"), CASES, ids=IDS)
def test_check_of_instance_finds_nothing(semiring, dtype):
    with jax.enable_x64(True):
        semiring.check(dtype)


def test_check_without_a_dtype_tries_those_that_jax_has():
    tried = []

    def add(a, b):
        tried.append(a.dtype.name)
        return jnp.minimum(a, b)

    dtypes = ("int8", "bfloat16", "float64")
    algebra.Semiring("seen", add, jnp.maximum, zero=_highest, one=_lowest, dtypes=dtypes).check()
    assert set(tried) == {"int8", "bfloat16"}


def _highest(dtype):
    return np.iinfo(dtype).max if dtype.kind in "iu" else np.inf


def _lowest(dtype):
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


def _broken(**changes):
    fields = {"add": jnp.minimum, "multiply": jnp.maximum, "zero": _highest, "one": _lowest}
    return algebra.Semiring("broken", dtypes=("float32",), **(fields | changes))


def _mean_like(a, b):
    # A commutative group with 0 as its identity, which does not keep the order.
    return jnp.where(jnp.minimum(a, b) == -jnp.inf, -jnp.inf, a + b + a * b)


BROKEN = [
    (_broken(add=lambda a, b: a), "⊕ is commutative"),
    (_broken(add=lambda a, b: (a + b) / 2), "⊕ is associative"),
    (_broken(zero=2), "0̄ ⊕ a is a"),
    (_broken(multiply=jnp.subtract), "⊗ is associative"),
    (_broken(one=1), "1̄ ⊗ a is a"),
    (_broken(add=jnp.add, multiply=jnp.maximum, zero=0, one=_lowest), "0̄ ⊗ a is 0̄"),
    (_broken(add=jnp.maximum, multiply=_mean_like, zero=_lowest, one=0), "distributes over ⊕"),
    (_broken(add=jnp.add, multiply=jnp.multiply, zero=0, one=1, idempotent=True), "idempotent"),
    (_broken(add=jnp.add, multiply=jnp.multiply, zero=0, one=1, selective=True), "selective"),
    (_broken(add=jnp.minimum, multiply=jnp.add, one=0, bounded=True), "bounded"),
    (_broken(reduce=jnp.max), "reduce is ⊕"),
    (_broken(product=jnp.matmul), "product is ⊗ and ⊕"),
    (_broken(multiply=lambda a, b: b, one=0), "1̄ is a"),
]


@pytest.mark.parametrize(("semiring", "law"), BROKEN, ids=range(len(BROKEN)))
def test_check_of_a_broken_semiring_names_the_law_and_a_counterexample(semiring, law):
    # Of two infinities some sums are NaN, which would break other laws before.
    extra = [jnp.inf] if semiring.zero is _highest else []
    with pytest.raises(algebra.LawError, match=r"broken, float32: .* fails for a = ") as caught:
        semiring.check("float32", jnp.array([-2.0, 0.0, 1.0, 3.0, *extra]))
    assert law in str(caught.value)


def test_check_of_a_multiplication_that_does_not_commute_names_the_flag():
    values = jnp.arange(16, dtype=jnp.uint8)
    relations.check(values=values)
    claimed = dataclasses.replace(relations, commutative=True)
    with pytest.raises(algebra.LawError, match="commutative: ⊗ is fails for a = "):
        claimed.check(values=values)


def test_check_of_an_operation_that_changes_the_dtype_says_so():
    semiring = _broken(multiply=lambda a, b: jnp.maximum(a, b).astype(jnp.float16))
    with pytest.raises(algebra.LawError, match="gives float16, not float32"):
        semiring.check()


def test_check_of_a_dtype_that_it_is_not_on_is_refused():
    with pytest.raises(ValueError, match="lor_land is not defined on float32"):
        algebra.lor_land.check("float32")
    with pytest.raises(ValueError, match="max_plus is not defined on uint8"):
        algebra.max_plus.check("uint8")


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_tropical_sum_of_integers_saturates_and_zero_wins(dtype):
    ends = np.iinfo(dtype)
    a = jnp.array([ends.max, ends.max, ends.max - 1, ends.min + 1, ends.min, 3], dtype)
    b = jnp.array([ends.min, -5, 5, -5, 5, 4], dtype)
    expected = [ends.max, ends.max, ends.max, ends.min, ends.min, 7]
    assert algebra.min_plus.multiply(a, b).tolist() == expected
    expected[0] = ends.min
    assert algebra.max_plus.multiply(a, b).tolist() == expected


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_tropical_sum_of_unsigned_integers_saturates(dtype):
    top = np.iinfo(dtype).max
    a, b = jnp.array([top, top - 1, 3], dtype), jnp.array([1, 2, 4], dtype)
    assert algebra.min_plus.multiply(a, b).tolist() == [top, top, 7]


def test_corner_cases_of_floats_are_those_documented():
    inf = jnp.float32(jnp.inf)
    assert algebra.min_plus.multiply(inf, -inf) == inf
    assert algebra.max_plus.multiply(inf, -inf) == -inf
    assert algebra.log.multiply(inf, -inf) == -inf
    assert algebra.log.add(-inf, -inf) == -inf
    assert algebra.max_times.multiply(jnp.float32(0), inf) == 0
    assert jnp.isnan(algebra.plus_times.multiply(jnp.float32(0), inf))


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "uint32"])
def test_max_times_of_integers_saturates(dtype):
    top = np.iinfo(dtype).max
    a = jnp.array([top, 16, 0, top, 1, top // 2], dtype)
    b = jnp.array([2, top // 8, top, 0, top, 2], dtype)
    assert algebra.max_times.multiply(a, b).tolist() == [top, top, 0, 0, top, top // 2 * 2]
