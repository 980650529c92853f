"""Semirings on graphs, beside SuiteSparse:GraphBLAS and SciPy.

Every answer is checked to be the peer's before anything is timed.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import graphblas
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from scipy.sparse import csgraph

from benchmarks.peers import Rows
from mmsb_jax import algebra
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row, ratio_at_most
from mmsb_jax.testing.graphs import grid, kronecker

_PEER = "SuiteSparse:GraphBLAS"


def rows(folder: Path, long: bool) -> Rows:
    """Graphs of the Graph 500, grids as road networks, dense matrices."""
    del folder
    yield from _graph("kron16", "Kronecker scale 16", kronecker(16))
    yield from _graph("grid100", "grid of 100 × 100", grid(100))
    if long:
        yield from _graph("kron14", "Kronecker scale 14", kronecker(14))
        yield from _graph("grid300", "grid of 300 × 300", grid(300))
    yield from _dense(512)


def _graph(slug: str, name: str, graph: tuple[int, np.ndarray, np.ndarray]) -> Iterator[Row]:
    n, row, col = graph
    rng = np.random.default_rng(1)
    data = rng.integers(1, 256, len(row)).astype(np.float32)
    A = algebra.SparseMatrix.from_coo(row, col, data, (n, n))
    S = scipy.sparse.csr_array((data, (row, col)), shape=(n, n))
    G = graphblas.Matrix.from_coo(row, col, data, nrows=n, ncols=n)
    x = rng.integers(0, 100, n).astype(np.float32)
    held, vector = jnp.asarray(x), graphblas.Vector.from_dense(x)
    source = int(np.bincount(row, minlength=n).argmax())
    min_plus = graphblas.semiring.min_plus

    yield _row(
        f"{slug}-vecmat",
        f"min_plus vecmat, {name}, {len(row):,} edges",
        lambda: algebra.min_plus.vecmat(held, A),
        lambda: min_plus(vector @ G).new(),
        lambda found, peer: _same(found, _dense_of(peer, np.inf)),
    )
    yield _row(
        f"{slug}-matvec",
        f"min_plus matvec, {name}",
        lambda: algebra.min_plus.matvec(A, held),
        lambda: min_plus(G @ vector).new(),
        lambda found, peer: _same(found, _dense_of(peer, np.inf)),
    )
    yield _row(
        f"{slug}-plus-times",
        f"plus_times vecmat, {name}",
        lambda: algebra.plus_times.vecmat(held, A),
        lambda: graphblas.semiring.plus_times(vector @ G).new(),
        lambda found, peer: np.testing.assert_allclose(found, _dense_of(peer, 0), rtol=1e-4),
    )

    def distances(found: Any, peer: Any) -> None:
        _same(found, peer if isinstance(peer, np.ndarray) else _dense_of(peer, np.inf))

    yield _row(
        f"{slug}-paths",
        f"shortest paths, {name}",
        lambda: algebra.shortest_paths(A, source),
        lambda: _bellman_ford(G, source),
        distances,
    )
    yield _row(
        f"{slug}-paths-scipy",
        f"shortest paths, {name}",
        lambda: algebra.shortest_paths(A, source),
        lambda: csgraph.dijkstra(S, indices=source),
        distances,
        peer_name="SciPy's Dijkstra",
        factor=None,
    )
    pattern = graphblas.Matrix.from_coo(row, col, True, nrows=n, ncols=n)
    yield _row(
        f"{slug}-reachability",
        f"reachability, {name}",
        lambda: algebra.reachable(A, source),
        lambda: _breadth_first(pattern, source),
        lambda found, peer: _same(found, _dense_of(peer, False)),
    )
    yield from _sparse_products(slug, name, A, G, n)


def _sparse_products(
    slug: str, name: str, A: algebra.SparseMatrix, G: Any, n: int
) -> Iterator[Row]:
    block = np.random.default_rng(2).integers(0, 100, (8, n)).astype(np.float32)
    held, peer = jnp.asarray(block), graphblas.Matrix.from_dense(block)
    yield _row(
        f"{slug}-matmul-rows",
        f"min_plus matmul, 8 rows × {name}",
        lambda: algebra.min_plus.matmul(held, A),
        lambda: graphblas.semiring.min_plus(peer @ G).new(),
        lambda found, other: _same(found, _dense_matrix(other, np.inf)),
    )
    if n > 100_000 or A.nnz > 500_000:
        return
    plan = algebra.plan_matmul(A, A, A)

    def same(found: Any, other: Any) -> None:
        row, col, data = other.to_coo()
        mine = found.to_coo()
        finite = np.isfinite(np.asarray(mine[2]))
        expected = scipy.sparse.csr_array((data, (row, col)), shape=(n, n))
        got = scipy.sparse.csr_array((mine[2][finite], (mine[0][finite], mine[1][finite])),
                                     shape=(n, n))  # fmt: skip
        assert (got != expected).nnz == 0
        assert got.nnz == expected.nnz

    yield _row(
        f"{slug}-matmul-masked",
        f"min_plus matmul, sparse × sparse within a mask, {name}",
        lambda: algebra.min_plus.matmul(A, A, plan=plan).values,
        lambda: _masked(G),
        lambda _, other: same(algebra.min_plus.matmul(A, A, plan=plan), other),
    )


def _masked(G: Any) -> Any:
    out = graphblas.Matrix(G.dtype, G.nrows, G.ncols)
    out(G.S, replace=True) << graphblas.semiring.min_plus(G @ G)
    return out


def _dense(n: int) -> Iterator[Row]:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 100, (2, n, n)).astype(np.float32)
    A, B = graphblas.Matrix.from_dense(a), graphblas.Matrix.from_dense(b)
    held = jnp.asarray(a), jnp.asarray(b)
    yield _row(
        "dense-matmul",
        f"min_plus matmul, dense {n} × {n}",
        lambda: algebra.min_plus.matmul(*held),
        lambda: graphblas.semiring.min_plus(A @ B).new(),
        lambda found, peer: _same(found, _dense_matrix(peer, np.inf)),
    )
    yield _row(
        "dense-star",
        f"min_plus star, dense {n} × {n}",
        lambda: algebra.min_plus.star(held[0]),
        lambda: csgraph.floyd_warshall(a),
        lambda found, peer: _same(found, _star_of(a)),
        peer_name="SciPy's Floyd-Warshall",
        factor=1.0,
    )


def _star_of(a: np.ndarray) -> np.ndarray:
    out = a.copy()
    for k in range(len(a)):
        np.minimum(out, out[:, k, None] + out[k], out=out)
    np.fill_diagonal(out, 0)
    return out


def _bellman_ford(G: Any, source: int) -> Any:
    """As in LAGraph: steps of the whole vector until nothing changes."""
    distance = graphblas.Vector(G.dtype, G.nrows)
    distance[source] = 0
    while True:
        before = distance.dup()
        distance(graphblas.binary.min) << graphblas.semiring.min_plus(distance @ G)
        if distance.isequal(before):
            return distance


def _breadth_first(G: Any, source: int) -> Any:
    """As in LAGraph: a frontier, masked by what was seen."""
    seen = graphblas.Vector(bool, G.nrows)
    frontier = graphblas.Vector(bool, G.nrows)
    seen[source] = frontier[source] = True
    while frontier.nvals:
        frontier(~seen.S, replace=True) << graphblas.semiring.any_pair(frontier @ G)
        seen(frontier.S) << True
    return seen


def _dense_of(vector: Any, zero: Any) -> np.ndarray:
    return vector.to_dense(fill_value=zero)


def _dense_matrix(matrix: Any, zero: Any) -> np.ndarray:
    return matrix.to_dense(fill_value=zero)


def _same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected).astype(found.dtype))


def _row(
    slug: str,
    what: str,
    run: Callable[[], Any],
    peer: Callable[[], Any],
    check: Callable[[Any, Any], None],
    peer_name: str = _PEER,
    factor: float | None = 1 / 1.5,
) -> Row:
    """Both timed after their answers were compared; held to ``factor`` of the peer's time."""
    check(run(), peer())
    return compare(
        f"semiring/{slug}", what,
        Work("mmsb_jax.algebra", lambda: jax.block_until_ready(run())), Work(peer_name, peer),
        rounds=5, must=None if factor is None else ratio_at_most(factor),
        aim=None if factor is None else ratio_at_most(1 / 3),
    )  # fmt: skip
