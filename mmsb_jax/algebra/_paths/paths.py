"""Best paths from one node to all: a fixed point of pulls, in any semiring whose ⊕ selects."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Bool, Int32, Shaped

from mmsb_jax._base.arguments import check_flag
from mmsb_jax._base.errors import GraphCycleError, StructureError
from mmsb_jax.algebra._instances import lor_land, max_min, max_plus, min_plus
from mmsb_jax.algebra._matrix.pull import pull_forward
from mmsb_jax.algebra._matrix.sparse import SparseMatrix, check_matrix, check_one
from mmsb_jax.algebra._paths.fixpoint import led_to, settle
from mmsb_jax.algebra._paths.tree import best, cycle_of
from mmsb_jax.algebra._semiring import Semiring
from mmsb_jax.algebra._values import arithmetic
from mmsb_jax.algebra._values.casting import as_dtype, check_held, described
from mmsb_jax.algebra._values.operands import as_int32, check_square, is_traced, whole
from mmsb_jax.algebra._values.operations import UNSIGNED

_counting = Semiring(
    "counting",
    arithmetic.saturating_plus,
    arithmetic.max_times_multiply,
    zero=0,
    one=1,
    dtypes=UNSIGNED,
)


def best_paths(
    semiring: Semiring, A: SparseMatrix, source: Any, *, predecessors: bool = False
) -> Any:
    """The ⊕ over all paths from ``source`` to each node of the ⊗ of their edges.

    Law: the result ``d`` is a fixed point, ``d = e ⊕ d A``, where ``e`` is 1̄ at the source and 0̄
    elsewhere. `shortest_paths`, `longest_paths`, `widest_paths` and `reachable` are this in their
    semirings.

    Args:
        semiring: one that is selective.
        A: square; ``A[i, j]`` is the edge i → j.
        source: a node's number; under ``vmap`` and ``jit`` a traced one. A number outside of the
            matrix is refused; where it is traced, no node is reached.
        predecessors: whether to return, beside the values, for each node the one before it on a
            best path: ``int32[n]``, −1 for the source and for nodes without a path.

    Returns:
        ``[n]`` of the dtype of ``A``, 0̄ where there is no path; with predecessors, a pair.

    Raises:
        StructureError: not square, a dtype the semiring is not defined on, one that does not
            select, a source that is no node.
        GraphCycleError: a cycle that makes its paths better without end (negative in `min_plus`).
            The message shows it. Under a transformation nothing is raised: every node that such a
            cycle leads to holds the semiring's marker (−∞ in `min_plus`, +∞ in `max_plus`).

    Cost: a pull of all edges a step, and as many steps as the best paths have edges; on matrices
    without large rows, steps in which few nodes changed push from those alone. Under ``vmap`` on a
    CPU, the sources one after another. Its gradient, in reverse, goes to the edges of the paths
    that won, one path a node.

    Source: Bellman 1958, Ford 1956; in semirings, Carré 1971.

    Example:
        >>> import jax.numpy as jnp
        >>> from mmsb_jax import algebra
        >>> A = algebra.SparseMatrix.from_coo([0, 0, 1], [1, 2, 2], [0.5, 0.3, 0.9], (3, 3),
        ...     "float32")
        >>> value, before = algebra.best_paths(algebra.max_times, A, 0, predecessors=True)
        >>> before.tolist()
        [-1, 0, 1]
    """
    check_flag("predecessors", predecessors)
    _check(semiring, A)
    source = _source(source, A.shape[0])
    found, before, endless = _best_paths(semiring, A, source, predecessors)
    if not is_traced(endless) and bool(endless):
        raise GraphCycleError(
            f"paths from {int(source)} in {semiring.name}: going round "
            f"{_cycle(semiring, A, source)} makes them better without end. Take an edge of that "
            f"cycle out, or change its value"
        )
    return (found, before) if predecessors else found


@functools.partial(jax.jit, static_argnums=(0, 3))
def _best_paths(
    semiring: Semiring, A: SparseMatrix, source: Array, predecessors: bool
) -> tuple[Array, Array | None, Array]:
    return best(semiring, predecessors, A.values, A.into_columns(), A.into_rows(), source)


def shortest_paths(A: SparseMatrix, source: Any, *, predecessors: bool = False) -> Any:
    """The length of the shortest path from ``source`` to each node: `best_paths` in `min_plus`.

    Args, Returns, Raises, Cost: as for `best_paths`; ∞ (the largest integer) where there is no
    path.

    Example:
        >>> from mmsb_jax import algebra
        >>> A = algebra.SparseMatrix.from_coo([0, 0, 1], [1, 2, 2], [1, 5, 2], (3, 3), "int32")
        >>> distance, before = algebra.shortest_paths(A, 0, predecessors=True)
        >>> distance.tolist(), before.tolist()
        ([0, 1, 3], [-1, 0, 1])
    """
    return best_paths(min_plus, A, source, predecessors=predecessors)


def longest_paths(A: SparseMatrix, source: Any, *, predecessors: bool = False) -> Any:
    """The length of the longest path from ``source`` to each node: `best_paths` in `max_plus`.

    Args, Returns, Raises, Cost: as for `best_paths`; −∞ (the smallest integer) where there is no
    path. A cycle of positive length has no longest path.

    Example:
        >>> from mmsb_jax import algebra
        >>> A = algebra.SparseMatrix.from_coo([0, 0, 1], [1, 2, 2], [1, 1, 1], (3, 3), "int32")
        >>> algebra.longest_paths(A, 0).tolist()
        [0, 1, 2]
    """
    return best_paths(max_plus, A, source, predecessors=predecessors)


def widest_paths(A: SparseMatrix, source: Any, *, predecessors: bool = False) -> Any:
    """The width of the widest path from ``source`` to each node: `best_paths` in `max_min`.

    A path is as wide as its narrowest edge. Args, Returns, Raises, Cost: as for `best_paths`; +∞
    (the largest integer) at the source, −∞ (the smallest) where there is no path.

    Example:
        >>> from mmsb_jax import algebra
        >>> A = algebra.SparseMatrix.from_coo([0, 0, 1], [1, 2, 2], [7, 2, 4], (3, 3), "int32")
        >>> algebra.widest_paths(A, 0).tolist()[1:]
        [7, 4]
    """
    return best_paths(max_min, A, source, predecessors=predecessors)


def reachable(A: SparseMatrix, source: Any, *, predecessors: bool = False) -> Any:
    """Which nodes there is a path to from ``source``, itself included: ``bool[n]``.

    `best_paths` in `lor_land`, over all entries of ``A``, whatever their values and dtype.

    Args, Raises, Cost: as for `best_paths`. With predecessors, a tree of fewest edges.

    Example:
        >>> from mmsb_jax import algebra
        >>> A = algebra.SparseMatrix.from_coo([0, 2], [1, 1], [1, 1], (3, 3), "int32")
        >>> algebra.reachable(A, 0).tolist()
        [True, True, False]
    """
    return best_paths(lor_land, _flags(A), source, predecessors=predecessors)


def k_hop(A: SparseMatrix, source: Any, k: Any) -> Bool[Array, " n"]:
    """Which nodes ``source`` reaches over at most ``k`` edges, itself included.

    Args:
        A: square, as for `reachable`.
        source: a node's number.
        k: how many edges; may be traced, and is 0 then where it is negative.

    Raises:
        StructureError: as for `best_paths`; a negative ``k``, or one that is no integer.

    Cost: at most ``k`` steps.

    Example:
        >>> from mmsb_jax import algebra
        >>> A = algebra.SparseMatrix.from_coo([0, 1, 2], [1, 2, 3], [1, 1, 1], (4, 4), "int32")
        >>> algebra.k_hop(A, 0, 2).tolist()
        [True, True, True, False]
    """
    flags = _flags(A)
    if isinstance(k, Tracer):
        _check_traced(k, "k", "For several of them")
        limit = as_int32(k)
    elif (number := whole(k, "k")) < 0:
        raise StructureError(f"k is {number}; a number of edges from 0 on was expected")
    else:
        # No path has more edges than there are nodes.
        limit = jnp.int32(min(number, A.shape[0]))
    return _k_hop(flags, _source(source, A.shape[0]), limit)


@jax.jit
def _k_hop(A: SparseMatrix, source: Array, k: Array) -> Array:
    found = settle(lor_land, A.values, A.into_columns(), A.into_rows(), source, limit=k)
    return found.value


def path_counts(A: SparseMatrix, source: Any, dtype: Any = "uint32") -> Shaped[Array, " n"]:
    """How many paths lead from ``source`` to each node of an acyclic graph; 1 at the source.

    Each entry of ``A`` is one edge, whatever its value. For paths of exactly ``k`` edges, or
    weighted ones, use `plus_times.vecmat` ``k`` times.

    Args:
        A: square.
        source: a node's number.
        dtype: an unsigned one. Its largest value says: that many or more.

    Raises:
        StructureError: as for `best_paths`; a dtype that is not unsigned.
        GraphCycleError: a cycle that the source leads to. Under a transformation nothing is
            raised: every node that it leads to holds the largest value.

    Cost: as for `best_paths`, with as many steps as the longest path has edges.

    Example:
        >>> from mmsb_jax import algebra
        >>> A = algebra.SparseMatrix.from_coo([0, 0, 1], [1, 2, 2], [1, 1, 1], (3, 3), "int32")
        >>> algebra.path_counts(A, 0).tolist()
        [1, 1, 2]
    """
    A = _flags(A)
    dtype = as_dtype(dtype)
    if dtype.name not in UNSIGNED:
        raise StructureError(f"dtype is {dtype.name}; an unsigned one was expected")
    check_held(dtype, "dtype", "{} needs no such setting")
    source = _source(source, A.shape[0])
    counts, endless = _path_counts(A, source, dtype)
    if not is_traced(endless) and bool(endless):
        hops = A.map(lambda data: jnp.ones(data.shape, jnp.int32))
        raise GraphCycleError(
            f"there is no end of paths from {int(source)}: going round "
            f"{_cycle(max_plus, hops, source)} makes another one each time. Take an edge of that "
            f"cycle out, or count the walks of k edges with k times plus_times.vecmat"
        )
    return counts


@functools.partial(jax.jit, static_argnums=2)
def _path_counts(A: SparseMatrix, source: Array, dtype: np.dtype) -> tuple[Array, Array]:
    n, into = A.shape[0], A.into_columns()
    ones = jnp.ones(A.values.shape, dtype)
    first = (jnp.arange(n, dtype=jnp.int32) == source).astype(dtype)

    def going(state: tuple) -> Array:
        _, walks, steps = state
        return walks.any() & (steps < n)

    def step(state: tuple) -> tuple:
        total, walks, steps = state
        walks = pull_forward(_counting, True, walks, ones, into)
        return _counting.add(total, walks), walks, steps + 1

    total, walks, _ = lax.while_loop(going, step, (first, first, jnp.int32(0)))
    # A walk of as many edges as there are nodes has gone round a cycle.
    round_again = walks != 0
    top = jnp.asarray(arithmetic.highest(dtype), dtype)
    total = lax.cond(
        round_again.any(),
        lambda: jnp.where(led_to(round_again, ones, into), top, total),
        lambda: total,
    )
    return total, round_again.any()


def _check(semiring: Semiring, A: SparseMatrix) -> None:
    if not isinstance(semiring, Semiring):
        raise StructureError(f"semiring is {described(semiring)}; a Semiring was expected")
    _check_graph(A)
    check_matrix(semiring, A, "A")
    if not semiring.selective:
        raise StructureError(
            f"the ⊕ of {semiring.name} selects no path; use {semiring.name}.vecmat or star"
        )
    if not semiring.bounded:
        semiring.endless_of(A.dtype)


def _check_graph(A: SparseMatrix) -> None:
    if not isinstance(A, SparseMatrix):
        raise StructureError(
            f"paths are looked for in a SparseMatrix; this is {described(A)}. Make one with "
            f"SparseMatrix.from_dense or from_scipy, or use Semiring.star for all pairs"
        )
    check_one(A)
    check_square(A)


def _source(source: Any, n: int) -> Int32[Array, ""]:
    if isinstance(source, Tracer):
        _check_traced(source, "source", "For several sources")
        number = as_int32(source)
        # A negative index counts from the end; as a node's number it is none.
        return jnp.where((number < 0) | (number >= n), n, number)
    number = whole(source, "source", "For several sources, use jax.vmap")
    if not 0 <= number < n:
        there = f"there are nodes 0 to {n - 1}" if n else "there are no nodes"
        raise StructureError(f"source is {number}; {there}")
    return jnp.int32(number)


def _check_traced(value: Array, name: str, several: str) -> None:
    if value.shape or not jnp.issubdtype(value.dtype, jnp.integer):
        raise StructureError(
            f"{name} is {value.dtype}{list(value.shape)}; one integer was expected. {several}, use "
            f"jax.vmap"
        )


def _flags(A: SparseMatrix) -> SparseMatrix:
    """Every slot true: what padding meets is false."""
    _check_graph(A)
    return A._replace(jnp.ones(A.values.shape, bool), A.transposed)


def _cycle(semiring: Semiring, A: SparseMatrix, source: Array) -> str:
    """Look for the cycle again, keeping who came before whom, and show it."""
    cycle = cycle_of(semiring, A, source)
    return " → ".join(map(str, [*cycle, cycle[0]]))
