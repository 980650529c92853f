"""Which entries meet in the product of two sparse matrices: found on the host, once."""

import equinox as eqx
import jax
import numpy as np

from mmsb_jax._base.errors import StructureError
from mmsb_jax.algebra._matrix.groups import Arranged, Groups
from mmsb_jax.algebra._matrix.sparse import SparseMatrix
from mmsb_jax.algebra._values.casting import described
from mmsb_jax.algebra._values.operands import is_traced

_CHUNK_PAIRS = 1 << 23


class ProductPlan(eqx.Module):
    """The structure of a product of two sparse matrices. Make one with `plan_matmul`.

    Attributes:
        pairs: for each entry of the product, the entries that meet in it.
        result: the product's structure; its values are without meaning.
        sizes: shapes and lengths of the two operands that it is for, static.
    """

    pairs: Groups
    result: SparseMatrix
    sizes: tuple = eqx.field(static=True)

    def check(self, A: SparseMatrix, B: SparseMatrix) -> None:
        """Raise where the plan is for operands of other sizes."""
        if self.sizes != _sizes(A, B):
            raise StructureError(
                f"a plan for {self.sizes} was given {_sizes(A, B)}: make one with plan_matmul for "
                f"matrices of this structure"
            )


def plan_matmul(A: SparseMatrix, B: SparseMatrix, mask: SparseMatrix | None = None) -> ProductPlan:
    """Find which entries of two sparse matrices meet: the structure of their product.

    Args:
        A: ``[m, k]``; its values are not read.
        B: ``[k, n]``, alike.
        mask: ``[m, n]``: the places where the product is wanted; all for None. Every entry of the
            mask is one of the product, 0̄ where nothing meets.

    Raises:
        StructureError: what is no `SparseMatrix`; inner lengths that differ; traced matrices.

    Cost: on the host, sorting all pairs ``A[i, k], B[k, j]`` in pieces of eight million; those
    outside of the mask are dropped piece by piece.

    Example:
        >>> import jax
        >>> from mmsb_jax import algebra
        >>> A = algebra.SparseMatrix.from_coo([0, 1], [1, 2], [1, 2], (3, 3), "int32")
        >>> plan = algebra.plan_matmul(A, A)
        >>> square = jax.jit(lambda A: algebra.min_plus.matmul(A, A, plan=plan))
        >>> [column.tolist() for column in square(A).to_coo()]
        [[0], [2], [3]]
    """
    for name, matrix in (("A", A), ("B", B), ("mask", mask)):
        if not isinstance(matrix, SparseMatrix) and not (name == "mask" and matrix is None):
            raise StructureError(f"{name} is {described(matrix)}; a SparseMatrix was expected")
    if is_traced(A, B, mask):
        raise StructureError("plan_matmul reads which entries there are: call it outside of jit")
    if A.shape[1] != B.shape[0]:
        raise StructureError(
            f"plan_matmul of {A.shape} and {B.shape}: inner lengths differ; they must be the same"
        )
    shape = (A.shape[0], B.shape[1])
    if mask is not None and mask.shape != shape:
        raise StructureError(f"mask has shape {mask.shape}; {shape} was expected")
    wanted = None if mask is None else np.sort(_places(mask))
    place, of_a, of_b = _pairs(A, B, wanted)
    order = np.argsort(place, kind="stable")
    place, of_a, of_b = place[order], of_a[order], of_b[order]
    places = np.unique(place) if wanted is None else wanted
    offsets = np.concatenate([np.searchsorted(place, places), [len(place)]])
    with jax.ensure_compile_time_eval():
        pairs = Arranged(offsets).groups(of_a, len(A.values) - 1, of_b, len(B.values) - 1)
    row, col = places // max(shape[1], 1), places % max(shape[1], 1)
    result = SparseMatrix._from_sorted(row, col, np.zeros(len(places), bool), shape)
    return ProductPlan(pairs, result, _sizes(A, B))


def _sizes(A: SparseMatrix, B: SparseMatrix) -> tuple:
    return (A.shape, len(A.values), A.transposed), (B.shape, len(B.values), B.transposed)


def _places(matrix: SparseMatrix) -> np.ndarray:
    row, col, _ = matrix.to_coo()
    return row.astype(np.int64) * matrix.shape[1] + col


def _pairs(
    A: SparseMatrix, B: SparseMatrix, wanted: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair that meets: its place in the product, its slots in ``A`` and ``B``."""
    row_a, inner_a, _ = A.to_coo()
    inner_b, col_b, _ = B.to_coo()
    slots_a, slots_b = np.asarray(A.slots), np.asarray(B.slots)
    by_row = np.argsort(row_a, kind="stable")
    row_a, inner_a, slots_a = row_a[by_row], inner_a[by_row], slots_a[by_row]
    by_inner = np.argsort(inner_b, kind="stable")
    col_b, slots_b = col_b[by_inner], slots_b[by_inner]
    starts = np.searchsorted(inner_b[by_inner], np.arange(B.shape[0] + 1))
    first, meets = starts[inner_a], np.diff(starts)[inner_a]
    ends = np.cumsum(meets)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))]
    begin = 0
    while begin < len(row_a):
        done = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + _CHUNK_PAIRS)))
        count = meets[begin:stop]
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        b = np.repeat(first[begin:stop], count) + within
        place = np.repeat(row_a[begin:stop].astype(np.int64), count) * B.shape[1] + col_b[b]
        a = np.repeat(slots_a[begin:stop], count)
        if wanted is not None:
            at = np.searchsorted(wanted, place)
            kept = wanted[np.minimum(at, len(wanted) - 1)] == place if len(wanted) else at < 0
            place, a, b = place[kept], a[kept], b[kept]
        found.append((place, a, slots_b[b]))
        begin = stop
    place, a, b = (np.concatenate(column) for column in zip(*found, strict=True))
    return place, a, b
