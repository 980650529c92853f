"""Products against the definition, one term after another, in every semiring."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import algebra
from tests._sampled import halved
from tests.algebra import _graphs
from tests.algebra._graphs import close, relations

CASES = [
    (algebra.lor_land, "bool"),
    (algebra.min_plus, "int32"),
    (algebra.min_plus, "bfloat16"),
    (algebra.max_plus, "float32"),
    (algebra.max_times, "uint8"),
    (algebra.max_min, "int32"),
    (algebra.plus_times, "int32"),
    (algebra.plus_times, "float32"),
    (algebra.log, "float32"),
    (relations, "uint8"),
]
IDS = [f"{semiring.name}-{dtype}" for semiring, dtype in CASES]


def matrix(semiring, dtype, shape, density=0.5, seed=0):
    """A dense array with 0̄ at absent places, and the sparse matrix of the others."""
    rng = np.random.default_rng(seed)
    there = rng.random(shape) < density
    values = rng.integers(0, 16 if semiring is relations else 9, shape).astype(dtype)
    if dtype == "bool":
        values = np.ones(shape, bool)
    dense = np.where(there, values, semiring.zero_of(dtype))
    row, col = np.nonzero(there)
    return jnp.asarray(dense), algebra.SparseMatrix.from_coo(row, col, values[row, col], shape)


def vector(semiring, dtype, n, seed=1):
    dense, _ = matrix(semiring, dtype, (1, n), 0.8, seed)
    return jnp.asarray(np.asarray(dense)[0])


@pytest.mark.parametrize(("semiring", "dtype"), CASES, ids=IDS)
@pytest.mark.parametrize("shape", [(5, 7), (19, 3)], ids=str)
def test_vecmat_and_matvec_are_those_of_the_definition(semiring, dtype, shape):
    dense, A = matrix(semiring, dtype, shape)
    x, y = vector(semiring, dtype, shape[0]), vector(semiring, dtype, shape[1])
    left = _graphs.product(semiring, x[None], dense)[0]
    right = _graphs.product(semiring, dense, y[:, None])[:, 0]
    for form in (dense, A):
        close(semiring.vecmat(x, form), left, dtype)
        close(semiring.matvec(form, y), right, dtype)
        close(semiring.vecmat(y, form.T), _graphs.product(semiring, y[None], dense.T)[0], dtype)
        close(
            semiring.matvec(form.T, x), _graphs.product(semiring, dense.T, x[:, None])[:, 0], dtype
        )


@pytest.mark.parametrize(("semiring", "dtype"), CASES, ids=IDS)
def test_matmul_of_every_pair_is_that_of_the_definition(semiring, dtype):
    # 19 is two whole runs of eight terms and a rest.
    (a, A), (b, B) = matrix(semiring, dtype, (4, 19)), matrix(semiring, dtype, (19, 5), seed=2)
    expected = _graphs.product(semiring, a, b)
    for left, right in ((a, b), (A, b), (a, B), (A.T.T, b)):
        close(semiring.matmul(left, right), expected, dtype)
    sparse = semiring.matmul(A, B)
    close(sparse.to_dense(semiring), expected, dtype)
    met = _graphs.product(algebra.lor_land, _there(A), _there(B))
    assert sparse.nnz == met.sum()


def _there(A):
    return A.map(lambda data: jnp.ones(data.shape, bool)).to_dense(False)


@pytest.mark.parametrize("semiring", [algebra.min_plus, algebra.plus_times, relations],
                         ids=lambda semiring: semiring.name)  # fmt: skip
def test_matmul_of_sparse_matrices_within_a_mask_has_its_structure(semiring):
    dtype = semiring.dtypes[-1] if semiring is relations else "float32"
    (a, A), (b, B) = matrix(semiring, dtype, (6, 9)), matrix(semiring, dtype, (9, 8), seed=2)
    _, M = matrix(semiring, dtype, (6, 8), density=0.3, seed=3)
    expected = np.where(_there(M), _graphs.product(semiring, a, b), semiring.zero_of(dtype))
    found = semiring.matmul(A, B, mask=M)
    np.testing.assert_array_equal(found.to_coo()[:2], M.to_coo()[:2])
    close(found.to_dense(semiring), expected, dtype)
    transposed = semiring.matmul(A.T.T, B, mask=M.T.T)
    close(transposed.to_dense(semiring), expected, dtype)
    nothing = algebra.SparseMatrix.from_coo([], [], np.zeros(0, dtype), (6, 8))
    assert semiring.matmul(A, B, mask=nothing).nnz == 0


def test_matmul_with_a_plan_is_traced_once_for_all_values():
    _, A = matrix(algebra.min_plus, "float32", (8, 8))
    plan = algebra.plan_matmul(A, A.T)
    traced = chex.assert_max_traces(lambda A: algebra.min_plus.matmul(A, A.T, plan=plan), n=1)
    jitted = jax.jit(traced)
    for factor in (1, 3):
        B = A.map(lambda data, factor=factor: factor * data)
        close(jitted(B).to_dense(algebra.min_plus),
              _graphs.product(algebra.min_plus, B.to_dense(algebra.min_plus),
                              B.T.to_dense(algebra.min_plus)), "float32")  # fmt: skip


def test_matmul_in_small_pieces_finds_the_same_pairs(monkeypatch):
    A, S = _graphs.weighted(_graphs.kronecker(6), dtype="int32")
    whole = algebra.plus_times.matmul(A, A)
    monkeypatch.setattr("mmsb_jax.algebra._matrix.plan._CHUNK_PAIRS", 50)
    for matrix in (whole, algebra.plus_times.matmul(A, A)):
        np.testing.assert_array_equal(matrix.to_scipy().toarray(), (S @ S).toarray())


@pytest.mark.parametrize(("semiring", "dtype"), CASES, ids=IDS)
def test_product_with_mask_and_accumulator_writes_inside_of_the_mask_only(semiring, dtype):
    dense, A = matrix(semiring, dtype, (6, 8))
    x, into = vector(semiring, dtype, 6), vector(semiring, dtype, 8, seed=5)
    mask = jnp.asarray(np.arange(8) % 3 != 0)
    plain, zero = semiring.vecmat(x, A), semiring.zero_of(dtype)
    both = semiring.add(into, plain)
    for form in (dense, A):
        close(semiring.vecmat(x, form, mask=mask), jnp.where(mask, plain, zero), dtype)
        close(semiring.vecmat(x, form, into=into), both, dtype)
        close(semiring.vecmat(x, form, mask=mask, into=into), jnp.where(mask, both, into), dtype)
    diagonal = jnp.asarray(np.eye(8, dtype=bool))
    found = semiring.matmul(dense.T, dense, mask=diagonal)
    close(found, jnp.where(diagonal, semiring.matmul(dense.T, dense), zero), dtype)


@halved
@given(st.integers(0, 2**31))
def test_vecmat_of_random_structure_equals_scipy(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 30, 2))
    S = scipy.sparse.random_array(shape, density=rng.random(), rng=rng)
    S.data = rng.integers(-9, 9, S.nnz).astype(np.int32)
    A = algebra.SparseMatrix.from_scipy(S.astype(np.int32))
    x = rng.integers(-9, 9, shape[0]).astype(np.int32)
    np.testing.assert_array_equal(algebra.plus_times.vecmat(x, A), x @ S)


@pytest.mark.parametrize("semiring", [algebra.min_plus, algebra.plus_times, algebra.log],
                         ids=lambda semiring: semiring.name)  # fmt: skip
def test_products_under_vmap_and_scan_are_those_of_each(semiring):
    dense, A = matrix(semiring, "float32", (6, 6))
    xs = jnp.stack([vector(semiring, "float32", 6, seed) for seed in range(3)])
    expected = jnp.stack([semiring.vecmat(x, dense) for x in xs])
    close(jax.jit(jax.vmap(lambda x: semiring.vecmat(x, A)))(xs), expected, "float32")
    close(jax.lax.map(lambda x: semiring.vecmat(x, A), xs), expected, "float32")
    weights = jnp.stack([A.data, A.data + 1])
    over = jax.vmap(lambda data: semiring.vecmat(xs[0], A.with_data(data)))(weights)
    for lane, data in zip(over, weights, strict=True):
        close(lane, semiring.vecmat(xs[0], A.with_data(data)), "float32")

    def step(x, _):
        x = semiring.vecmat(x, A)
        return x, x

    chained = semiring.vecmat(semiring.vecmat(xs[0], dense), dense)
    close(jax.lax.scan(step, xs[0], None, 2)[1][-1], chained, "float32")


def test_products_of_empty_matrices_are_zero():
    A = algebra.SparseMatrix.from_coo([], [], [], (0, 3), "float32")
    assert algebra.min_plus.vecmat(jnp.zeros(0), A).tolist() == [jnp.inf] * 3
    assert algebra.min_plus.matvec(A, jnp.zeros(3)).shape == (0,)
    assert algebra.min_plus.matmul(A.T, A).nnz == 0
    assert (
        algebra.min_plus.matmul(jnp.zeros((2, 0)), jnp.zeros((0, 2))).tolist()
        == [[jnp.inf] * 2] * 2
    )
    assert algebra.plus_times.matmul(jnp.zeros((2, 0)), A).tolist() == [[0.0] * 3] * 2


def test_padding_never_meets_an_infinite_value():
    A = algebra.SparseMatrix.from_coo(
        [0, 1, 2, 0], [0, 0, 0, 1], [1.0, 2.0, 3.0, 4.0], (3, 3), "float32"
    )
    x = jnp.array([jnp.inf, 1.0, 1.0])
    assert algebra.plus_times.vecmat(x, A).tolist() == [jnp.inf, jnp.inf, 0.0]
    assert algebra.plus_times.matvec(A.T, x).tolist() == [jnp.inf, jnp.inf, 0.0]
    wide = A.with_data(jnp.array([jnp.inf, 4.0, 2.0, 3.0]))
    assert algebra.plus_times.matvec(wide, jnp.ones(3)).tolist() == [jnp.inf, 2.0, 3.0]


def _refused():
    A = algebra.SparseMatrix.from_coo([0], [1], [1.0], (2, 3), "float32")
    i = algebra.SparseMatrix.from_coo([0], [1], [1], (3, 2), "int32")
    s, x = algebra.min_plus, jnp.zeros(2)
    yield lambda: s.vecmat(jnp.zeros(3), A), r"x has shape \(3,\); \(2,\) was expected"
    yield lambda: s.matvec(A, x), r"x has shape \(2,\); \(3,\) was expected"
    yield lambda: s.vecmat(jnp.zeros(2, jnp.int32), A), "x is int32, the other operand is float32"
    yield lambda: s.vecmat(x, jnp.zeros(2)), "a matrix was expected"
    yield lambda: s.matmul(A, i), "A is float32, B is int32"
    yield lambda: s.matmul(A, A), "the inner lengths must be the same"
    yield lambda: s.vecmat(x, A, mask=jnp.ones(2, bool)), r"mask has shape \(2,\)"
    yield lambda: s.vecmat(x, A, mask=jnp.ones(3)), "mask is float32; bool was expected"
    yield lambda: s.vecmat(x, A, into=jnp.ones(3, jnp.int32)), "into is int32"
    yield lambda: s.vecmat(x, A, into=jnp.ones(2)), r"into has shape \(2,\)"
    yield lambda: algebra.lor_land.vecmat(x, A), "lor_land is not defined on float32"
    yield lambda: s.matmul(A, A.T, into=jnp.ones((2, 2))), "into= is for a dense result"
    yield lambda: jax.jit(lambda A: s.matmul(A, A.T))(A), "pass plan="
    yield lambda: jax.jit(lambda A: algebra.plan_matmul(A, A.T))(A), "call it outside of jit"
    yield lambda: algebra.plan_matmul(A, A), "inner lengths differ"
    yield lambda: algebra.plan_matmul(A, A.T, A), r"mask has shape \(2, 3\)"
    plan = algebra.plan_matmul(A, A.T)
    yield lambda: s.matmul(A.T, A, plan=plan), "make one with plan_matmul"
    yield lambda: s.matmul(A, A.T, mask=A, plan=plan), "a plan has its mask in it"
    yield lambda: s.matmul(A, jnp.zeros((3, 1)), plan=plan), "plan= is for two sparse"


@pytest.mark.parametrize(
    ("call", "message"), list(_refused()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_product_of_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
