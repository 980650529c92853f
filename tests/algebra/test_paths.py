"""Paths against SciPy and networkx, on graphs like those of GAP and on a road network."""

import itertools

import chex
import jax
import jax.numpy as jnp
import networkx
import numpy as np
import pytest
import scipy.sparse.csgraph as csgraph
from hypothesis import given
from hypothesis import strategies as st

from mmsb_jax import GraphCycleError, algebra
from tests.algebra import _graphs

# A grid of 2,500 nodes is searched by pushing; smaller and denser graphs by pulling.
GRAPHS = {
    "kronecker": lambda: _graphs.kronecker(8),
    "grid": lambda: _graphs.grid(12),
    "road": lambda: _graphs.grid(50),
}
ACYCLIC = {
    "random": lambda: _graphs.acyclic(60, 400),
    "layered": lambda: _graphs.layered(50),
}
ALL_GRAPHS = GRAPHS | ACYCLIC
LONG = [
    pytest.param(14, marks=pytest.mark.long),
    pytest.param(16, marks=pytest.mark.long),
    pytest.param(18, marks=pytest.mark.long),
]


def distances(S, source, dtype):
    """SciPy's, with the infinity of ``dtype``."""
    expected = csgraph.dijkstra(S, indices=source)
    top = algebra.min_plus.zero_of(dtype)
    return np.where(np.isinf(expected), float(top), expected).astype(dtype)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*itertools.product(ALL_GRAPHS, ["int32"]), ("road", "float32"), ("kronecker", "float32"),
     ("road", "uint32"), ("kronecker", "int16")],
)  # fmt: skip
def test_shortest_paths_are_those_of_scipy(name, dtype):
    A, S = _graphs.weighted(ALL_GRAPHS[name](), dtype)
    source = int(A.to_coo()[0][0])
    value, before = algebra.shortest_paths(A, source, predecessors=True)
    np.testing.assert_array_equal(value, distances(S, source, dtype))
    np.testing.assert_array_equal(algebra.shortest_paths(A, source), value)
    _graphs.check_tree(algebra.min_plus, A, source, value, before)


@pytest.mark.parametrize("name", ["kronecker", "road"])
def test_shortest_paths_of_real_weights_are_those_of_scipy_to_rounding(name):
    n, row, col = GRAPHS[name]()
    data = np.random.default_rng(3).lognormal(size=len(row)).astype(np.float32)
    A = algebra.SparseMatrix.from_coo(row, col, data, (n, n))
    S = A.to_scipy().astype(np.float64)
    value, before = algebra.shortest_paths(A, 5, predecessors=True)
    np.testing.assert_allclose(value, csgraph.dijkstra(S, indices=5), rtol=1e-5)
    _graphs.check_tree(algebra.min_plus, A, 5, value, before)


@pytest.mark.parametrize("name", GRAPHS)
def test_shortest_paths_with_edges_of_no_length_have_a_tree(name):
    A, S = _graphs.weighted(GRAPHS[name](), "int32", low=0, high=2)
    value, before = algebra.shortest_paths(A, 5, predecessors=True)
    _graphs.check_tree(algebra.min_plus, A, 5, value, before)
    reference = networkx.from_scipy_sparse_array(S, create_using=networkx.DiGraph)
    row, col, data = A.to_coo()
    reference.add_weighted_edges_from(zip(row.tolist(), col.tolist(), data.tolist(), strict=True))
    expected = networkx.single_source_dijkstra_path_length(reference, 5)
    top = np.iinfo(np.int32).max
    assert value.tolist() == [expected.get(node, top) for node in range(A.shape[0])]


@pytest.mark.parametrize("name", GRAPHS)
def test_shortest_paths_of_lengths_that_round_away_have_a_tree(name):
    n, row, col = GRAPHS[name]()
    data = np.random.default_rng(0).choice([1e-6, 1e-3, 1.0, 1e4], len(row)).astype(np.float32)
    A = algebra.SparseMatrix.from_coo(row, col, data, (n, n))
    value, before = algebra.shortest_paths(A, 5, predecessors=True)
    _graphs.check_tree(algebra.min_plus, A, 5, value, before)


@pytest.mark.parametrize("side", [10, 50])
def test_shortest_paths_with_negative_edges_are_those_of_bellman_and_ford(side):
    # A potential makes some edges negative and no cycle.
    n, row, col = _graphs.grid(side)
    rng = np.random.default_rng(0)
    height = rng.integers(0, 80, n)
    data = (rng.integers(1, 40, len(row)) + height[row] - height[col]).astype(np.int32)
    assert data.min() < 0
    A = algebra.SparseMatrix.from_coo(row, col, data, (n, n))
    value, before = algebra.shortest_paths(A, 0, predecessors=True)
    lengths = (data - height[row] + height[col]).astype(np.float64)
    plain = algebra.SparseMatrix.from_coo(row, col, lengths, (n, n), "float32").to_scipy()
    expected = csgraph.dijkstra(plain, indices=0) + height[0] - height
    np.testing.assert_array_equal(value, expected)
    _graphs.check_tree(algebra.min_plus, A, 0, value, before)


@pytest.mark.parametrize("name", ALL_GRAPHS)
def test_reachable_is_that_of_scipy_with_a_tree_of_fewest_edges(name):
    A, S = _graphs.weighted(ALL_GRAPHS[name](), "float32")
    source = int(A.to_coo()[0][0])
    hops = csgraph.dijkstra(S, indices=source, unweighted=True)
    found, before = algebra.reachable(A, source, predecessors=True)
    np.testing.assert_array_equal(found, np.isfinite(hops))
    has = np.asarray(before) >= 0
    np.testing.assert_array_equal(hops[np.asarray(before)[has]] + 1, hops[has])
    np.testing.assert_array_equal(algebra.reachable(A, source), found)


@pytest.mark.parametrize("name", ALL_GRAPHS)
def test_k_hop_is_the_nodes_within_so_many_edges(name):
    A, S = _graphs.weighted(ALL_GRAPHS[name]())
    hops = csgraph.dijkstra(S, indices=3, unweighted=True)
    traced = jax.jit(algebra.k_hop)
    for k in (0, 1, 2, 5, 1000):
        np.testing.assert_array_equal(algebra.k_hop(A, 3, k), hops <= k)
        np.testing.assert_array_equal(traced(A, 3, k), hops <= k)


@pytest.mark.parametrize("name", ACYCLIC)
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_longest_paths_of_a_dag_are_those_of_networkx(name, dtype):
    A, _ = _graphs.weighted(ACYCLIC[name](), dtype)
    row, col, data = A.to_coo()
    expected = np.full(A.shape[0], algebra.max_plus.zero_of(dtype))
    expected[0] = 0
    order = np.argsort(row, kind="stable")
    # Numbers are a topological order.
    for i, j, length in zip(row[order], col[order], data[order], strict=True):
        if expected[i] != algebra.max_plus.zero_of(dtype):
            expected[j] = max(expected[j], expected[i] + length)
    value, before = algebra.longest_paths(A, 0, predecessors=True)
    np.testing.assert_array_equal(value, expected)
    _graphs.check_tree(algebra.max_plus, A, 0, value, before)
    if name == "random":
        G = networkx.DiGraph()
        G.add_weighted_edges_from(zip(row.tolist(), col.tolist(), data.tolist(), strict=True))
        reached = {0} | networkx.descendants(G, 0)
        longest = networkx.dag_longest_path_length(G.subgraph(reached))
        assert max(x for x in value.tolist() if x > 0) == longest


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_widest_paths_are_those_of_a_spanning_tree(name, dtype):
    # On an undirected graph: the path in a maximum spanning tree.
    n, row, col = GRAPHS[name]()
    lower, upper = np.minimum(row, col), np.maximum(row, col)
    lower, upper = np.divmod(np.unique((lower * n + upper)[lower != upper]), n)
    width = np.random.default_rng(0).integers(1, 100, len(lower)).astype(dtype)
    both = np.r_[lower, upper], np.r_[upper, lower], np.r_[width, width]
    A = algebra.SparseMatrix.from_coo(*both, (n, n))
    source = int(lower[0])
    G = networkx.Graph()
    G.add_nodes_from(range(n))
    G.add_weighted_edges_from(zip(lower.tolist(), upper.tolist(), width.tolist(), strict=True))
    tree = networkx.maximum_spanning_tree(G)
    expected = np.full(n, algebra.max_min.zero_of(dtype))
    expected[source] = algebra.max_min.one_of(dtype)
    for i, j in networkx.bfs_edges(tree, source):
        expected[j] = min(expected[i], tree[i][j]["weight"])
    value, before = algebra.widest_paths(A, source, predecessors=True)
    np.testing.assert_array_equal(value, expected)
    _graphs.check_tree(algebra.max_min, A, source, value, before)


@pytest.mark.parametrize("name", ACYCLIC)
def test_path_counts_of_a_dag_are_exact_and_saturate(name):
    A, _ = _graphs.weighted(ACYCLIC[name]())
    row, col, _ = A.to_coo()
    exact = [0] * A.shape[0]
    exact[0] = 1
    for i, j in zip(row.tolist(), col.tolist(), strict=True):
        exact[j] += exact[i]
    for dtype in ("uint8", "uint32"):
        top = int(np.iinfo(dtype).max)
        found = algebra.path_counts(A, 0, dtype)
        assert found.dtype == dtype
        assert found.tolist() == [min(count, top) for count in exact]
    assert max(exact) > 255


def test_path_counts_with_64_bits_are_exact_further():
    A, _ = _graphs.weighted(_graphs.layered(20))
    with jax.enable_x64(True):
        assert int(algebra.path_counts(A, 0, "uint64")[-1]) == 35345263800
    with pytest.raises(ValueError, match=r"uint64, which JAX has only with jax_enable_x64.*uint32"):
        algebra.path_counts(A, 0, "uint64")
    with pytest.raises(ValueError, match="dtype is int32; an unsigned one"):
        algebra.path_counts(A, 0, "int32")


def with_cycle(dtype, n, sign=1, round_trip=-1):
    """0 → 1 → 2 → 3 → 1, on to 5 and 6 in a line to the end; 4 is not reached."""
    row = np.r_[0, 1, 2, 3, 4, 3, np.arange(5, n - 1)]
    col = np.r_[1, 2, 3, 1, 3, 5, np.arange(6, n)]
    data = np.r_[5, 2, 3, round_trip - 5, 9, np.ones(n - 5)]
    return algebra.SparseMatrix.from_coo(row, col, (sign * data).astype(dtype), (n, n))


@pytest.mark.parametrize("n", [8, 2100])
@pytest.mark.parametrize("dtype", ["int32", "float32"])
@pytest.mark.parametrize(
    ("search", "semiring", "sign"),
    [(algebra.shortest_paths, algebra.min_plus, 1), (algebra.longest_paths, algebra.max_plus, -1)],
)
def test_paths_with_an_endless_cycle_show_it_and_under_jit_mark_where_it_leads(
    n, dtype, search, semiring, sign
):
    A = with_cycle(dtype, n, sign)
    with pytest.raises(
        GraphCycleError, match=r"going round (1 → 2 → 3 → 1|2 → 3 → 1 → 2|3 → 1 → 2 → 3)"
    ):
        search(A, 0)
    found = jax.jit(search)(A, 0)
    marker, zero = semiring.endless_of(dtype), semiring.zero_of(dtype)
    assert found.tolist() == [0, marker, marker, marker, zero, *[marker] * (n - 5)]
    # Round and round at no gain is fine, and so is a cycle that is not reached.
    level = with_cycle(dtype, n, sign, round_trip=0)
    assert search(level, 0).tolist()[:4] == [0, 5 * sign, 7 * sign, 10 * sign]
    assert search(A, n - 1).tolist()[-1] == 0


def test_path_counts_with_a_cycle_show_it_and_under_jit_mark_where_it_leads():
    A = with_cycle("int32", 8)
    with pytest.raises(
        GraphCycleError,
        match=r"^there is no end of paths from 0: going round "
        r"(1 → 2 → 3 → 1|2 → 3 → 1 → 2|3 → 1 → 2 → 3) makes another one each time",
    ):
        algebra.path_counts(A, 0)
    top = 2**32 - 1
    assert jax.jit(algebra.path_counts)(A, 0).tolist() == [1, top, top, top, 0, top, top, top]
    assert algebra.path_counts(A, 5).tolist() == [0] * 5 + [1, 1, 1]


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_paths_where_going_round_does_not_help_have_values(dtype):
    # 0 → 1 ⇄ 2: a way round costs, makes no wider, and takes no more hops.
    A = algebra.SparseMatrix.from_coo([0, 1, 2], [1, 2, 1], [3, 2, 4], (4, 4), dtype)
    top, low = algebra.min_plus.zero_of(dtype), algebra.max_min.zero_of(dtype)
    expected = {
        algebra.shortest_paths: [0, 3, 5, top],
        algebra.widest_paths: [algebra.max_min.one_of(dtype), 3, 2, low],
        algebra.reachable: [True, True, True, False],
    }
    for search, value in expected.items():
        found, before = search(A, 0, predecessors=True)
        assert (found.tolist(), before.tolist()) == (value, [-1, 0, 1, -1])
    assert algebra.k_hop(A, 0, 1).tolist() == [True, True, False, False]
    for endless in (algebra.longest_paths, algebra.path_counts):
        with pytest.raises(GraphCycleError, match=r"going round (1 → 2 → 1|2 → 1 → 2) makes"):
            endless(A, 0)
        assert endless(A, 3).tolist()[3] == (endless is algebra.path_counts)
    with pytest.raises(GraphCycleError, match="in max_times: going round"):
        algebra.best_paths(algebra.max_times, A, 0)


@pytest.mark.parametrize("n", [3, 3000])
def test_paths_reach_nothing_from_a_node_without_edges(n):
    A = algebra.SparseMatrix.from_coo([1], [2], [1.0], (n, n), "float32")
    value, before = algebra.shortest_paths(A, 0, predecessors=True)
    assert value.tolist() == [0, *[jnp.inf] * (n - 1)]
    assert before.tolist() == [-1] * n
    empty = algebra.SparseMatrix.from_coo([], [], [], (n, n), "float32")
    assert algebra.reachable(empty, n - 1).tolist() == [False] * (n - 1) + [True]
    assert algebra.path_counts(empty, 0).tolist() == [1] + [0] * (n - 1)


@pytest.mark.parametrize("name", ["grid", "road"])
def test_paths_with_a_nan_end_and_say_so(name):
    A, _ = _graphs.weighted(GRAPHS[name](), "float32")
    A = A.with_data(A.data.at[0].set(jnp.nan))
    found = jax.jit(algebra.shortest_paths)(A, 0)
    assert jnp.isnan(found).any()


@pytest.mark.parametrize("name", GRAPHS)
def test_paths_under_vmap_are_those_of_each_source(name):
    A, S = _graphs.weighted(GRAPHS[name](), "int32")
    sources = jnp.array([0, 7, 100])
    search = jax.jit(jax.vmap(lambda s: algebra.shortest_paths(A, s, predecessors=True)))
    values, befores = search(sources)
    for source, value, before in zip(sources.tolist(), values, befores, strict=True):
        np.testing.assert_array_equal(value, distances(S, source, "int32"))
        _graphs.check_tree(algebra.min_plus, A, source, value, before)
    reached = jax.vmap(lambda s: algebra.reachable(A, s))(sources)
    np.testing.assert_array_equal(reached, values != np.iinfo(np.int32).max)
    hops = jax.vmap(lambda s: jax.vmap(lambda k: algebra.k_hop(A, s, k))(jnp.arange(4)))(sources)
    assert hops.shape == (3, 4, A.shape[0])
    assert hops[1, 3].tolist() == algebra.k_hop(A, 7, 3).tolist()


def test_paths_under_vmap_of_weights_and_under_scan_are_those_of_each():
    A, _ = _graphs.weighted(_graphs.grid(8), "float32")
    weights = jnp.stack([A.data, A.data[::-1], jnp.ones(A.nnz)])
    one = lambda data: algebra.shortest_paths(A.with_data(data), 3)  # noqa: E731
    expected = jnp.stack([one(data) for data in weights])
    np.testing.assert_array_equal(jax.vmap(one)(weights), expected)
    scanned = jax.lax.scan(lambda c, data: (c, one(data)), None, weights)[1]
    np.testing.assert_array_equal(scanned, expected)


def test_paths_are_compiled_once_for_all_sources_and_weights():
    A, _ = _graphs.weighted(_graphs.grid(6), "float32")
    traced = jax.jit(chex.assert_max_traces(lambda A, s: algebra.shortest_paths(A, s), n=1))
    for source in range(4):
        B = A.map(lambda data, source=source: data + source)
        np.testing.assert_array_equal(traced(B, source), algebra.shortest_paths(B, source))


def test_a_traced_source_outside_of_the_matrix_reaches_nothing():
    for graph in (_graphs.grid(4), _graphs.grid(50)):
        A, _ = _graphs.weighted(graph, "float32")
        search = jax.jit(algebra.shortest_paths)
        for source in (-1, A.shape[0], 10**6):
            assert jnp.isinf(search(A, source)).all()


@pytest.mark.parametrize("n", [40, 2100], ids=["pull", "push"])
@pytest.mark.parametrize("semiring", [algebra.min_plus, algebra.max_min, algebra.max_times],
                         ids=lambda semiring: semiring.name)  # fmt: skip
def test_best_paths_are_a_fixed_point(semiring, n):
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.unique(rng.integers(0, n * n, 2 * n)), n)
    A = algebra.SparseMatrix.from_coo(row, col, np.ones(len(row), np.float32), (n, n))
    search = jax.jit(lambda data, source: algebra.best_paths(semiring, A.with_data(data), source))

    # One structure, and so one program, for all that is drawn.
    @given(st.integers(0, 2**31), st.integers(0, n - 1))
    def holds(seed, source):
        data = np.random.default_rng(seed).random(len(row)).astype(np.float32)
        value = search(data, source)
        start = jnp.full(n, semiring.zero_of("float32")).at[source].set(semiring.one_of("float32"))
        np.testing.assert_array_equal(value, semiring.vecmat(value, A.with_data(data), into=start))

    holds()


def _refused():
    A = algebra.SparseMatrix.from_coo([0], [1], [1.0], (3, 3), "float32")
    yield lambda: algebra.shortest_paths(A, 3), "source is 3; there are nodes 0 to 2"
    yield lambda: algebra.shortest_paths(A, -1), "source is -1"
    yield lambda: algebra.reachable(A, 1.0), r"source is 1.0 \(float\); one integer was expected"
    yield lambda: algebra.reachable(A, [0, 1]), "For several sources, use jax.vmap"
    yield lambda: jax.jit(algebra.reachable)(A, jnp.arange(2)), "For several sources, use jax.vmap"
    yield lambda: algebra.shortest_paths(jnp.zeros((2, 2)), 0), "looked for in a SparseMatrix"
    rectangle = algebra.SparseMatrix.from_coo([0], [1], [1.0], (2, 3), "float32")
    yield lambda: algebra.widest_paths(rectangle, 0), "a square one was expected"
    yield lambda: algebra.path_counts(rectangle, 0), "a square one was expected"
    yield lambda: algebra.best_paths(algebra.plus_times, A, 0), "⊕ of plus_times selects no path"
    yield lambda: algebra.best_paths(algebra.lor_land, A, 0), "lor_land is not defined on float32"
    yield lambda: algebra.k_hop(A, 0, -1), "k is -1"
    bare = algebra.Semiring("bare", jnp.minimum, jnp.add, jnp.inf, 0, ("float32",), selective=True)
    yield lambda: algebra.best_paths(bare, A, 0), "bare is not bounded and has no endless="


@pytest.mark.parametrize(
    ("call", "message"), list(_refused()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_paths_of_what_does_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("scale", LONG)
def test_paths_on_large_kronecker_graphs_are_those_of_scipy(scale):
    A, S = _graphs.weighted(_graphs.kronecker(scale), "int32", high=255)
    source = int(A.to_coo()[0][0])
    value, before = algebra.shortest_paths(A, source, predecessors=True)
    np.testing.assert_array_equal(value, distances(S, source, "int32"))
    _graphs.check_tree(algebra.min_plus, A, source, value, before)
    hops = csgraph.dijkstra(S, indices=source, unweighted=True)
    np.testing.assert_array_equal(algebra.reachable(A, source), np.isfinite(hops))
    np.testing.assert_array_equal(algebra.k_hop(A, source, 2), hops <= 2)
    x = np.random.default_rng(0).integers(0, 9, A.shape[0]).astype(np.int32)
    np.testing.assert_array_equal(algebra.plus_times.vecmat(x, A), x @ S)


@pytest.mark.long
def test_paths_on_a_large_road_network_are_those_of_scipy():
    A, S = _graphs.weighted(_graphs.grid(700), "int32", high=255)
    value, before = algebra.shortest_paths(A, 0, predecessors=True)
    np.testing.assert_array_equal(value, distances(S, 0, "int32"))
    _graphs.check_tree(algebra.min_plus, A, 0, value, before)
    assert algebra.reachable(A, 0).all()
