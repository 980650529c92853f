"""Closures and powers against SciPy, NumPy and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.csgraph
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import GraphCycleError, algebra
from tests.algebra import _graphs


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_star_in_min_plus_is_the_distance_of_all_pairs(dtype):
    A, S = _graphs.weighted(_graphs.kronecker(6), dtype)
    expected = scipy.sparse.csgraph.floyd_warshall(S)
    if dtype == "int32":
        expected = np.where(np.isinf(expected), np.iinfo(dtype).max, expected)
    for form in (A, A.to_dense(algebra.min_plus)):
        np.testing.assert_array_equal(algebra.min_plus.star(form), expected)
    np.testing.assert_array_equal(jax.jit(algebra.min_plus.star)(A), expected)


def test_star_in_lor_land_is_the_transitive_closure():
    n, row, col = _graphs.acyclic(40, 60)
    A = algebra.SparseMatrix.from_coo(row, col, True, (n, n))
    expected = np.linalg.matrix_power(A.to_scipy().toarray() + np.eye(n), n) > 0
    np.testing.assert_array_equal(algebra.lor_land.star(A), expected)


def test_star_in_plus_times_is_the_inverse():
    A = np.random.default_rng(0).random((8, 8)).astype(np.float32) / 10
    np.testing.assert_allclose(
        algebra.plus_times.star(A), np.linalg.inv(np.eye(8) - A), rtol=1e-5, atol=1e-6
    )
    with np.errstate(divide="ignore"):
        found = algebra.log.star(np.log(A))
    np.testing.assert_allclose(np.exp(found), algebra.plus_times.star(A), rtol=1e-4)


@given(st.integers(0, 2**31), st.sampled_from(["min_plus", "max_min", "lor_land"]))
def test_star_is_the_identity_and_one_step_before_it(seed, name):
    semiring = getattr(algebra, name)
    rng = np.random.default_rng(seed)
    dtype = "bool" if name == "lor_land" else "int32"
    there = rng.random((7, 7)) < 0.3
    values = rng.integers(1, 9, (7, 7)).astype(dtype)
    A = jnp.asarray(np.where(there, values, semiring.zero_of(dtype)))
    closed = semiring.star(A)
    once_more = semiring.add(semiring.eye(7, dtype), semiring.matmul(A, closed))
    np.testing.assert_array_equal(closed, once_more)
    np.testing.assert_array_equal(closed, semiring.matmul(closed, closed))


def test_star_of_a_negative_cycle_raises_and_under_jit_marks_the_pairs_that_pass_it():
    # 0 → 1 ⇄ 2 → 3, and 4 by itself before 3.
    row, col, data = [0, 1, 2, 2, 4], [1, 2, 1, 3, 3], [1.0, 2.0, -3.0, 1.0, 7.0]
    A = algebra.SparseMatrix.from_coo(row, col, data, (5, 5), "float32")
    with pytest.raises(
        GraphCycleError, match=r"a cycle through node 2 never ends; once round is -1"
    ):
        algebra.min_plus.star(A)
    bottom, inf = -np.inf, np.inf
    assert jax.jit(algebra.min_plus.star)(A).tolist() == [
        [0, bottom, bottom, bottom, inf],
        [inf, bottom, bottom, bottom, inf],
        [inf, bottom, bottom, bottom, inf],
        [inf, inf, inf, 0, inf],
        [inf, inf, inf, 7, 0],
    ]


@pytest.mark.parametrize(
    ("semiring", "value"),
    [
        (algebra.max_plus, 1.0),
        (algebra.max_times, 2.0),
        (algebra.plus_times, 1.0),
        (algebra.log, 0.0),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_star_of_a_loop_without_an_end_raises(semiring, value):
    with pytest.raises(GraphCycleError, match=f"star in {semiring.name}: .* node 0"):
        semiring.star(jnp.array([[value]]))
    marker = jax.jit(semiring.star)(jnp.array([[value]]))
    assert not np.isfinite(marker).any()


def test_star_gradient_goes_to_the_path_that_won():
    A = jnp.array([[jnp.inf, 1.0, 5.0], [jnp.inf, jnp.inf, 2.0], [jnp.inf] * 3])
    gradient = jax.grad(lambda A: algebra.min_plus.star(A)[0, 2])(A)
    assert gradient.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    tie = A.at[0, 2].set(3.0)
    gradient = jax.grad(lambda A: algebra.min_plus.star(A)[0, 2])(tie)
    assert gradient.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 7, 12])
def test_power_is_the_product_of_so_many(exponent):
    A = np.random.default_rng(0).integers(-2, 3, (5, 5)).astype(np.int32)
    found = jax.jit(algebra.plus_times.power, static_argnums=1)(A, exponent)
    np.testing.assert_array_equal(found, np.linalg.matrix_power(A, exponent))
    tropical = algebra.min_plus.eye(5, "int32")
    for _ in range(exponent):
        tropical = algebra.min_plus.matmul(tropical, A)
    np.testing.assert_array_equal(algebra.min_plus.power(A, exponent), tropical)


def test_star_and_power_of_what_does_not_fit_are_refused():
    with pytest.raises(ValueError, match="a square one was expected"):
        algebra.min_plus.star(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="exponent is -1"):
        algebra.min_plus.power(jnp.zeros((2, 2)), -1)
    with pytest.raises(ValueError, match=r"exponent is 2\.0"):
        algebra.min_plus.power(jnp.zeros((2, 2)), 2.0)
    with pytest.raises(ValueError, match=r"closure of plus_times is 1 / \(1 - a\), which int32"):
        algebra.plus_times.star(jnp.zeros((2, 2), jnp.int32))
    with pytest.raises(ValueError, match="relations is not bounded and has no endless="):
        _graphs.relations.star(jnp.zeros((2, 2), jnp.uint8))
