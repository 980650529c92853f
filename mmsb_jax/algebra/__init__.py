"""Semirings, sparse matrices and paths: what a graph says in any algebra, under jit, vmap and grad.

>>> from mmsb_jax import algebra
>>> A = algebra.SparseMatrix.from_coo([0, 0, 1], [1, 2, 2], [1, 5, 2], (3, 3), "int32")
>>> algebra.shortest_paths(A, 0).tolist()
[0, 1, 3]
"""

from mmsb_jax.algebra._instances import (
    log,
    lor_land,
    max_min,
    max_plus,
    max_times,
    min_plus,
    plus_times,
)
from mmsb_jax.algebra._matrix.plan import ProductPlan, plan_matmul
from mmsb_jax.algebra._matrix.sparse import SparseMatrix
from mmsb_jax.algebra._paths.paths import (
    best_paths,
    k_hop,
    longest_paths,
    path_counts,
    reachable,
    shortest_paths,
    widest_paths,
)
from mmsb_jax.algebra._semiring import Semiring
from mmsb_jax.algebra._values.laws import LawError

__all__ = [
    "LawError",
    "ProductPlan",
    "Semiring",
    "SparseMatrix",
    "best_paths",
    "k_hop",
    "log",
    "longest_paths",
    "lor_land",
    "max_min",
    "max_plus",
    "max_times",
    "min_plus",
    "path_counts",
    "plan_matmul",
    "plus_times",
    "reachable",
    "shortest_paths",
    "widest_paths",
]
