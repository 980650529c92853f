"""A semiring: two operations and their identities, as data that a compiled program is made for."""

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Shaped

from mmsb_jax._base.arguments import show
from mmsb_jax.algebra._matrix import product, star
from mmsb_jax.algebra._matrix.sparse import SparseMatrix
from mmsb_jax.algebra._values import laws
from mmsb_jax.algebra._values.operands import as_array, axis_of
from mmsb_jax.algebra._values.operations import Operations, fold, tree

_known: "dict[str, Semiring]" = {}
"""The semirings of this package, by name: a pickle of one is its name."""


@dataclass(frozen=True, repr=False)
class Semiring(Operations):
    """Two operations ⊕ and ⊗ with their identities 0̄ and 1̄.

    Laws, which `check` tries: ⊕ is associative and commutative and has the identity 0̄; ⊗ is
    associative and has the identity 1̄; ⊗ distributes over ⊕ from both sides; 0̄ ⊗ a = a ⊗ 0̄ = 0̄.

    A semiring is hashable, so that it can be a static argument of ``jax.jit``: make it once, with
    functions that stay the same objects, and programs made for it are found again. Copies are the
    semiring itself; pickled, those of this package come back as themselves, and yours as an equal
    one where your functions can be pickled (those of a module, and all of `jax.numpy`).

    Attributes:
        name: what errors call it.
        add: ⊕, elementwise on two arrays of one dtype.
        multiply: ⊗, elementwise.
        zero: 0̄, a number or a function of the dtype; ±inf stands for the end of an integer dtype.
        one: 1̄, alike.
        dtypes: names of the dtypes that it is defined on.
        idempotent: a ⊕ a = a.
        selective: a ⊕ b is a or b: there is a path that won, so predecessors and the gradient
            of the winner exist.
        commutative: a ⊗ b = b ⊗ a.
        bounded: 1̄ ⊕ a = 1̄: going round a cycle never helps.
        reduce: ⊕ along one axis of an array, where something faster than a tree of ``add`` is
            known: ``reduce(values, axis)``.
        product: the product of two dense matrices, where something faster is known.
        contains: which values belong to it, elementwise; all but NaN for None.
        converges: where a* = 1̄ ⊕ a ⊕ a⊗a ⊕ … has a value, elementwise; everywhere for None.
        endless: what stands for it where it has none: −∞ in `min_plus`. A number or a function of
            the dtype; needed for paths and `star` unless ``bounded`` or there is a ``closure``.
        closure: a*, elementwise, with its own marker; for None it is 1̄ where it converges, as in
            every selective semiring.

    Raises:
        StructureError: an argument of another kind, a dtype that there is not, what has no hash.

    Example:
        >>> import jax.numpy as jnp
        >>> from mmsb_jax import algebra
        >>> def lcm(a, b): return jnp.lcm(a, b)
        >>> def gcd(a, b): return jnp.gcd(a, b)
        >>> divisors = algebra.Semiring("gcd_lcm", gcd, lcm, zero=0, one=1,
        ...     dtypes=("uint32",), idempotent=True)
        >>> divisors.fold_add(jnp.array([12, 18, 30], jnp.uint32)).item()
        6
    """

    def __repr__(self) -> str:
        return f"Semiring({self.name!r})"

    def __copy__(self) -> "Semiring":
        return self

    def __deepcopy__(self, memo: dict) -> "Semiring":
        return self

    def __reduce__(self) -> tuple:
        if _known.get(self.name) is self:
            return known, (self.name,)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        # Some functions of jax.numpy cannot be pickled themselves.
        of_jax = {
            field: value.__name__
            for field, value in values.items()
            if callable(value) and getattr(jnp, getattr(value, "__name__", ""), None) is value
        }
        return _restored, ({k: v for k, v in values.items() if k not in of_jax}, of_jax)

    def star_of(self, a: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
        """a* = 1̄ ⊕ a ⊕ a⊗a ⊕ …, elementwise: what going round a loop any number of times gives.

        Raises:
            StructureError: no closure is known; one that gives another shape or dtype.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> algebra.min_plus.star_of(jnp.array([3.0, -1.0])).tolist()
            [0.0, -inf]
        """
        return star.star_of(self, a)

    def check(self, dtype: Any = None, values: Any = None) -> None:
        """Try every law and flag on all triples of some values.

        Args:
            dtype: the dtype to try; each of `dtypes` that JAX has under the present settings, for
                None.
            values: what to try; for None, small numbers, both ends of the dtype and infinities
                that belong to the semiring. Floats are compared with a tolerance.

        Raises:
            LawError: a law or a flag does not hold; the message names it and the counterexample.
            StructureError: the semiring is not defined on this dtype.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> algebra.min_plus.check("int32")
            >>> broken = algebra.Semiring("broken", jnp.minimum, jnp.subtract, jnp.inf, 0,
            ...     dtypes=("float32",))
            >>> broken.check()
            Traceback (most recent call last):
            ...
            mmsb_jax.algebra.LawError: broken, float32: ⊗ is associative fails ...
        """
        laws.check(self, dtype, values)

    # -- folds -------------------------------------------------------------------------------

    def fold_add(self, xs: Shaped[Array, "..."], axis: int = -1) -> Shaped[Array, "..."]:
        """⊕ of the values along ``axis``; 0̄ of none. `jnp.min` for `min_plus`.

        Raises:
            StructureError: the semiring is not defined on the dtype; there is no such axis.

        Cost: one pass over ``xs``.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> algebra.min_plus.fold_add(jnp.array([[3.0, 1.0], [2.0, 5.0]])).tolist()
            [1.0, 2.0]
        """
        xs = as_array(self, xs, "xs")
        return fold(self, xs, axis_of(xs, axis))

    def fold_mul(self, xs: Shaped[Array, "..."], axis: int = -1) -> Shaped[Array, "..."]:
        """⊗ of the values along ``axis``, in their order; 1̄ of none. `jnp.sum` for `min_plus`.

        Raises:
            StructureError: the semiring is not defined on the dtype; there is no such axis.

        Cost: a tree of log₂ levels, twice the bytes of ``xs``.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> algebra.min_plus.fold_mul(jnp.array([3.0, 1.0, 2.0])).item()
            6.0
        """
        xs = as_array(self, xs, "xs")
        return tree(self.multiply, self.one_of(xs.dtype), xs, axis_of(xs, axis))

    def accumulate(self, xs: Shaped[Array, "..."], axis: int = -1) -> Shaped[Array, "..."]:
        """⊕ of every prefix along ``axis``: `np.minimum.accumulate` for `min_plus`.

        Raises:
            StructureError: the semiring is not defined on the dtype; there is no such axis.

        Cost: `jax.lax.associative_scan`.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> algebra.max_plus.accumulate(jnp.array([3, 1, 5, 2])).tolist()
            [3, 3, 5, 5]
        """
        xs = as_array(self, xs, "xs")
        return lax.associative_scan(self.add, xs, axis=axis_of(xs, axis))

    # -- products ----------------------------------------------------------------------------

    def vecmat(
        self, x: Shaped[Array, " k"], A: Any, *, mask: Any = None, into: Any = None
    ) -> Shaped[Array, " n"]:
        """x A: ``y[j] = ⊕ᵢ x[i] ⊗ A[i, j]``. What arrives at each node over its edges.

        Args:
            x: ``[k]``.
            A: a `SparseMatrix` or an array, ``[k, n]``, of the same dtype.
            mask: ``bool[n]``: where a result is wanted. Elsewhere it is ``into``, or 0̄.
            into: ``[n]``: what is ⊕-ed with the product.

        Raises:
            StructureError: shapes or dtypes that do not fit; an undefined dtype.

        Cost: sparse, one gathered value of ``x`` an entry, read in the order that it is kept.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> A = jnp.array([[jnp.inf, 1.0], [2.0, jnp.inf]])
            >>> algebra.min_plus.vecmat(jnp.array([0.0, 10.0]), A).tolist()
            [12.0, 1.0]
        """
        return product.vecmat(self, x, A, mask, into)

    def matvec(
        self, A: Any, x: Shaped[Array, " n"], *, mask: Any = None, into: Any = None
    ) -> Shaped[Array, " k"]:
        """A x: ``y[i] = ⊕ⱼ A[i, j] ⊗ x[j]``.

        Args, Raises: as for `vecmat`.

        Cost: sparse, two gathered values an entry, one of ``x`` and one of ``A``: `vecmat` is
        twice as fast.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0, 1], [1, 0], [1.0, 2.0], (2, 2), "float32")
            >>> algebra.max_plus.matvec(A, jnp.array([0.0, 10.0])).tolist()
            [11.0, 2.0]
        """
        return product.matvec(self, A, x, mask, into)

    def matmul(
        self, A: Any, B: Any, *, mask: Any = None, into: Any = None, plan: Any = None
    ) -> Array | SparseMatrix:
        """A B: ``C[i, j] = ⊕ₖ A[i, k] ⊗ B[k, j]``, for any pair of arrays and sparse matrices.

        Two sparse matrices give a sparse one, which has an entry wherever some A[i, k] meets some
        B[k, j], inside of ``mask`` where one is given. Which meet is found on the host; under a
        transformation, or to find it once for many values, pass ``plan=plan_matmul(A, B, mask)``.

        Args:
            A: ``[m, k]``.
            B: ``[k, n]``.
            mask: ``bool[m, n]``; for two sparse matrices, a `SparseMatrix` of which only the
                structure is read.
            into: ``[m, n]``: what is ⊕-ed with the product. Not for two sparse matrices.
            plan: for two sparse matrices.

        Raises:
            StructureError: shapes or dtypes that do not fit; an undefined dtype; two sparse
                matrices under a transformation without a plan.

        Cost: dense, m·n·k operations, a matrix product of the device for `plus_times` and
        `lor_land`. Sparse × sparse: two gathered values a pair that meets.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> A = jnp.array([[0.0, 1.0], [jnp.inf, 0.0]])
            >>> algebra.min_plus.matmul(A, A).tolist()
            [[0.0, 1.0], [inf, 0.0]]
        """
        return product.matmul(self, A, B, mask, into, plan)

    def star(self, A: Any) -> Shaped[Array, "n n"]:
        """A* = I ⊕ A ⊕ A² ⊕ …, dense: all pairs at once; `inv(I - A)` for `plus_times`.

        Law: ``star(A) == eye ⊕ A ⊗ star(A)``. For `min_plus` it is the distance of all pairs.

        Raises:
            StructureError: not square; a semiring for which no closure is known.
            GraphCycleError: going round some cycle has no end (a negative cycle in `min_plus`).
                Under a transformation nothing is raised: the pairs whose paths pass it hold the
                marker (−∞ in `min_plus`, +∞ in `max_plus`).

        Cost: n³ operations in n steps, each over n² values. Source: Kleene's algorithm, of which
        Floyd, Warshall and Gauss-Jordan are cases (Lehmann 1977).

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0, 1], [1, 2], [1.0, 2.0], (3, 3), "float32")
            >>> algebra.min_plus.star(A)[0].tolist()
            [0.0, 1.0, 3.0]
        """
        return star.star(self, A)

    def power(self, A: Any, exponent: int) -> Shaped[Array, "n n"]:
        """A ⊗ … ⊗ A, dense, by squaring: walks of exactly ``exponent`` edges. I for 0.

        Raises:
            StructureError: not square; a negative exponent, or one that is not an int.

        Cost: at most 2 log₂ of the exponent dense products.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> algebra.plus_times.power(jnp.array([[1, 1], [1, 0]]), 10).tolist()
            [[89, 55], [55, 34]]
        """
        return star.power(self, A, exponent)

    def eye(self, n: int, dtype: Any) -> Shaped[Array, "n n"]:
        """The identity of `matmul`: 1̄ on the diagonal, 0̄ elsewhere.

        Raises:
            StructureError: a negative ``n``, or one that is no integer; a dtype that the semiring
                is not defined on, or JAX does not have.

        Example:
            >>> from mmsb_jax import algebra
            >>> algebra.min_plus.eye(2, "float32").tolist()
            [[0.0, inf], [inf, 0.0]]
        """
        return star.eye(self, n, dtype)


def known(name: str) -> Semiring:
    """The semiring of this package that has that name: what a pickle of it holds.

    Raises:
        ValueError: there is none.
    """
    if name not in _known:
        raise ValueError(f"there is no semiring {show(name)} in this version of mmsb_jax")
    return _known[name]


def make_known(semiring: Semiring) -> Semiring:
    """Let a semiring be pickled by its name."""
    return _known.setdefault(semiring.name, semiring)


def _restored(values: dict[str, Any], of_jax: dict[str, str]) -> Semiring:
    """What `Semiring.__reduce__` took apart."""
    return Semiring(**values, **{field: getattr(jnp, name) for field, name in of_jax.items()})


jax.tree_util.register_static(Semiring)
