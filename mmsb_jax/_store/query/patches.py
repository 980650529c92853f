"""Patches: what a commit did, as elements of arrays: the form that inference servers take."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import VersionError
from mmsb_jax._store.encoding.base import unit_of_dtype
from mmsb_jax._store.encoding.decode import check_extent
from mmsb_jax._store.encoding.sparse import sparse_elements
from mmsb_jax._store.format.chunk import ChunkData
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import EXTRA_ID, ArrayInfo, OpCode
from mmsb_jax._store.state.state import StoredState

if TYPE_CHECKING:
    from mmsb_jax._store.log.log import Log


class Patch(NamedTuple):
    """Elements of one array after a commit.

    Attributes:
        name: the array.
        indices: which elements, in row-major order (int64[n], ascending).
        values: what they are after the commit (n of the array's dtype, as NumPy has it).
    """

    name: str
    indices: np.ndarray
    values: np.ndarray


_Chunks = list[tuple[np.void, ChunkData]]


def patches_of(log: "Log", version: int) -> Iterator[Patch]:
    """What the commit of ``version`` did, array by array; see `Commit.patches`."""
    log.check_saved(version)
    found, table = log.find(version), log.table(version)
    made = {op.info.id for op in found.record.ops if op.code is not OpCode.DELETE}
    parts = log.chunks_of(found)
    touched, stop = made & table.arrays.keys(), 0
    direct: dict[int, Patch] = {}
    for row in found.record.records:
        start, stop = stop, stop + int(row["chunks"])
        array_id = int(row["id"])
        if array_id == EXTRA_ID:
            continue
        rows = found.record.chunks[start:stop]
        chunks = list(zip(rows, parts[start:stop], strict=True))
        try:
            if array_id not in table.arrays:
                raise BadFrameError(f"a record of array {array_id}, which is not there")
            check_extent(rows, table.arrays[array_id].nbytes)
            patch = None if array_id in made else _direct(table.arrays[array_id], chunks)
        except BadFrameError as error:
            raise log.damaged(found.piece.segment, found.offset, str(error)) from error
        if patch is None:
            touched.add(array_id)
        else:
            direct[array_id] = patch
    states = _states(log, version, {table.arrays[i].name for i in touched})
    for array_id in sorted(touched | direct.keys()):
        if array_id in direct:
            yield direct[array_id]
            continue
        patch = _compared(table.arrays[array_id], *states)
        if patch.indices.size:
            yield patch


def _direct(info: ArrayInfo, chunks: _Chunks) -> Patch | None:
    """The patch that sparse chunks are; None where they do not say whole elements."""
    dtype = parse_dtype(info.dtype)
    unit = unit_of_dtype(info.dtype)
    if dtype.itemsize != unit or not chunks:
        return None
    found = sparse_elements(chunks, unit, info.nbytes)
    if found is None:
        return None
    indices, values = found
    return Patch(info.name, indices, values.view(dtype))


def _states(log: "Log", version: int, names: set[str]) -> tuple[StoredState | None, StoredState]:
    """The states before and after, with the arrays of ``names``; None where that before is gone."""
    after = log.state(version, names.__contains__)
    try:
        return log.state(log.last_saved(version - 1), names.__contains__), after
    except VersionError:  # the oldest version that the log has
        return None, after


def _compared(info: ArrayInfo, before: StoredState | None, after: StoredState) -> Patch:
    """The elements that differ; all of them where the array was not there, or another."""
    dtype = parse_dtype(info.dtype)
    new = after.bytes_of(info.id)
    if not dtype.itemsize:  # nothing of it can change
        return Patch(info.name, np.zeros(0, np.int64), np.zeros(0, dtype))
    values = new.view(dtype)
    known = None if before is None else before.table.arrays.get(info.id)
    if before is None or known is None or not _is_alike(known, info):
        return Patch(info.name, np.arange(values.size), values.copy())
    mixed = new ^ before.bytes_of(info.id)
    indices = np.flatnonzero(mixed.reshape(-1, dtype.itemsize).any(axis=1))
    return Patch(info.name, indices, values[indices])


def _is_alike(known: ArrayInfo, info: ArrayInfo) -> bool:
    return (known.name, known.dtype, known.shape) == (info.name, info.dtype, info.shape)
