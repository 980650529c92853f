"""The sparse matrix: what goes in comes out, whatever the order and the degrees."""

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


@st.composite
def entries(draw):
    shape = draw(st.tuples(st.integers(0, 12), st.integers(0, 12)))
    places = []
    if min(shape):
        index = st.integers(0, shape[0] * shape[1] - 1)
        places = draw(st.lists(index, unique=True, max_size=60))
    row, col = np.divmod(np.array(places, np.int64), max(shape[1], 1))
    data = draw(st.lists(st.integers(-9, 9), min_size=len(places), max_size=len(places)))
    return row, col, np.array(data, np.int32), shape


@halved
@given(entries())
def test_matrix_from_coo_gives_its_entries_back(drawn):
    row, col, data, shape = drawn
    A = algebra.SparseMatrix.from_coo(row, col, data, shape)
    order = np.lexsort((col, row))
    for found, expected in zip(A.to_coo(), (row[order], col[order], data[order]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (A.shape, A.nnz, A.dtype) == (shape, len(row), np.int32)
    dense = np.full(shape, 77, np.int32)
    dense[row, col] = data
    np.testing.assert_array_equal(A.to_dense(77), dense)
    np.testing.assert_array_equal(A.T.to_dense(77), dense.T)
    np.testing.assert_array_equal(A.data, data[order])
    np.testing.assert_array_equal(A.with_data(A.data).values, A.values)


@halved
@given(entries())
def test_matrix_from_other_forms_is_that_from_coo(drawn):
    row, col, data, shape = drawn
    A = algebra.SparseMatrix.from_coo(row, col, data, shape)
    coo = scipy.sparse.coo_array((data, (row, col)), shape=shape)
    csr = coo.tocsr()
    csr.sort_indices()
    dense = np.full(shape, 77, np.int32)
    dense[row, col] = data
    for other in (
        algebra.SparseMatrix.from_scipy(coo),
        algebra.SparseMatrix.from_scipy(coo.tocsc()),
        algebra.SparseMatrix.from_csr(csr.indptr, csr.indices, csr.data, shape),
        algebra.SparseMatrix.from_dense(dense, 77),
        algebra.SparseMatrix.from_scipy(A.to_scipy()),
        A.T.T,
    ):
        chex.assert_trees_all_equal(other, A)


@halved
@given(entries())
def test_matrix_of_the_transpose_equals_the_transposed(drawn):
    row, col, data, shape = drawn
    A = algebra.SparseMatrix.from_coo(row, col, data, shape).T
    B = algebra.SparseMatrix.from_coo(col, row, data, shape[::-1])
    assert A.shape == B.shape == shape[::-1]
    assert sorted(zip(*(x.tolist() for x in A.to_coo()), strict=True)) == sorted(
        zip(*(x.tolist() for x in B.to_coo()), strict=True)
    )


@pytest.mark.parametrize("degree", [1, 2, 3, 5, 9, 16, 17, 100, 1000])
def test_matrix_with_one_large_column_holds_it(degree):
    col = np.r_[np.zeros(degree, int), 1, 2, 2]
    row = np.r_[np.arange(degree), 0, 0, degree]
    A = algebra.SparseMatrix.from_coo(row, col, np.arange(degree + 3), (degree + 1, 4), "int32")
    np.testing.assert_array_equal(
        algebra.plus_times.vecmat(jnp.ones(degree + 1, jnp.int32), A),
        A.to_scipy().toarray().sum(axis=0),
    )


def test_matrix_padding_of_a_power_law_graph_is_bounded():
    A, _ = _graphs.weighted(_graphs.kronecker(10))
    assert A.columns.met.size < 1.3 * A.nnz
    assert len(A.columns.buckets) < 24


def test_matrix_of_the_same_structure_shares_its_program():
    A, _ = _graphs.weighted(_graphs.grid(6), dtype="float32")
    traced = chex.assert_max_traces(lambda A, x: algebra.min_plus.vecmat(x, A), n=1)
    jitted = jax.jit(traced)
    x = jnp.zeros(36)
    for factor in (1.0, 2.0, 3.0):
        B = A.map(lambda data, factor=factor: data * factor)
        np.testing.assert_allclose(jitted(B, x), factor * jitted(A, x))


def test_matrix_is_a_pytree_that_goes_through_transformations():
    A = algebra.SparseMatrix.from_coo([0, 1], [1, 0], [1.0, 2.0], (2, 2), "float32")
    assert jax.jit(lambda A: A.T.map(jnp.negative))(A).to_dense(0).tolist() == [[0, -2], [-1, 0]]
    datas = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    found = jax.vmap(lambda data: A.with_data(data).to_dense(0))(datas)
    assert found.tolist() == [[[0, 1], [2, 0]], [[0, 3], [4, 0]]]
    assert jax.tree.unflatten(jax.tree.structure(A), jax.tree.leaves(A)).nnz == 2
    assert repr(A) == "SparseMatrix(2 × 2, float32, 2 entries)"


def test_matrix_from_entries_of_one_place_wants_a_semiring_that_merges_them():
    args = [1, 0, 1, 1], [0, 1, 0, 0], [5, 1, 3, 4], (2, 2), "int32"
    with pytest.raises(ValueError, match=r"two entries for A\[1, 0\]; pass combine="):
        algebra.SparseMatrix.from_coo(*args)
    for semiring, expected in ((algebra.min_plus, 3), (algebra.plus_times, 12)):
        A = algebra.SparseMatrix.from_coo(*args, combine=semiring)
        assert A.to_dense(0).tolist() == [[0, 1], [expected, 0]]


def test_matrix_from_scipy_adds_up_what_is_stored_twice_and_from_csr_asks_how():
    twice = scipy.sparse.csr_array((np.array([1, 2, 4]), [1, 1, 0], [0, 2, 3]), shape=(2, 2))
    A = algebra.SparseMatrix.from_scipy(twice, "int32")
    assert A.to_dense(0).tolist() == [[0, 3], [4, 0]]
    # What was given is left as it was.
    assert twice.nnz == 3
    args = twice.indptr, twice.indices, twice.data, (2, 2), "int32"
    with pytest.raises(ValueError, match=r"two entries for A\[0, 1\]; pass combine="):
        algebra.SparseMatrix.from_csr(*args)
    A = algebra.SparseMatrix.from_csr(*args, combine=algebra.max_plus)
    assert A.to_dense(0).tolist() == [[0, 2], [4, 0]]


class _Graph:
    """What `from_graph` asks of a graph."""

    def order(self):
        return ("a", "b", "c")

    def edges(self):
        yield from (("a", "b", "data"), ("a", "b", "control"), ("b", "c", "data"))


def test_matrix_from_graph_numbers_nodes_in_their_order():
    A = algebra.SparseMatrix.from_graph(_Graph())
    assert A.dtype == bool
    assert [x.tolist() for x in A.to_coo()] == [[0, 1], [1, 2], [True, True]]
    only = algebra.SparseMatrix.from_graph(_Graph(), 3, "int32", kinds=["control"])
    assert only.to_dense(0).tolist() == [[0, 3, 0], [0, 0, 0], [0, 0, 0]]
    weights = {"data": 1.5, "control": 4.0}
    by_kind = {"weight": lambda parent, child, kind: weights[kind], "dtype": "float32"}
    with pytest.raises(ValueError, match="two entries for"):
        algebra.SparseMatrix.from_graph(_Graph(), **by_kind)
    merged = algebra.SparseMatrix.from_graph(_Graph(), **by_kind, combine=algebra.max_plus)
    assert merged.to_dense(0)[0].tolist() == [0, 4, 0]
    assert algebra.SparseMatrix.from_graph(_Graph(), kinds=[]).nnz == 0


REFUSED = [
    (([0, 1], [1], [1, 2], (2, 2)), "row has 2 entries, col has 1"),
    (([0, 2], [1, 1], [1, 2], (2, 2)), r"row\[1\] is 2; it must be in 0 to 1"),
    (([0, 1], [1, -1], [1, 2], (2, 2)), r"col\[1\] is -1; it must be in 0 to 1"),
    (([0.0, 1.0], [1, 1], [1, 2], (2, 2)), "row is float64.*a vector of integers was expected"),
    (([0, 1], [1, 1], [1, 2, 3], (2, 2)), r"data has shape \(3,\); one value for 2 entries"),
    (([0], [1], [1], (2, -1)), "rows and columns below 2³¹ were expected"),
    (([0], [1], np.array([1.0]), (2, 2)), 'data is float64, .* pass dtype="float32"'),
]


@pytest.mark.parametrize(("args", "message"), REFUSED)
def test_matrix_from_what_does_not_fit_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        algebra.SparseMatrix.from_coo(*args)


def test_matrix_from_a_broken_csr_is_refused():
    for indptr in ([0, 1], [0, 2, 1], [1, 1, 2], [0.0, 1.0, 2.0]):
        with pytest.raises(ValueError, match="indptr"):
            algebra.SparseMatrix.from_csr(indptr, [0, 1], [1, 2], (2, 2), "int32")
    with pytest.raises(ValueError, match="two axes were expected"):
        algebra.SparseMatrix.from_dense(np.zeros(3), 0)


def test_with_data_of_another_length_is_refused():
    A = algebra.SparseMatrix.from_coo([0], [1], [1], (2, 2), "int32")
    with pytest.raises(ValueError, match=r"data has shape \(2,\); \(1,\) was expected"):
        A.with_data(jnp.zeros(2))
