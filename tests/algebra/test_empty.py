"""No nodes, no edges, one node: every operation has its value there, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmsb_jax import StructureError, algebra
from mmsb_jax.algebra._instances import INSTANCES

inf = np.inf
DTYPES = {"lor_land": "bool"}
SIZES = [0, 1, 3]


def empty(dtype, rows, columns=None):
    columns = rows if columns is None else columns
    return algebra.SparseMatrix.from_coo([], [], [], (rows, columns), dtype)


def same(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def everywhere(call, *args):
    """The value of a call, which it has under jit and in each lane of vmap too."""
    found = call(*args)
    for transformed in (jax.jit(call)(*args), *_lanes(call, args)):
        jax.tree.map(same, transformed, found)
    return found


def _lanes(call, args):
    stacked = jax.vmap(call)(*jax.tree.map(lambda x: jnp.stack([x, x]), args))
    return [jax.tree.map(lambda x, lane=lane: x[lane], stacked) for lane in (0, 1)]


@pytest.mark.parametrize("semiring", INSTANCES, ids=lambda semiring: semiring.name)
@pytest.mark.parametrize("shape", [(0, 0), (0, 2), (2, 0), (1, 1)], ids=str)
def test_products_without_entries_are_zero(semiring, shape):
    dtype = DTYPES.get(semiring.name, "float32")
    zero, one = semiring.zero_of(dtype), semiring.one_of(dtype)
    (n, columns), A = shape, empty(dtype, *shape)
    D, x, y = A.to_dense(semiring), jnp.full(n, one), jnp.full(columns, one)
    same(D, np.full(shape, zero))
    for form in (A, D):
        same(everywhere(semiring.vecmat, x, form), np.full(columns, zero))
        same(semiring.matvec(form, y), np.full(n, zero))
        same(semiring.matmul(form, D.T), np.full((n, n), zero))
    same(semiring.matmul(D, A.T), np.full((n, n), zero))
    both = semiring.matmul(A, A.T)
    assert (both.shape, both.nnz, both.dtype) == ((n, n), 0, dtype)
    masked = semiring.matmul(A, A.T, mask=empty("bool", n))
    assert (masked.shape, masked.nnz) == ((n, n), 0)


@pytest.mark.parametrize("semiring", INSTANCES, ids=lambda semiring: semiring.name)
@pytest.mark.parametrize("n", [0, 1])
def test_folds_closures_and_powers_without_entries(semiring, n):
    dtype = DTYPES.get(semiring.name, "float32")
    zero, one = semiring.zero_of(dtype), semiring.one_of(dtype)
    D, A = jnp.full((n, n), zero), empty(dtype, n)
    nothing = jnp.zeros((n, 0), dtype)
    same(everywhere(semiring.fold_add, nothing), np.full(n, zero))
    same(semiring.fold_mul(nothing), np.full(n, one))
    same(semiring.accumulate(nothing), nothing)
    same(semiring.fold_add(nothing, axis=0), np.zeros(0, dtype))
    same(semiring.fold_add(D), np.full(n, zero))
    same(semiring.star_of(jnp.zeros(0, dtype)), np.zeros(0, dtype))
    eye = np.where(np.eye(n, dtype=bool), one, zero)
    same(semiring.eye(n, dtype), eye)
    for form in (A, D):
        same(semiring.star(form), eye)
        for exponent, expected in ((0, eye), (1, D), (3, D)):
            same(semiring.power(form, exponent), expected)
    same(everywhere(semiring.star, D), eye)


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize("semiring", [algebra.min_plus, algebra.max_min, algebra.plus_times],
                         ids=lambda semiring: semiring.name)  # fmt: skip
def test_gradients_without_entries_are_zero(semiring, n):
    A, zero = empty("float32", n), semiring.zero_of("float32")
    D, x = A.to_dense(semiring), jnp.ones(n)
    for matrix in (A, D):
        for product in (
            lambda x, m=matrix: semiring.vecmat(x, m),
            lambda x, m=matrix: semiring.matvec(m, x),
        ):
            same(jax.grad(lambda x, f=product: f(x).sum())(x), np.zeros(n, np.float32))
    to_data = jax.grad(lambda data: semiring.vecmat(x, A.with_data(data)).sum())(A.data)
    same(to_data, np.zeros(0, np.float32))
    for m, k, columns in ((n, 0, n), (0, n, 2), (2, n, 0)):
        left, right = jnp.full((m, k), zero), jnp.full((k, columns), zero)
        found = jax.grad(lambda a, b: semiring.matmul(a, b).sum(), argnums=(0, 1))(left, right)
        jax.tree.map(
            same, found, (np.zeros((m, k), np.float32), np.zeros((k, columns), np.float32))
        )
    if semiring is algebra.min_plus:
        reached = lambda D: jnp.where(jnp.isfinite(S := semiring.star(D)), S, 0).sum()  # noqa: E731
        same(jax.grad(reached)(D), np.zeros((n, n), np.float32))


PATHS = {
    "shortest_paths": (algebra.shortest_paths, "float32", 0, inf),
    "longest_paths": (algebra.longest_paths, "float32", 0, -inf),
    "widest_paths": (algebra.widest_paths, "float32", inf, -inf),
    "reachable": (algebra.reachable, "bool", True, False),
    "best_paths": (lambda *args, **kw: algebra.best_paths(algebra.max_times, *args, **kw),
                   "float32", 1, 0),
    "k_hop": (lambda A, source: algebra.k_hop(A, source, 2), "bool", True, False),
    "path_counts": (algebra.path_counts, "uint32", 1, 0),
}  # fmt: skip
HAVE_TREES = [name for name in PATHS if name not in ("k_hop", "path_counts")]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_paths_without_edges_reach_the_source_alone(name, n, dtype):
    search, result, one, zero = PATHS[name]
    A = empty(dtype, n)
    if result == "float32" and dtype == "int32":
        ends = np.iinfo(np.int32)
        one, zero = ({inf: ends.max, -inf: ends.min}.get(value, value) for value in (one, zero))
        result = dtype
    expected = np.array([one] + [zero] * (n - 1), result)
    same(everywhere(lambda source: search(A, source), jnp.int32(0)), expected)
    same(search(A, 0), expected)
    # Of a traced source that is no node, nothing.
    same(jax.jit(search)(A, n), np.full(n, zero, result))
    if name in HAVE_TREES:
        value, before = everywhere(lambda s: search(A, s, predecessors=True), jnp.int32(0))
        same(value, expected)
        same(before, np.full(n, -1, np.int32))


@pytest.mark.parametrize("name", PATHS)
def test_paths_without_nodes_have_no_source(name):
    search, _, _, _ = PATHS[name]
    A = empty("float32", 0)
    with pytest.raises(StructureError, match="source is 0; there are no nodes"):
        search(A, 0)
    assert jax.jit(search)(A, 0).shape == (0,)
    if name in HAVE_TREES:
        found, before = jax.jit(lambda s: search(A, s, predecessors=True))(0)
        assert found.shape == before.shape == (0,)


@pytest.mark.parametrize("name", [n for n in HAVE_TREES if n != "reachable"])
@pytest.mark.parametrize("n", [1, 3])
def test_path_gradients_without_edges_are_zero(name, n):
    search = PATHS[name][0]
    A = empty("float32", n)
    same(jax.grad(lambda d: search(A.with_data(d), 0)[0])(A.data), np.zeros(0, np.float32))


def test_one_node_with_an_edge_to_itself():
    A = algebra.SparseMatrix.from_coo([0], [0], [0.5], (1, 1), "float32")
    for search, expected in (
        (algebra.shortest_paths, 0),
        (algebra.widest_paths, inf),
        (lambda *a, **kw: algebra.best_paths(algebra.max_times, *a, **kw), 1),
    ):
        value, before = search(A, 0, predecessors=True)
        assert (value.tolist(), before.tolist()) == ([expected], [-1])
        gradient = jax.grad(lambda d, f=search: f(A.with_data(d), 0).sum())(A.data)
        assert gradient.tolist() == [0]
    assert algebra.min_plus.star(A).tolist() == [[0]]


def test_matrix_without_entries_is_made_and_read_in_every_way():
    make = algebra.SparseMatrix
    for n in SIZES:
        dense = np.full((n, n), inf, np.float32)
        for A in (
            make.from_coo([], [], [], (n, n), "float32"),
            make.from_coo([], [], 1.0, (n, n), "float32"),
            make.from_csr([0] * (n + 1), [], [], (n, n), "float32"),
            make.from_dense(dense, inf),
            make.from_scipy(empty("float32", n).to_scipy()) if n else empty("float32", n),
            make.from_graph(_Graph(n), 1.0, "float32"),
            make.from_graph(_Graph(n), lambda *edge: 1.0),
        ):
            assert (A.shape, A.nnz, A.dtype) == ((n, n), 0, np.float32)
            same(A.to_dense(inf), dense)
            same(A.T.to_dense(inf), dense)
            assert [column.size for column in A.T.to_coo()] == [0, 0, 0]
            assert A.map(jnp.negative).data.shape == A.with_data(A.data).data.shape == (0,)


class _Graph:
    def __init__(self, n):
        self.nodes = tuple(range(n))

    def order(self):
        return self.nodes

    def edges(self):
        return iter(())
