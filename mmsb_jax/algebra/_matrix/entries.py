"""The entries that a sparse matrix is made of: read on the host, checked, cast, sorted, merged."""

import contextlib
from collections.abc import Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from mmsb_jax._base.errors import StructureError
from mmsb_jax.algebra._matrix.groups import MOST_ENTRIES
from mmsb_jax.algebra._values.casting import (
    as_dtype,
    check_held,
    described,
    fit,
    has_own_dtype,
    on_host,
)
from mmsb_jax.algebra._values.forms import check_forms
from mmsb_jax.algebra._values.operands import is_traced, whole
from mmsb_jax.algebra._values.operations import Operations


def size_of(shape: Any) -> tuple[int, int]:
    """Rows and columns."""
    if not isinstance(shape, (tuple, list, np.ndarray)) or len(shape) != 2:
        raise StructureError(f"shape is {described(shape)}; (rows, columns) was expected")
    size = tuple(whole(length, "a length in shape") for length in shape)
    if min(size) < 0 or max(size) >= MOST_ENTRIES:
        raise StructureError(f"shape {size}; rows and columns below 2³¹ were expected")
    return cast(tuple[int, int], size)


def indices_of(given: Any, name: str, length: int) -> np.ndarray:
    """Row or column of each entry, all of them below ``length``."""
    index = on_host(given, name)
    if index.size == 0:
        index = index.astype(np.int64)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise StructureError(
            f"{name} is {index.dtype}{list(index.shape)}; a vector of integers was expected"
        )
    outside = (index < 0) | (index >= length)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        there = f"it must be in 0 to {length - 1}" if length else "there are none"
        raise StructureError(f"{name}[{first}] is {index[first]}; {there}")
    return index.astype(np.int64)


def rows_of(indptr: Any, rows: int, entries: int) -> np.ndarray:
    """The row of each entry, from where the entries of each begin."""
    starts = on_host(indptr, "indptr")
    if starts.shape != (rows + 1,) or starts.dtype.kind not in "iu":
        raise StructureError(
            f"indptr is {starts.dtype}{list(starts.shape)}; {rows + 1} integers were expected for "
            f"{rows} rows"
        )
    lengths = np.diff(starts.astype(np.int64))
    if starts[0] != 0 or starts[-1] != entries or (lengths < 0).any():
        raise StructureError(f"indptr must ascend from 0 to {entries}, the number of entries")
    return np.repeat(np.arange(rows), lengths)


def data_of(given: Any, count: int, dtype: Any, name: str = "data") -> np.ndarray:
    """One value for each of ``count`` entries, in the dtype asked for."""
    data = on_host(given, name)
    if data.ndim and data.shape != (count,):
        raise StructureError(
            f"{name} has shape {data.shape}; one value for {count} entries, or one for all, was "
            f"expected"
        )
    if dtype is None and not has_own_dtype(given):
        dtype = jax.dtypes.canonicalize_dtype(data.dtype)
    data = _cast(data, dtype, name, name)
    return data if data.ndim else np.full(count, data)


def dense_entries(
    matrix: Any, zero: Any, dtype: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Rows, columns and values of what differs from ``zero``, and the shape."""
    dense = on_host(matrix, "matrix")
    if dense.ndim != 2:
        raise StructureError(f"an array of shape {dense.shape}; two axes were expected")
    if dtype is None and not has_own_dtype(matrix):
        dtype = jax.dtypes.canonicalize_dtype(dense.dtype)
    absent = fill_of(zero, dense.dtype)
    row, col = np.nonzero(~np.isnan(dense) if absent != absent else dense != absent)

    def named(e: int) -> str:
        return f"matrix[{row[e]}, {col[e]}]"

    return row, col, _cast(dense[row, col], dtype, named, "matrix"), cast(Any, dense.shape)


def graph_entries(
    graph: Any, weight: Any, dtype: Any, kinds: Iterable[str] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Rows, columns and values of the edges, no two alike, and the number of nodes."""
    if not (hasattr(graph, "order") and hasattr(graph, "edges")):
        raise StructureError(
            f"from_graph was given {described(graph)}; a PageGraph, or what has order() and "
            f"edges(), was expected"
        )
    wanted = None
    if isinstance(kinds, Iterable) and not isinstance(kinds, str):
        with contextlib.suppress(TypeError):  # of what has no hash
            wanted = frozenset(kinds)
    if kinds is not None and wanted is None:
        raise StructureError(
            f"kinds is {described(kinds)}; several kinds were expected, such as ['data']"
        )
    order = tuple(graph.order())
    place = {node: i for i, node in enumerate(order)}
    found: dict[tuple[int, int, Any], None] = {}
    for parent, child, kind in graph.edges():
        if wanted is None or kind in wanted:
            if parent not in place or child not in place:
                raise StructureError(
                    f"the edge {parent} → {child} has a node that order() does not give; both must "
                    f"be in it"
                )
            value = weight(parent, child, kind) if callable(weight) else weight
            number = _one_number(value, f"the weight of {parent} → {child}")
            found[place[parent], place[child], number] = None
    row, col = (np.array([edge[i] for edge in found], np.int64) for i in (0, 1))
    if not callable(weight):
        number = _one_number(weight, "weight")
        return row, col, data_of(number, len(row), dtype, "weight"), len(order)
    given = on_host([value for _, _, value in found], "weight")
    if dtype is None:
        dtype = jax.dtypes.canonicalize_dtype(given.dtype)

    def named(e: int) -> str:
        return f"the weight of {order[row[e]]} → {order[col[e]]}"

    return row, col, _cast(given, dtype, named, "weight"), len(order)


def sorted_entries(
    row: np.ndarray, col: np.ndarray, values: np.ndarray, combine: Operations | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries by row, then by column, those of one place merged."""
    if combine is not None and not isinstance(combine, Operations):
        raise StructureError(f"combine is {described(combine)}; a Semiring or None was expected")
    order = np.lexsort((col, row)) if not _is_sorted(row, col) else slice(None)
    row, col, values = row[order], col[order], values[order]
    again = (row[1:] == row[:-1]) & (col[1:] == col[:-1])
    if not again.any():
        return row, col, values
    if combine is None:
        first = int(np.flatnonzero(again)[0])
        raise StructureError(
            f"two entries for A[{row[first]}, {col[first]}]; pass combine=, the semiring whose ⊕ "
            f"merges them"
        )
    return _merge(combine, row, col, values, again)


def fill_of(zero: Any, dtype: np.dtype) -> Any:
    """What stands for no entry, in the dtype of the entries."""
    if isinstance(zero, Operations):
        return zero.zero_of(dtype)
    if is_traced(zero):
        if getattr(zero, "shape", None) != () or zero.dtype != dtype:
            raise StructureError(
                f"zero is {described(zero)}; under a transformation one {dtype.name} was expected, "
                f"the dtype of the entries"
            )
        return zero
    number = on_host(zero, "zero")
    if number.shape:
        raise StructureError(f"zero is {described(zero)}; one number or a Semiring was expected")
    return fit(number, dtype, "zero")[()]


def _cast(values: np.ndarray, dtype: Any, named: Any, name: str) -> np.ndarray:
    """``values`` in the dtype asked for, which JAX has; in their own for None."""
    wanted = values.dtype if dtype is None else as_dtype(dtype)
    owner = name if dtype is None else "dtype"
    check_held(wanted, owner, 'pass dtype="{}" to have it cast')
    return fit(values, wanted, named)


def _one_number(value: Any, name: str) -> Any:
    """A weight that can be compared: Python's number, or NumPy's of the same dtype."""
    if type(value) in (bool, int, float):
        return value
    number = on_host(value, name)
    if number.shape:
        raise StructureError(f"{name} is {described(value)}; one number was expected")
    return number[()]


def _is_sorted(row: np.ndarray, col: np.ndarray) -> bool:
    step = np.diff(row)
    return bool(((step > 0) | ((step == 0) & (np.diff(col) >= 0))).all())


def _merge(
    combine: Operations, row: np.ndarray, col: np.ndarray, values: np.ndarray, again: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """⊕ of the entries of each place, in their order."""
    first = np.flatnonzero(np.concatenate([[True], ~again]))
    count = np.diff(np.append(first, len(row)))
    check_forms(combine, combine.check_dtype(values.dtype))
    merged = values[first]
    for k in range(1, int(count.max())):
        more = count > k
        with jax.ensure_compile_time_eval():
            both = jnp.asarray(merged[more]), jnp.asarray(values[first[more] + k])
            merged[more] = np.asarray(combine.add(*both))
    return row[first], col[first], merged
