"""A sparse matrix: the edges of a graph, in a layout made for pull."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Shaped

from mmsb_jax._errors import StructureError
from mmsb_jax.algebra._groups import MOST_ENTRIES, Arranged, Groups
from mmsb_jax.algebra._operands import check_shape, uncast

if TYPE_CHECKING:
    from mmsb_jax.algebra._semiring import Semiring


class SparseMatrix(eqx.Module):
    """A matrix of which only some entries are there: ``A[i, j]`` is the value of the edge i → j.

    It belongs to no semiring: what an absent entry stands for is the 0̄ of whichever is used with
    it. A pytree: its arrays are leaves, its shape and the sizes of its buckets are static, so that
    matrices of one structure share their compiled programs whatever their values. Made on the host,
    once; then everything works under ``jit``, ``vmap``, ``scan`` and ``grad``.

    Make one with `from_coo`, `from_csr`, `from_scipy`, `from_dense` or `from_graph`.

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
        combine: "Semiring | None" = None,
    ) -> "SparseMatrix":
        """The matrix with ``A[row[e], col[e]] = data[e]``.

        Args:
            row, col: integers, ``[nnz]``, in any order.
            data: ``[nnz]``, or one value for all.
            shape: rows and columns.
            dtype: of the entries; that of ``data`` for None.
            combine: whose ⊕ merges entries of one place. None refuses them.

        Raises:
            StructureError: lengths that differ, an index outside of ``shape``, two entries for one
                place without ``combine``, a dtype that JAX does not have (float64 without
                ``jax_enable_x64``: say ``dtype="float32"``).

        Cost: a sort by counting on the host, about 0.2 µs an entry.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0, 0], [1, 1], [3, 2], (2, 2), "int32",
            ...     combine=algebra.min_plus)
            >>> A.to_coo()[2].tolist()
            [2]
        """
        size = _check_size(shape)
        row, col = _indices(row, "row", size[0]), _indices(col, "col", size[1])
        if row.shape != col.shape:
            raise StructureError(f"row has {row.size} entries, col has {col.size}")
        values = _data(data, row.size, dtype)
        order = np.lexsort((col, row)) if not _is_sorted(row, col) else slice(None)
        row, col, values = row[order], col[order], values[order]
        again = (row[1:] == row[:-1]) & (col[1:] == col[:-1])
        if again.any():
            if combine is None:
                first = int(np.flatnonzero(again)[0])
                raise StructureError(
                    f"two entries for A[{row[first]}, {col[first]}]; pass combine=, the semiring "
                    f"whose ⊕ merges them"
                )
            row, col, values = _merge(combine, row, col, values, again)
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
        return cls(
            jnp.asarray(held),
            columns.groups(row[order], size[0]),
            rows.groups(col, size[1], slots, columns.slots),
            jnp.asarray(slots),
            size,
        )

    @classmethod
    def from_csr(
        cls, indptr: Any, indices: Any, data: Any, shape: tuple[int, int], dtype: Any = None
    ) -> "SparseMatrix":
        """From compressed rows: the entries of row ``i`` are ``indptr[i]`` to ``indptr[i + 1]``.

        Raises:
            StructureError: as for `from_coo`; an ``indptr`` that does not ascend from 0 to the
                number of entries.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_csr([0, 2, 2], [0, 1], [7, 8], (2, 2), "int32")
            >>> A.to_dense(0).tolist()
            [[7, 8], [0, 0]]
        """
        size = _check_size(shape)
        starts, indices = np.asarray(indptr), np.asarray(indices)
        if starts.shape != (size[0] + 1,) or starts.dtype.kind not in "iu":
            raise StructureError(
                f"indptr is {starts.dtype}{list(starts.shape)}; {size[0] + 1} integers were "
                f"expected for {size[0]} rows"
            )
        lengths = np.diff(starts.astype(np.int64))
        if starts[0] != 0 or starts[-1] != indices.size or (lengths < 0).any():
            raise StructureError(f"indptr does not ascend from 0 to {indices.size}, the entries")
        return cls.from_coo(np.repeat(np.arange(size[0]), lengths), indices, data, size, dtype)

    @classmethod
    def from_scipy(cls, matrix: Any, dtype: Any = None) -> "SparseMatrix":
        """From a SciPy sparse matrix or array of any format.

        Zeros that it stores stay entries. Entries of one place are added up, as SciPy does.

        Raises:
            StructureError: as for `from_coo`: SciPy's float64 wants ``dtype="float32"`` unless
                ``jax_enable_x64`` is set.

        Example:
            >>> import scipy.sparse
            >>> from mmsb_jax import algebra
            >>> S = scipy.sparse.random_array((4, 5), density=0.5, rng=0)
            >>> algebra.SparseMatrix.from_scipy(S, "float32")
            SparseMatrix(4 × 5, float32, 10 entries)
        """
        rows = matrix.tocsr()
        if not rows.has_sorted_indices:
            rows = rows.sorted_indices()
        return cls.from_csr(rows.indptr, rows.indices, rows.data, rows.shape, dtype)

    @classmethod
    def from_dense(cls, matrix: Any, zero: Any) -> "SparseMatrix":
        """The entries of an array that differ from ``zero``.

        Example:
            >>> import numpy as np
            >>> from mmsb_jax import algebra
            >>> dense = np.array([[np.inf, 1], [2, np.inf]], np.float32)
            >>> algebra.SparseMatrix.from_dense(dense, np.inf).nnz
            2
        """
        dense = np.asarray(matrix)
        if dense.ndim != 2:
            raise StructureError(f"an array of shape {dense.shape}; two axes were expected")
        row, col = np.nonzero(dense != zero)
        return cls.from_coo(row, col, dense[row, col], dense.shape)

    @classmethod
    def from_graph(
        cls,
        graph: Any,
        weight: Callable[[Any, Any, Any], Any] | Any = True,
        dtype: Any = None,
        *,
        kinds: Iterable[str] | None = None,
        combine: "Semiring | None" = None,
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
            StructureError: edges between the same two nodes with other values, without ``combine``.

        Example:
            >>> import mmsb_jax as mmsb
            >>> from mmsb_jax import algebra
            >>> graph = mmsb.PageGraph().add("a", "b").add("b", "c")
            >>> A = algebra.SparseMatrix.from_graph(graph)
            >>> algebra.reachable(A, 0).tolist()
            [True, True, True]
        """
        place = {node: i for i, node in enumerate(graph.order())}
        wanted = None if kinds is None else frozenset(kinds)
        found: dict[tuple[int, int, Any], None] = {}
        for parent, child, kind in graph.edges():
            if wanted is None or kind in wanted:
                value = weight(parent, child, kind) if callable(weight) else weight
                found[place[parent], place[child], value] = None
        row, col, data = (
            (list(column) for column in zip(*found, strict=True)) if found else ([],) * 3
        )
        if dtype is None and not callable(weight):
            dtype = uncast(weight, "weight").dtype
        n = len(place)
        return cls.from_coo(row, col, data, (n, n), dtype, combine=combine)

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
        data = uncast(data, "data")
        check_shape(data, (self.nnz,), "data")
        held = jnp.zeros(self.values.shape, data.dtype)
        return self._replace(held.at[self.slots].set(data, unique_indices=True), self.transposed)

    def map(self, function: Callable[[Array], Array]) -> "SparseMatrix":
        """``with_data(function(data))``: the same structure, each entry changed.

        Example:
            >>> import jax.numpy as jnp
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0], [1], [3], (2, 2), "int32")
            >>> hops = A.map(jnp.ones_like)
            >>> hops.data.tolist()
            [1]
        """
        return self.with_data(function(self.data))

    def to_coo(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``(row, col, data)`` as NumPy arrays, sorted by row, then by column.

        Of a transpose they are sorted by column first: the order of `data` does not change.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([1, 0], [0, 1], [7, 8], (2, 2), "int32")
            >>> [column.tolist() for column in A.to_coo()]
            [[0, 1], [1, 0], [8, 7]]
        """
        slots = np.asarray(self.slots)
        row = np.asarray(self.columns.met)[slots]
        col = np.asarray(self.columns.group_of_slot())[slots]
        if self.transposed:
            row, col = col, row
        return row, col, np.asarray(self.values)[slots]

    def to_scipy(self) -> Any:
        """The same entries as a `scipy.sparse.coo_array`; SciPy has no bfloat16.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0], [1], [3], (2, 2), "int32")
            >>> A.to_scipy().toarray().tolist()
            [[0, 3], [0, 0]]
        """
        import scipy.sparse

        row, col, data = self.to_coo()
        return scipy.sparse.coo_array((data, (row, col)), shape=self.shape)

    def to_dense(self, zero: Any) -> Shaped[Array, "rows columns"]:
        """An array with ``zero`` where there is no entry: a number, or a `Semiring` for its 0̄.

        Example:
            >>> from mmsb_jax import algebra
            >>> A = algebra.SparseMatrix.from_coo([0], [1], [3.0], (2, 2), "float32")
            >>> A.to_dense(algebra.min_plus).tolist()
            [[inf, 3.0], [inf, inf]]
        """
        from mmsb_jax.algebra._semiring import Semiring

        fill = zero.zero_of(self.dtype) if isinstance(zero, Semiring) else zero
        met = self.columns.met.at[self.slots].get(mode="promise_in_bounds")
        group = self.columns.group_of_slot().at[self.slots].get(mode="promise_in_bounds")
        dense = jnp.full(self.size, jnp.asarray(fill, self.dtype))
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


def _check_size(shape: Any) -> tuple[int, int]:
    size = tuple(int(length) for length in shape)
    if len(size) != 2 or min(size) < 0 or max(size) >= MOST_ENTRIES:
        raise StructureError(f"shape {tuple(shape)}; rows and columns below 2³¹ were expected")
    return cast(tuple[int, int], size)


def _indices(given: Any, name: str, length: int) -> np.ndarray:
    index = np.asarray(given)
    if index.size == 0:
        index = index.astype(np.int64)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise StructureError(
            f"{name} is {index.dtype}{list(index.shape)}; a vector of integers was expected"
        )
    outside = (index < 0) | (index >= length)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise StructureError(f"{name}[{first}] is {index[first]}; it must be in 0 to {length - 1}")
    return index.astype(np.int64)


def _data(given: Any, count: int, dtype: Any) -> np.ndarray:
    data = np.asarray(given)
    if dtype is None and not isinstance(given, (np.ndarray, np.generic, jax.Array)):
        data = np.asarray(jnp.asarray(given))
    data = data if dtype is None else data.astype(np.dtype(dtype))
    if jax.dtypes.canonicalize_dtype(data.dtype) != data.dtype:
        raise StructureError(
            f"data is {data.dtype.name}, which JAX has only with jax_enable_x64; pass "
            f'dtype="{jax.dtypes.canonicalize_dtype(data.dtype).name}" to have it cast'
        )
    if data.ndim == 0:
        return np.full(count, data)
    if data.shape != (count,):
        raise StructureError(f"data has shape {data.shape}; one value for {count} entries, or one")
    return data


def _is_sorted(row: np.ndarray, col: np.ndarray) -> bool:
    step = np.diff(row)
    return bool(((step > 0) | ((step == 0) & (np.diff(col) >= 0))).all())


def _merge(
    combine: "Semiring", row: np.ndarray, col: np.ndarray, values: np.ndarray, again: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """⊕ of the entries of each place, in their order."""
    first = np.flatnonzero(np.concatenate([[True], ~again]))
    count = np.diff(np.append(first, len(row)))
    combine.check_dtype(values.dtype)
    merged = values[first]
    for k in range(1, int(count.max())):
        more = count > k
        both = jnp.asarray(merged[more]), jnp.asarray(values[first[more] + k])
        merged[more] = np.asarray(combine.add(*both))
    return row[first], col[first], merged
