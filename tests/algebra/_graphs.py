"""Graphs that tests run on, and products in plain NumPy."""

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from mmsb_jax import algebra
from mmsb_jax.testing.graphs import grid, kronecker

__all__ = ["acyclic", "close", "grid", "kronecker", "layered", "product", "relations", "weighted"]


def _compose(a, b):
    """The product of two boolean matrices of 2 × 2, in four bits each."""
    bit = [[(m >> (2 * i + j)) & 1 for j in (0, 1) for i in (0, 1)] for m in (a, b)]
    a, b = ([[bits[0], bits[2]], [bits[1], bits[3]]] for bits in bit)
    out = jnp.zeros_like(a[0][0])
    for i in (0, 1):
        for j in (0, 1):
            out |= ((a[i][0] & b[0][j]) | (a[i][1] & b[1][j])) << (2 * i + j)
    return out


relations = algebra.Semiring(
    "relations", jnp.bitwise_or, _compose, zero=0, one=0b1001, dtypes=("uint8",),
    idempotent=True, commutative=False,
)  # fmt: skip
"""Relations on two things: a user's semiring, whose ⊗ does not commute."""


def acyclic(n, edges, seed=0):
    """A random DAG: every edge from a smaller to a larger number."""
    rng = np.random.default_rng(seed)
    row, col = np.sort(rng.integers(0, n, (edges, 2)), axis=1).T
    row, col = row[row < col], col[row < col]
    row, col = np.divmod(np.unique(row * n + col), n)
    return n, row, col


def layered(side):
    """A DAG of small degree: a square of nodes, edges to the right and down."""
    n, row, col = grid(side)
    return n, row[row < col], col[row < col]


def weighted(graph, dtype="int32", low=1, high=100, seed=0):
    """A matrix with random weights, and SciPy's."""
    n, row, col = graph
    data = np.random.default_rng(seed).integers(low, high, len(row)).astype(dtype)
    A = algebra.SparseMatrix.from_coo(row, col, data, (n, n))
    return A, scipy.sparse.csr_array((data.astype(np.float64), (row, col)), shape=(n, n))


def product(semiring, A, B):
    """``C[i, j] = ⊕ₖ A[i, k] ⊗ B[k, j]``, one term after another."""
    # What is cut out and repeated is NumPy's: in JAX each shape of it would be compiled.
    A, B = np.asarray(A), np.asarray(B)
    C = jnp.asarray(np.full((A.shape[0], B.shape[1]), semiring.zero_of(A.dtype)))
    for k in range(A.shape[1]):
        pairs = np.broadcast_arrays(A[:, k, None], B[k][None])
        C = semiring.add(C, semiring.multiply(*map(jnp.asarray, pairs)))
    return np.asarray(C)


def close(found, expected, dtype):
    """Equal; floats to rounding."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype == np.dtype(dtype)
    assert found.shape == expected.shape
    if found.dtype.kind in "iub":
        np.testing.assert_array_equal(found, expected)
        return
    tolerance = 32 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        found.astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance
    )


def check_tree(semiring, A, source, value, before):
    """Predecessors are of a tree of best paths: each edge is tight, and all lead to the source."""
    n = A.shape[0]
    value, before = np.asarray(value), np.asarray(before)
    row, col, data = A.to_coo()
    row, before = row.astype(np.int64), before.astype(np.int64)
    has = before >= 0
    np.testing.assert_array_equal(
        has, (value != semiring.zero_of(value.dtype)) & (np.arange(n) != source)
    )
    keys, wanted = row * n + col, before[has] * n + np.flatnonzero(has)
    entry = np.searchsorted(keys, wanted)
    np.testing.assert_array_equal(keys[np.minimum(entry, len(keys) - 1)], wanted)
    # Of all nodes: one shape for every tree of a graph.
    sources, edges = np.zeros((2, n), value.dtype)
    sources[has], edges[has] = value[before[has]], data[entry]
    carried = semiring.multiply(jnp.asarray(sources), jnp.asarray(edges))
    np.testing.assert_array_equal(np.asarray(carried)[has], value[has])
    node = np.flatnonzero(has)
    for _ in range(n):
        node = before[node]
        node = node[node >= 0]
        if not node.size:
            return
        if set(node) == {source}:
            return
    raise AssertionError("the predecessors go round a cycle")
