"""The difference of two states: which arrays differ, in how many bytes and elements."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Literal

import ml_dtypes
import numpy as np

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import CorruptionError, LocationError
from mmsb_jax._display.html import html_list, html_table, html_text
from mmsb_jax._display.text import aligned, printable
from mmsb_jax._store.format.record import ArrayInfo
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.state.state import StoredState, Table

_TILE_BYTES = 1 << 18
"""Bytes compared at a time: both sides and what differs stay in the second-level cache."""

_NEAR = 64
"""Commits between two versions, of which the later one is made from the earlier."""

_CONSTANT_KINDS = {"n": "none", "s": "str", "i": "int", "f": "function"}


def read_tag(tagged: str) -> dict[str, str]:
    """A constant as the log keeps it, as ``kind`` (none, str, int, function) and ``value``."""
    prefix, _, text = tagged.partition(":")
    return {"kind": _CONSTANT_KINDS.get(prefix, "unknown"), "value": text}


def show_tag(tagged: str | None) -> str:
    """A constant as a reader of Python would write it."""
    if tagged is None:
        return "–"
    kind, value = read_tag(tagged).values()
    if kind == "none":
        return "None"
    return repr(value) if kind == "str" else printable(value)


@dataclass(frozen=True, slots=True)
class ArrayDiff:
    """How one array differs.

    Attributes:
        name: its name, by which the two states are compared.
        change: whether it is in the new state only, in the old one only, or in both.
        old, new: what it is in each state; None where it is not there.
        changed_bytes: bytes that differ, in row-major order; what one state has beyond the other
            counts, so that a created or deleted array counts whole.
        changed_elements: elements with a byte that differs, counted alike; all of them where the
            dtype differs.
        non_finite_old, non_finite_new: infinities and NaNs in each state; None where it is not
            there, or its dtype has none.
    """

    name: str
    change: Literal["changed", "created", "deleted"]
    old: ArrayInfo | None
    new: ArrayInfo | None
    changed_bytes: int
    changed_elements: int
    non_finite_old: int | None
    non_finite_new: int | None

    @property
    def elements(self) -> int:
        """Elements of the larger side."""
        return max(_elements(info) for info in (self.old, self.new) if info is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of the larger side."""
        return max(info.nbytes for info in (self.old, self.new) if info is not None)

    def to_dict(self) -> dict[str, Any]:
        """The counts by name, ready for JSON."""
        return {
            "name": self.name,
            "change": self.change,
            "old": _describe(self.old),
            "new": _describe(self.new),
            "changed_bytes": self.changed_bytes,
            "bytes": self.nbytes,
            "changed_elements": self.changed_elements,
            "elements": self.elements,
            "non_finite_old": self.non_finite_old,
            "non_finite_new": self.non_finite_new,
        }

    def row(self) -> tuple[str, ...]:
        """Its line in a table with `StateDiff.COLUMNS`."""
        return (
            printable(self.name),
            self.change,
            self._show_type(),
            f"{self.changed_bytes:,} of {self.nbytes:,}",
            f"{self.changed_elements:,} of {self.elements:,}",
            self._show_non_finite(),
        )

    def _show_type(self) -> str:
        old, new = self.old or self.new, self.new or self.old
        assert old is not None
        assert new is not None
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            return printable(f"{show_type(old)} → {show_type(new)}")
        if old.kind != new.kind:
            return printable(f"{show_type(old)} ({old.kind} → {new.kind})")
        return printable(show_type(new))

    def _show_non_finite(self) -> str:
        counts = [c for c in (self.non_finite_old, self.non_finite_new) if c is not None]
        return " → ".join(f"{count:,}" for count in counts) or "–"


@dataclass(frozen=True, slots=True)
class ValueDiff:
    """How a constant differs: a leaf that is kept by value, such as a string.

    Attributes:
        name: its name.
        old, new: its tagged value (`read_tag`) in each state; None where it is not there.
    """

    name: str
    old: str | None
    new: str | None

    def to_dict(self) -> dict[str, Any]:
        """Both values, ready for JSON."""
        return {
            "name": self.name,
            "old": None if self.old is None else read_tag(self.old),
            "new": None if self.new is None else read_tag(self.new),
        }

    def __str__(self) -> str:
        return f"{printable(self.name)}: {show_tag(self.old)} → {show_tag(self.new)}"


@dataclass(frozen=True, slots=True)
class StateDiff:
    """What differs between two states. True when anything does.

    Attributes:
        old_version, new_version: the versions that were compared.
        arrays: the arrays that differ, by name.
        values: the constants that differ, by name.
        arrays_in_all: arrays that there are in either state.
        new_log: where the log of the new version is; None where both are of one log.
    """

    old_version: int
    new_version: int
    arrays: tuple[ArrayDiff, ...]
    values: tuple[ValueDiff, ...]
    arrays_in_all: int
    new_log: str | None = None

    COLUMNS = ("array", "change", "type", "bytes changed", "elements changed", "non-finite")

    @property
    def changed_bytes(self) -> int:
        """Bytes that differ, of all arrays together."""
        return sum(array.changed_bytes for array in self.arrays)

    def __bool__(self) -> bool:
        return bool(self.arrays or self.values)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "old_version": self.old_version,
            "new_version": self.new_version,
            "new_log": self.new_log,
            "differs": bool(self),
            "changed_bytes": self.changed_bytes,
            "arrays_in_all": self.arrays_in_all,
            "arrays": [array.to_dict() for array in self.arrays],
            "values": [value.to_dict() for value in self.values],
        }

    def summary(self) -> str:
        """One line."""
        constants = f"; {len(self.values)} constants" if self.values else ""
        place = "" if self.new_log is None else f" of {printable(self.new_log)}"
        return (
            f"version {self.old_version} → {self.new_version}{place}: {len(self.arrays)} of "
            f"{self.arrays_in_all} arrays differ, {self.changed_bytes:,} bytes{constants}"
        )

    def __str__(self) -> str:
        lines = [self.summary()]
        if self.arrays:
            lines += aligned([self.COLUMNS, *(array.row() for array in self.arrays)])
        return "\n".join([*lines, *map(str, self.values)])

    def _repr_html_(self) -> str:
        table = html_table((array.row() for array in self.arrays), self.COLUMNS)
        values = html_list(map(str, self.values))
        parts = [table] * bool(self.arrays) + [values] * bool(self.values)
        return html_text(self.summary()) + "".join(parts)


def show_type(info: ArrayInfo) -> str:
    """Dtype and shape of an array: ``float32[4,8]``."""
    return f"{info.dtype}[{','.join(map(str, info.shape))}]"


def _describe(info: ArrayInfo | None) -> dict[str, Any] | None:
    if info is None:
        return None
    return {
        "kind": info.kind,
        "dtype": info.dtype,
        "shape": list(info.shape),
        "bytes": info.nbytes,
    }


def _elements(info: ArrayInfo) -> int:
    elements = 1
    for length in info.shape:
        elements *= length
    return elements


def diff_versions(
    log: Log,
    old: int,
    new: int,
    wanted: Callable[[str], bool] | None = None,
    executor: Executor | None = None,
) -> StateDiff:
    """What differs between two versions of a log, in either order; 0 is the empty state.

    Args:
        log: the log.
        old: the version to compare from.
        new: the version to compare with.
        wanted: which arrays to compare, by name; None for all.
        executor: where to decode and check side by side.

    Cost: two checkouts of the arrays that a commit between the two touched, and of no others.
    """
    low, high = sorted((old, new))
    log.check_saved(low)
    log.check_saved(high)
    touched = _touched_names(log, low, high)

    def is_compared(name: str) -> bool:
        return name in touched and (wanted is None or wanted(name))

    before = log.state(low, is_compared, executor=executor)
    after = None
    if low < high <= low + _NEAR and low >= log.kept_since:
        with contextlib.suppress(CorruptionError, LocationError):  # a snapshot may lead past it
            after = log.state_after(before, high, executor)
    if after is None:
        after = log.state(high, is_compared, executor=executor)
    return diff_states(*((before, after) if old == low else (after, before)), wanted)


def diff_logs(
    ours: Log,
    old: int,
    theirs: Log,
    new: int,
    wanted: Callable[[str], bool] | None = None,
    executor: Executor | None = None,
) -> StateDiff:
    """What differs between a version of one log and a version of another, by name.

    Args:
        ours, old: the log and version to compare from; 0 is the empty state.
        theirs, new: those to compare with.
        wanted: which arrays to compare, by name; None for all.
        executor: where to decode and check side by side.

    Cost: the tables of both, and a checkout of the arrays whose digests differ.
    """
    for log, version in ((ours, old), (theirs, new)):
        log.check_saved(version)
    before, after = ours.table(old), theirs.table(new)

    def is_compared(name: str) -> bool:
        is_same = _type_and_digest(before, name) == _type_and_digest(after, name)
        return not is_same and (wanted is None or wanted(name))

    found = diff_states(
        ours.state(old, is_compared, executor=executor),
        theirs.state(new, is_compared, executor=executor),
        wanted,
    )
    return replace(found, new_log=theirs.place)


def _type_and_digest(table: Table, name: str) -> tuple[Any, ...] | None:
    array_id = table.ids.get(name)
    if array_id is None:
        return None
    return (*_type_of(table.arrays[array_id]), table.lanes_now(array_id))


def _touched_names(log: Log, low: int, high: int) -> set[str]:
    """Names of the arrays that may differ between two versions; reads no payload.

    Cost: of the commits between the two, whatever the number of arrays; where some of them are not
    there, the tables of both versions.
    """
    first, touched = max(low + 1, log.first_version), set[int]()
    for version in range(first, high + 1):
        touched.update(log.row(version).touched)
    if first > low + 1:
        before, after = log.table(low), log.table(high)
        pairs = ((before, after), (after, before))
        others = {
            info.name
            for table, other in pairs
            for array_id, info in table.arrays.items()
            if other.arrays.get(array_id) != info
        }
    else:
        others = {
            op.info.name
            for version in log.versions_with_ops()
            if first <= version <= high
            for op in log.record(version).ops
        }
    return others.union(map(log.name_of, touched))


def diff_states(
    old: StoredState, new: StoredState, wanted: Callable[[str], bool] | None = None
) -> StateDiff:
    """What differs between two states, among the arrays whose bytes either of them holds.

    Args:
        old: the state to compare from.
        new: the state to compare with.
        wanted: which names to report, of arrays and constants; None for all.

    Cost: one read of both sides.
    """
    before, after = _held(old, wanted), _held(new, wanted)
    arrays = [
        found
        for name in sorted(before.keys() | after.keys())
        if (found := _diff_array(old, before.get(name), new, after.get(name)))
    ]
    names = {info.name for state in (old, new) for info in state.table.arrays.values()}
    return StateDiff(
        old_version=old.table.version,
        new_version=new.table.version,
        arrays=tuple(arrays),
        values=tuple(_diff_values(old.table, new.table, wanted)),
        arrays_in_all=sum(map(wanted, names)) if wanted else len(names),
    )


def _held(state: StoredState, wanted: Callable[[str], bool] | None) -> dict[str, ArrayInfo]:
    """The arrays of a state whose bytes it holds, by name."""
    infos = (info for array_id, info in state.table.arrays.items() if array_id in state.words)
    return {info.name: info for info in infos if wanted is None or wanted(info.name)}


def _diff_values(
    old: Table, new: Table, wanted: Callable[[str], bool] | None
) -> Iterator[ValueDiff]:
    for name in sorted(old.values.keys() | new.values.keys()):
        before, after = old.values.get(name), new.values.get(name)
        if before != after and (wanted is None or wanted(name)):
            yield ValueDiff(name, before, after)


def _diff_array(
    old: StoredState, before: ArrayInfo | None, new: StoredState, after: ArrayInfo | None
) -> ArrayDiff | None:
    """How an array differs; None where it does not."""
    if before is None or after is None:
        state, info = (new, after) if before is None else (old, before)
        assert info is not None
        non_finite = count_non_finite(state, info)
        return ArrayDiff(
            name=info.name,
            change="created" if before is None else "deleted",
            old=before,
            new=after,
            changed_bytes=info.nbytes,
            changed_elements=_elements(info),
            non_finite_old=None if before is None else non_finite,
            non_finite_new=None if after is None else non_finite,
        )
    changed_bytes, changed_elements = _count_changed(old, before, new, after)
    if not changed_bytes and _type_of(before) == _type_of(after):
        return None
    return ArrayDiff(
        name=after.name,
        change="changed",
        old=before,
        new=after,
        changed_bytes=changed_bytes,
        changed_elements=changed_elements,
        non_finite_old=count_non_finite(old, before),
        non_finite_new=count_non_finite(new, after),
    )


def _type_of(info: ArrayInfo) -> tuple[Any, ...]:
    return info.kind, info.dtype, info.shape


def _count_changed(
    old: StoredState, before: ArrayInfo, new: StoredState, after: ArrayInfo
) -> tuple[int, int]:
    """Bytes and elements that differ."""
    item_bytes = parse_dtype(after.dtype).itemsize
    common = min(before.nbytes, after.nbytes)
    beyond = max(before.nbytes, after.nbytes) - common
    left, right = old.bytes_of(before.id)[:common], new.bytes_of(after.id)[:common]
    same_dtype = before.dtype == after.dtype
    changed_bytes, changed_elements = beyond, 0
    tile = max(1, _TILE_BYTES // max(item_bytes, 1)) * max(item_bytes, 1)
    for start in range(0, common, tile):
        mixed = left[start : start + tile] ^ right[start : start + tile]
        count = int(np.count_nonzero(mixed))
        changed_bytes += count
        if count and same_dtype:
            changed_elements += _count_items(mixed, item_bytes)
    if same_dtype:
        return changed_bytes, changed_elements + (beyond // item_bytes if beyond else 0)
    return changed_bytes, max(_elements(before), _elements(after))


def _count_items(mixed: np.ndarray, item_bytes: int) -> int:
    """Elements with a byte that is not zero."""
    if item_bytes in (1, 2, 4, 8):
        return int(np.count_nonzero(mixed.view(f"u{item_bytes}")))
    return int(np.count_nonzero(mixed.reshape(-1, item_bytes).any(axis=1)))


def count_non_finite(state: StoredState, info: ArrayInfo) -> int | None:
    """Infinities and NaNs of an array; None where its dtype has none."""
    dtype = parse_dtype(info.dtype)
    if not _is_inexact(dtype):
        return None
    values = state.bytes_of(info.id).view(dtype)
    tile = _TILE_BYTES // dtype.itemsize
    non_finite = 0
    with np.errstate(invalid="ignore"):
        for start in range(0, values.size, tile):
            part = values[start : start + tile]
            non_finite += part.size - int(np.count_nonzero(np.isfinite(part)))
    return non_finite


@functools.cache
def _is_inexact(dtype: np.dtype) -> bool:
    """Whether a dtype is one of floating-point numbers, NumPy's or another's."""
    if dtype.kind in "fc":
        return True
    try:
        ml_dtypes.finfo(dtype)
    except ValueError:
        return False
    return True
