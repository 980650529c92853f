"""Products of vectors and matrices, dense and sparse, with masks and accumulators."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from mmsb_jax._base.errors import StructureError
from mmsb_jax.algebra._matrix import dense
from mmsb_jax.algebra._matrix.plan import ProductPlan, plan_matmul
from mmsb_jax.algebra._matrix.pull import pull
from mmsb_jax.algebra._matrix.sparse import SparseMatrix, check_matrix
from mmsb_jax.algebra._values.casting import described
from mmsb_jax.algebra._values.operands import as_array, check_shape, is_traced, uncast
from mmsb_jax.algebra._values.operations import Operations


def vecmat(semiring: Operations, x: Any, A: Any, mask: Any, into: Any) -> Array:
    """`Semiring.vecmat`."""
    A, x = _pair(semiring, A, "A", x, "x")
    check_shape(x, (A.shape[0],), "x")
    mask, into = _extras(semiring, mask, into, (A.shape[1],), x.dtype)
    return _vecmat(semiring, x, A, mask, into)


def matvec(semiring: Operations, A: Any, x: Any, mask: Any, into: Any) -> Array:
    """`Semiring.matvec`."""
    A, x = _pair(semiring, A, "A", x, "x")
    check_shape(x, (A.shape[1],), "x")
    mask, into = _extras(semiring, mask, into, (A.shape[0],), x.dtype)
    return _matvec(semiring, A, x, mask, into)


def matmul(
    semiring: Operations, A: Any, B: Any, mask: Any, into: Any, plan: Any
) -> "Array | SparseMatrix":
    """`Semiring.matmul`."""
    A, B = _pair(semiring, A, "A", B, "B")
    if len(B.shape) != 2 or A.shape[1] != B.shape[0]:
        raise StructureError(
            f"matmul of {tuple(A.shape)} and {tuple(B.shape)}: the inner lengths must be the same"
        )
    if isinstance(A, SparseMatrix) and isinstance(B, SparseMatrix):
        return _sparse_by_sparse(semiring, A, B, mask, into, plan)
    if plan is not None:
        raise StructureError("plan= is for two sparse matrices; one of these is dense")
    mask, into = _extras(semiring, mask, into, (A.shape[0], B.shape[1]), A.dtype)
    return _matmul(semiring, A, B, mask, into)


@functools.partial(jax.jit, static_argnums=0)
def _vecmat(semiring: Operations, x: Array, A: Any, mask: Any, into: Any) -> Array:
    if isinstance(A, SparseMatrix):
        product = pull(semiring, x, A.values, A.into_columns())
    else:
        product = dense.matmul(semiring, x[None], A)[0]
    return _finish(semiring, product, mask, into)


@functools.partial(jax.jit, static_argnums=0)
def _matvec(semiring: Operations, A: Any, x: Array, mask: Any, into: Any) -> Array:
    if isinstance(A, SparseMatrix):
        product = pull(semiring, x, A.values, A.into_rows(), x_first=False)
    else:
        product = dense.matmul(semiring, A, x[:, None])[:, 0]
    return _finish(semiring, product, mask, into)


@functools.partial(jax.jit, static_argnums=0)
def _matmul(semiring: Operations, A: Any, B: Any, mask: Any, into: Any) -> Array:
    if isinstance(B, SparseMatrix):
        # One row after another: a gather of many columns at once is twice as slow on a CPU.
        product = lax.map(lambda x: pull(semiring, x, B.values, B.into_columns()), A)
    elif isinstance(A, SparseMatrix):
        groups = A.into_rows()
        product = lax.map(lambda x: pull(semiring, x, A.values, groups, x_first=False), B.T).T
    else:
        product = dense.matmul(semiring, A, B)
    return _finish(semiring, product, mask, into)


def _finish(semiring: Operations, product: Array, mask: Any, into: Any) -> Array:
    """⊕ with the accumulator; outside of the mask the accumulator alone."""
    result = product if into is None else semiring.add(into, product)
    if mask is None:
        return result
    return jnp.where(mask, result, semiring.zero_of(result.dtype) if into is None else into)


def _sparse_by_sparse(
    semiring: Operations, A: SparseMatrix, B: SparseMatrix, mask: Any, into: Any, plan: Any
) -> SparseMatrix:
    if into is not None:
        raise StructureError("into= is for a dense result; two sparse matrices give a sparse one")
    if plan is None:
        if is_traced(A, B, mask):
            raise StructureError(
                "matmul of two sparse matrices under a transformation: which entries meet must be "
                "known before; pass plan=algebra.plan_matmul(A, B, mask), made outside of it"
            )
        plan = plan_matmul(A, B, mask)
    elif mask is not None:
        raise StructureError("pass mask= to plan_matmul: a plan has its mask in it")
    elif not isinstance(plan, ProductPlan):
        raise StructureError(
            f"plan is {described(plan)}; a ProductPlan was expected, which plan_matmul makes"
        )
    plan.check(A, B)
    return _planned(semiring, A, B, plan)


@functools.partial(jax.jit, static_argnums=0)
def _planned(
    semiring: Operations, A: SparseMatrix, B: SparseMatrix, plan: ProductPlan
) -> SparseMatrix:
    # The last value of a matrix belongs to padding, and is not an operand.
    folded = pull(semiring, A.values[:-1], B.values, plan.pairs)
    return plan.result.with_data(folded)


def _pair(semiring: Operations, A: Any, A_name: str, B: Any, B_name: str) -> tuple[Any, Any]:
    """Both operands, of one dtype; a matrix has two axes."""
    if isinstance(A, SparseMatrix):
        check_matrix(semiring, A, A_name)
    else:
        if hasattr(A, "tocsr"):
            raise StructureError(
                f"{A_name} is a {type(A).__name__}; an array or a SparseMatrix was expected, which "
                f"SparseMatrix.from_scipy makes"
            )
        A = as_array(semiring, A, A_name)
        if A.ndim != 2:
            raise StructureError(f"{A_name} has shape {A.shape}; a matrix was expected")
    if isinstance(B, SparseMatrix):
        check_matrix(semiring, B, B_name)
        if B.dtype != A.dtype:
            raise StructureError(
                f"{A_name} is {A.dtype.name}, {B_name} is {B.dtype.name}; {semiring.name} mixes no "
                f"dtypes: cast one of them"
            )
        return A, B
    return A, as_array(semiring, B, B_name, A.dtype)


def _extras(
    semiring: Operations, mask: Any, into: Any, shape: tuple[int, ...], dtype: Any
) -> tuple[Any, Any]:
    if mask is not None:
        mask = uncast(mask, "mask")
        check_shape(mask, shape, "mask")
        if mask.dtype != bool:
            raise StructureError(f"mask is {mask.dtype.name}; bool was expected")
    if into is not None:
        into = as_array(semiring, into, "into", dtype)
        check_shape(into, shape, "into")
    return mask, into
