"""A sparse matrix: the edges of a graph, in a layout made for pull."""

from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Shaped

from mmsb_jax._base.errors import StructureError
from mmsb_jax.algebra._matrix.entries import (
    data_of,
    dense_entries,
    fill_of,
    graph_entries,
    indices_of,
    rows_of,
    size_of,
    sorted_entries,
)
from mmsb_jax.algebra._matrix.groups import Arranged, Groups
from mmsb_jax.algebra._values.casting import check_held, described
from mmsb_jax.algebra._values.forms import check_forms
from mmsb_jax.algebra._values.operands import check_shape, is_traced, uncast
from mmsb_jax.algebra._values.operations import Operations


class SparseMatrix(eqx.Module):
    """A matrix of which only some entries are there: ``A[i, j]`` is the value of the edge i → j.

    It belongs to no semiring: what an absent entry stands for is the 0̄ of whichever is used with
    it. A pytree: its arrays are leaves, its shape and the sizes of its buckets are static, so that
    matrices of one structure share their compiled programs whatever their values. Made on the host,
    once; then everything works under ``jit``, ``vmap``, ``scan`` and ``grad``.

    Make one with `from_coo`, `from_csr`, `from_scipy`, `from_dense` or `from_graph`. With ``dtype``
    they cast, and refuse what does not fit: each entry stays the number that it is. A float dtype
    rounds it, and overflows for no finite one; an integer dtype has whole numbers from end to end,
    and its ends for ±inf, as the semirings have it; it has no NaN. bool has 0 and 1; a complex
    number that fits a real dtype has no imaginary part. Without, Python's numbers take JAX's
    default dtype where they fit it, and arrays keep theirs.

    Attributes:
        values: ``[slots + 1]``: the entries, column by column in buckets of about the same degree,
            with padding. `data` has them without.
        columns: the entries of each column: what `vecmat` folds.
        rows: the entries of each row: what `matvec` folds.
        slots: ``int32[nnz]``: where each entry is in ``values``, sorted by row, then by column.
        size: rows and columns before `T`, static.
        transposed: whether rows and columns have changed places, static.

    Cost: 16 bytes an entry for a dtype of 4 bytes, and about a sixth more for padding.

    Example:
        >>> import jax.numpy as jnp
        >>> from mmsb_jax import algebra
        >>> A = algebra.SparseMatrix.from_coo([0, 0, 1], [1, 2, 2], [1.0, 5.0, 2.0], (3, 3),
        ...     "float32")
        >>> A
        SparseMatrix(3 × 3, float32, 3 entries)
        >>> algebra.min_plus.vecmat(jnp.array([0.0, 1.0, 5.0]), A).tolist()
        [inf, 1.0, 3.0]
    """

    values: Shaped[Array, " slots_and_one"]
    columns: Groups
    rows: Groups
    slots: Int32[Array, " nnz"]
    size: tuple[int, int] = eqx.field(static=True)
    transposed: bool = eqx.field(static=True, default=False)

    # -- making one --------------------------------------------------------------------------

    @classmethod
    def from_coo(
        cls,
        row: Any,
        col: Any,
        data: Any,
        shape: tuple[int, int],
        dtype: Any = None,
        *,
        combine: Operations | None = None,
    ) -> "SparseMatrix":
        """The matrix with ``A[row[e], col[e]] = data[e]``.

        Args:
            row, col: integers, ``[nnz]``, in any order.
            data: ``[nnz]``, or one value for all.
            shape: rows and columns.
            dtype: of the entries; that of ``data`` for None. What does not fit it is refused.
            combine: whose ⊕ merges entries of one place. None refuses them.

        Raises:
            StructureError: lengths that differ, an index outside of ``shape``, two entries for one
                place without ``combine``, an entry that ``dtype`` does not have, a dtype that JAX
                does not have (float64 without ``jax_enable_x64``: say ``dtype="float32"``), traced
                arguments.

        Cost: a sort by counting on the host, about 0.2 µs an entry.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0, 0], [1, 1], [3, 2], (2, 2), "int32",
            ...     combine=algebra.min_plus)
            >>> A.to_coo()[2].tolist()
            [2]
        """
        size = size_of(shape)
        row, col = indices_of(row, "row", size[0]), indices_of(col, "col", size[1])
        if row.shape != col.shape:
            raise StructureError(
                f"row has {row.size} entries, col has {col.size}; as many of both were expected"
            )
        values = data_of(data, row.size, dtype, "data")
        return cls._from_entries(row, col, values, size, combine)

    @classmethod
    def _from_entries(
        cls,
        row: np.ndarray,
        col: np.ndarray,
        values: np.ndarray,
        size: tuple[int, int],
        combine: Operations | None = None,
    ) -> "SparseMatrix":
        """From entries in any order."""
        row, col, values = sorted_entries(row, col, values, combine)
        return cls._from_sorted(row, col, values, size)

    @classmethod
    def _from_sorted(
        cls, row: np.ndarray, col: np.ndarray, values: np.ndarray, size: tuple[int, int]
    ) -> "SparseMatrix":
        """From entries in the order of rows, then columns, no place twice."""
        by_row = np.zeros(size[0] + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=size[0]), out=by_row[1:])
        by_column = np.zeros(size[1] + 1, np.int64)
        np.cumsum(np.bincount(col, minlength=size[1]), out=by_column[1:])
        order = np.argsort(col, kind="stable")
        columns, rows = Arranged(by_column), Arranged(by_row)
        slots = np.empty(len(row), np.int32)
        slots[order] = columns.slot_of_entry
        # One slot more than there are entries and padding: it is what padding reads by index.
        held = np.zeros(columns.slots + 1, values.dtype)
        held[slots] = values
        # Constants also where it is made while a program is traced.
        with jax.ensure_compile_time_eval():
            return cls(
                jnp.asarray(held),
                columns.groups(row[order], size[0]),
                rows.groups(col, size[1], slots, columns.slots),
                jnp.asarray(slots),
                size,
            )

    @classmethod
    def from_csr(
        cls,
        indptr: Any,
        indices: Any,
        data: Any,
        shape: tuple[int, int],
        dtype: Any = None,
        *,
        combine: Operations | None = None,
    ) -> "SparseMatrix":
        """From compressed rows: the entries of row ``i`` are ``indptr[i]`` to ``indptr[i + 1]``.

        Args:
            indptr: integers, ``[rows + 1]``.
            indices: the column of each entry, ``[nnz]``.
            data, shape, dtype, combine: as for `from_coo`.

        Raises:
            StructureError: as for `from_coo`; an ``indptr`` that does not ascend from 0 to the
                number of entries.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_csr([0, 2, 2], [0, 1], [7, 8], (2, 2), "int32")
            >>> A.to_dense(0).tolist()
            [[7, 8], [0, 0]]
        """
        size = size_of(shape)
        col = indices_of(indices, "indices", size[1])
        row = rows_of(indptr, size[0], col.size)
        return cls._from_entries(row, col, data_of(data, row.size, dtype, "data"), size, combine)

    @classmethod
    def from_scipy(cls, matrix: Any, dtype: Any = None) -> "SparseMatrix":
        """From a SciPy sparse matrix or array of any format.

        Zeros that it stores stay entries. Entries of one place are added up, as SciPy does.

        Raises:
            StructureError: as for `from_coo`: SciPy's float64 wants ``dtype="float32"`` unless
                ``jax_enable_x64`` is set; what is no matrix of SciPy.

        Example:
            >>> import scipy.sparse
            >>> from mmsb_jax import algebra
            >>> S = scipy.sparse.random_array((4, 5), density=0.5, rng=0)
            >>> algebra.SparseMatrix.from_scipy(S, "float32")
            SparseMatrix(4 × 5, float32, 10 entries)
        """
        if not hasattr(matrix, "tocsr") or len(matrix.shape) != 2:
            raise StructureError(
                f"from_scipy was given {described(matrix)}; a matrix of scipy.sparse was expected"
            )
        rows = matrix.tocsr()
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        return cls.from_csr(rows.indptr, rows.indices, rows.data, rows.shape, dtype)

    @classmethod
    def from_dense(cls, matrix: Any, zero: Any, dtype: Any = None) -> "SparseMatrix":
        """The entries of an array that differ from ``zero``.

        Law: ``from_dense(A.to_dense(zero), zero)`` is ``A``, where no entry is ``zero``.

        Args:
            matrix: ``[rows, columns]``.
            zero: what stands for no entry: a number, or a `Semiring` for its 0̄. NaN is all NaN.
            dtype: of the entries, as for `from_coo`.

        Raises:
            StructureError: not two axes, a ``zero`` that the dtype of ``matrix`` does not have, an
                entry that ``dtype`` does not have.

        Example:
            >>> import numpy as np
            >>> from mmsb_jax import algebra
            >>> dense = np.array([[np.inf, 1], [2, np.inf]], np.float32)
            >>> algebra.SparseMatrix.from_dense(dense, np.inf).nnz
            2
        """
        row, col, values, shape = dense_entries(matrix, zero, dtype)
        return cls._from_entries(row, col, values, shape)

    @classmethod
    def from_graph(
        cls,
        graph: Any,
        weight: Callable[[Any, Any, Any], Any] | Any = True,
        dtype: Any = None,
        *,
        kinds: Iterable[str] | None = None,
        combine: Operations | None = None,
    ) -> "SparseMatrix":
        """The edges of a `PageGraph`; node ``i`` is ``graph.order()[i]``.

        Args:
            graph: anything with ``order()``, the nodes, and ``edges()``, which gives
                ``(parent, child, kind)``.
            weight: the value of every edge, or a function of (parent, child, kind).
            dtype: of the entries; bool for the default weight.
            kinds: of the edges that are taken; all for None.
            combine: whose ⊕ merges edges of several kinds between the same two nodes; those of
                equal value are merged without.

        Raises:
            StructureError: edges between the same two nodes with other values, without ``combine``;
                a weight that is no number, or that ``dtype`` does not have.

        Example:
            >>> import mmsb_jax as mmsb
            >>> from mmsb_jax import algebra
            >>> graph = mmsb.PageGraph().add("a", "b").add("b", "c")
            >>> A = algebra.SparseMatrix.from_graph(graph)
            >>> algebra.reachable(A, 0).tolist()
            [True, True, True]
        """
        row, col, values, n = graph_entries(graph, weight, dtype, kinds)
        return cls._from_entries(row, col, values, (n, n), combine)

    # -- what it is --------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.size
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the entries."""
        return np.dtype(self.values.dtype)

    @property
    def nnz(self) -> int:
        """How many entries there are."""
        return self.slots.shape[-1]

    @property
    def T(self) -> "SparseMatrix":
        """The transpose; no array is touched.

        `vecmat` with it costs what `matvec` costs without; `from_coo` with row and col changed
        makes one whose `vecmat` is fast.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0], [2], [1], (2, 3), "int32")
            >>> A.T.shape
            (3, 2)
        """
        return self._replace(self.values, not self.transposed)

    def transpose(self) -> "SparseMatrix":
        """`T`."""
        return self.T

    @property
    def data(self) -> Shaped[Array, " nnz"]:
        """The entries in the order of `to_coo`, on the device.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([1, 0], [0, 1], [7, 8], (2, 2), "int32")
            >>> A.data.tolist()
            [8, 7]
        """
        check_one(self)
        return self.values.at[self.slots].get(mode="promise_in_bounds")

    def with_data(self, data: Shaped[Array, " nnz"]) -> "SparseMatrix":
        """The same structure with other values, in the order of `data`, of any dtype.

        Law: ``A.with_data(A.data) == A``. Under transformations too: this is how a matrix is made
        of parameters that are learned.

        Raises:
            StructureError: not one value an entry.

        Example:
            >>> import jax, jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0, 1], [1, 2], [1.0, 2.0], (3, 3), "float32")
            >>> far = lambda w: algebra.shortest_paths(A.with_data(w), 0)[2]
            >>> jax.grad(far)(A.data).tolist()
            [1.0, 1.0]
        """
        check_one(self)
        data = uncast(data, "data")
        check_shape(data, (self.nnz,), "data")
        held = jnp.zeros(self.values.shape, data.dtype)
        return self._replace(held.at[self.slots].set(data, unique_indices=True), self.transposed)

    def map(self, function: Callable[[Array], Array]) -> "SparseMatrix":
        """``with_data(function(data))``: the same structure, each entry changed.

        Raises:
            StructureError: as for `with_data`; what is no function.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0], [1], [3], (2, 2), "int32")
            >>> hops = A.map(jnp.ones_like)
            >>> hops.data.tolist()
            [1]
        """
        if not callable(function):
            raise StructureError(
                f"map was given {described(function)}; a function of the entries was expected"
            )
        return self.with_data(function(self.data))

    def to_coo(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(row, col, data)`` as NumPy arrays, sorted by row, then by column.

        Of a transpose they are sorted by column first: the order of `data` does not change.

        Raises:
            StructureError: the matrix is traced.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([1, 0], [0, 1], [7, 8], (2, 2), "int32")
            >>> [column.tolist() for column in A.to_coo()]
            [[0, 1], [1, 0], [8, 7]]
        """
        check_one(self)
        if is_traced(self):
            raise StructureError(
                "to_coo, to_scipy and plan_matmul read a matrix on the host, and this one is "
                "traced: call them outside of jit, vmap and grad"
            )
        slots = np.asarray(self.slots)
        with jax.ensure_compile_time_eval():
            row = np.asarray(self.columns.met)[slots]
            col = np.asarray(self.columns.group_of_slot())[slots]
        if self.transposed:
            row, col = col, row
        return row, col, np.asarray(self.values)[slots]

    def to_scipy(self) -> Any:
        """The same entries as a `scipy.sparse.coo_array`; SciPy has no bfloat16.

        Raises:
            StructureError: the matrix is traced; a dtype that SciPy does not have.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0], [1], [3], (2, 2), "int32")
            >>> A.to_scipy().toarray().tolist()
            [[0, 3], [0, 0]]
        """
        import scipy.sparse

        row, col, data = self.to_coo()
        if data.dtype.kind not in "biufc" or data.dtype == np.float16:
            raise StructureError(
                f"SciPy has no sparse matrices of {data.dtype.name}; a dtype of its own was "
                f"expected: A.map(lambda data: data.astype(jnp.float32)) casts the entries"
            )
        return scipy.sparse.coo_array((data, (row, col)), shape=self.shape)

    def to_dense(self, zero: Any) -> Shaped[Array, "rows columns"]:
        """An array with ``zero`` where there is no entry: a number, or a `Semiring` for its 0̄.

        Raises:
            StructureError: a ``zero`` that the dtype of the entries does not have; a traced one of
                another dtype.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0], [1], [3.0], (2, 2), "float32")
            >>> A.to_dense(algebra.min_plus).tolist()
            [[inf, 3.0], [inf, inf]]
        """
        check_one(self)
        check_held(self.dtype, "the matrix")
        met = self.columns.met.at[self.slots].get(mode="promise_in_bounds")
        group = self.columns.group_of_slot().at[self.slots].get(mode="promise_in_bounds")
        dense = jnp.full(self.size, fill_of(zero, self.dtype))
        dense = dense.at[met, group].set(self.data, unique_indices=True)
        return dense.T if self.transposed else dense

    def into_columns(self) -> Groups:
        """The entries of each column: what meets ``x`` in ``x A``."""
        return self.rows if self.transposed else self.columns

    def into_rows(self) -> Groups:
        """The entries of each row: what meets ``x`` in ``A x``."""
        return self.columns if self.transposed else self.rows

    def _replace(self, values: Array, transposed: bool) -> "SparseMatrix":
        return SparseMatrix(values, self.columns, self.rows, self.slots, self.size, transposed)

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"SparseMatrix({rows} × {columns}, {self.dtype.name}, {self.nnz} entries)"


def check_one(A: SparseMatrix) -> None:
    """Raise for what `jax.vmap` gives: the values of many matrices on one structure."""
    if getattr(A.values, "ndim", None) != 1:
        raise StructureError(
            f"the values of this SparseMatrix are {described(A.values)}; a vector was expected. A "
            f"batch of matrices goes through jax.vmap, which takes one after another"
        )


def check_matrix(semiring: Operations, A: SparseMatrix, name: str) -> None:
    """Raise where ``semiring`` has no products with ``A``."""
    check_one(A)
    check_forms(semiring, semiring.check_dtype(check_held(A.dtype, name)))
