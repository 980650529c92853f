"""Gradients: that of the path that won, and of the operations where nothing wins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from mmsb_jax import algebra
from tests.algebra import _graphs
from tests.algebra.test_products import matrix

SELECTIVE = [algebra.min_plus, algebra.max_plus, algebra.max_times, algebra.max_min]


def distinct(graph, dtype="float32", seed=0):
    """Weights of which no two sums are equal, so that a small step changes no winner."""
    n, row, col = graph
    data = np.random.default_rng(seed).uniform(1, 2, len(row)).astype(dtype)
    return algebra.SparseMatrix.from_coo(row, col, data, (n, n))


@pytest.mark.parametrize("semiring", SELECTIVE, ids=lambda semiring: semiring.name)
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_product_gradient_is_that_of_differences(semiring, form):
    with jax.enable_x64(True):
        A = distinct(_graphs.acyclic(9, 40), "float64")
        x = jnp.asarray(np.random.default_rng(1).uniform(1, 2, 9))
        reached = semiring.vecmat(x, A) != semiring.zero_of("float64")

        def left(x, data):
            B = A.with_data(data)
            B = B if form == "sparse" else B.to_dense(semiring)
            return jnp.where(reached, semiring.vecmat(x, B), 0)

        def right(x, data):
            B = A.T.with_data(data)
            B = B if form == "sparse" else B.to_dense(semiring)
            return jnp.where(reached, semiring.matvec(B, x), 0)

        check_grads(left, (x, A.data), order=1, modes=["rev"], eps=1e-6)
        check_grads(right, (x, A.data), order=1, modes=["rev"], eps=1e-6)


@pytest.mark.parametrize("semiring", [algebra.plus_times, algebra.log], ids=lambda s: s.name)
def test_product_gradient_where_nothing_wins_is_that_of_differences(semiring):
    with jax.enable_x64(True):
        A = distinct(_graphs.grid(3), "float64")
        x = jnp.asarray(np.random.default_rng(1).uniform(1, 2, 9))
        both = lambda x, data: semiring.vecmat(x, A.with_data(data))  # noqa: E731
        check_grads(both, (x, A.data), order=1, modes=["rev", "fwd"])
        other = lambda x, data: semiring.matvec(A.with_data(data), x)  # noqa: E731
        check_grads(other, (x, A.data), order=1, modes=["rev", "fwd"])
        square = jnp.asarray(np.random.default_rng(2).uniform(1, 2, (11, 11)))
        check_grads(semiring.matmul, (square, square + 0.3), order=1, modes=["rev"])


@pytest.mark.parametrize("semiring", SELECTIVE, ids=lambda semiring: semiring.name)
def test_matmul_gradient_goes_to_one_pair_of_each_place(semiring):
    a = jnp.array([[1.0, 1.0], [2.0, 4.0]])
    b = jnp.array([[1.0, 2.0], [1.0, 3.0]])
    to_a, to_b = jax.grad(lambda a, b: semiring.matmul(a, b).sum(), argnums=(0, 1))(a, b)
    if semiring in (algebra.min_plus, algebra.max_plus):
        assert to_a.sum() == to_b.sum() == 4.0
    # Of the first place both pairs are equal: the first wins, whole.
    only = jax.grad(lambda a: semiring.matmul(a, b)[0, 0])(a)
    assert jnp.count_nonzero(only) <= 1


def test_product_gradient_of_a_tie_goes_to_the_first_entry():
    A = algebra.SparseMatrix.from_coo([0, 1], [2, 2], [3.0, 3.0], (3, 3), "float32")
    to_x, to_A = jax.grad(lambda x, data: algebra.min_plus.vecmat(x, A.with_data(data))[2],
                          argnums=(0, 1))(jnp.zeros(3), A.data)  # fmt: skip
    assert to_x.tolist() == [1, 0, 0]
    assert to_A.tolist() == [1, 0]


def test_product_gradient_of_what_nothing_arrives_at_is_zero():
    A = algebra.SparseMatrix.from_coo([0], [1], [3.0], (3, 3), "float32")
    x = jnp.array([jnp.inf, 1.0, 1.0])
    to_x, to_A = jax.grad(lambda x, data: algebra.min_plus.vecmat(x, A.with_data(data)).sum(),
                          argnums=(0, 1))(x, A.data)  # fmt: skip
    assert to_x.tolist() == [0, 0, 0]
    assert to_A.tolist() == [0]


def test_sparse_product_gradient_goes_to_the_pair_that_won():
    _, A = matrix(algebra.min_plus, "float32", (6, 6), seed=3)
    A = A.map(lambda data: data + jnp.arange(A.nnz) / 64)
    plan = algebra.plan_matmul(A, A)
    dense = lambda data: algebra.min_plus.matmul(*[A.with_data(data).to_dense(jnp.inf)] * 2)  # noqa: E731
    finite = jnp.isfinite(dense(A.data))
    of_dense = jax.grad(lambda data: jnp.where(finite, dense(data), 0).sum())
    of_sparse = jax.grad(
        lambda data: algebra.min_plus.matmul(
            A.with_data(data), A.with_data(data), plan=plan
        ).data.sum()
    )
    np.testing.assert_array_equal(of_sparse(A.data), of_dense(A.data))


@pytest.mark.parametrize("side", [6, 50], ids=["pull", "push"])
@pytest.mark.parametrize("semiring", [algebra.min_plus, algebra.max_min, algebra.max_times],
                         ids=lambda semiring: semiring.name)  # fmt: skip
def test_path_gradient_is_the_flow_along_the_tree(side, semiring):
    A = distinct(_graphs.grid(side))
    if semiring is algebra.max_times:
        A = A.map(lambda data: data / 2.001)
    weights = jnp.asarray(np.random.default_rng(5).uniform(1, 2, A.shape[0]).astype(np.float32))

    def total(data):
        value = algebra.best_paths(semiring, A.with_data(data), 0)
        return jnp.where(jnp.isfinite(value), weights * value, 0).sum()

    found = jax.jit(jax.grad(total))(A.data)
    before = np.asarray(algebra.best_paths(semiring, A, 0, predecessors=True)[1])
    row, col, data = A.to_coo()
    entry = {pair: e for e, pair in enumerate(zip(row.tolist(), col.tolist(), strict=True))}
    expected = np.zeros(A.nnz)
    for node in range(1, A.shape[0]):
        path, at = [], node
        while at:
            path.append(entry[int(before[at]), at])
            at = int(before[at])
        # The derivative by each edge of a product: 1 of a sum, 1 of the narrowest, value / edge.
        edges = data[path]
        of_edges = {
            "min_plus": np.ones(len(path)),
            "max_min": edges == edges.min(),
            "max_times": edges.prod() / edges,
        }[semiring.name]
        expected[path] += of_edges * float(weights[node])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_path_gradient_of_a_node_without_a_path_is_zero():
    A = algebra.SparseMatrix.from_coo([0, 2], [1, 1], [3.0, 1.0], (3, 3), "float32")
    gradient = jax.grad(lambda data: algebra.shortest_paths(A.with_data(data), 0).sum())(A.data)
    assert gradient.tolist() == [1, 0]


def test_path_gradient_under_vmap_is_that_of_each_source():
    A = distinct(_graphs.grid(5))
    one = jax.grad(lambda data, source: algebra.shortest_paths(A.with_data(data), source).sum())
    sources = jnp.arange(4)
    found = jax.vmap(one, (None, 0))(A.data, sources)
    for lane, source in zip(found, sources, strict=True):
        np.testing.assert_array_equal(lane, one(A.data, source))


def test_path_gradient_leaves_predecessors_alone():
    A = distinct(_graphs.grid(5))

    def both(data):
        value, before = algebra.shortest_paths(A.with_data(data), 0, predecessors=True)
        return value[-1], before

    (_, before), gradient = jax.value_and_grad(both, has_aux=True)(A.data)
    assert gradient.sum() == len(_walk(before, 24))


def _walk(before, node):
    path = []
    while (node := int(before[node])) >= 0:
        path.append(node)
    return path


def test_lengths_are_learned_by_descent():
    A = distinct(_graphs.grid(4))
    wanted = algebra.shortest_paths(A, 0)
    loss = lambda data: ((algebra.shortest_paths(A.with_data(data), 0) - wanted) ** 2).sum()  # noqa: E731
    data = jnp.ones(A.nnz)
    step = jax.jit(lambda data: data - 0.03 * jax.grad(loss)(data))
    before = loss(data)
    for _ in range(100):
        data = step(data)
    assert loss(data) < 0.01 * before
