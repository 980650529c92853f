"""What is chosen of a state, as tensors of safetensors: names, dtypes, bytes that others read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import ArrayNotFoundError, StructureError
from mmsb_jax._base.patterns import matcher
from mmsb_jax._bus.derive.log_entries import marks_in
from mmsb_jax._bus.trees.checkout import check_patterns, check_selection
from mmsb_jax._bus.trees.renamed import check_rename, is_at, path_renamed
from mmsb_jax._core.layout import array_not_found
from mmsb_jax._store.format.record import PROGRAM_PREFIX, ArrayInfo
from mmsb_jax._store.state.state import StoredState

Rename = Mapping[str, str] | Callable[[str], str]
"""Other names: a dict from paths of arrays, or of whole parts, or a function of a name."""

TENSOR_DTYPES: dict[str, str] = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "float4_e2m1fn": "F4",
}
"""Dtypes that safetensors has, by their name here."""

PACKED = "F4"
"""The dtype of which there are two elements in a byte, the first in its lower half."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array as safetensors has it.

    Attributes:
        name: what readers call it.
        dtype: what safetensors calls its dtype.
        shape: shape.
        data: its bytes, uint8[nbytes].
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray

    @property
    def schema(self) -> tuple[str, str, tuple[int, ...]]:
        """What it is, without its bytes."""
        return self.name, self.dtype, self.shape


class Selection:
    """Which arrays go out, and what they are called there.

    Args:
        arrays: a name or patterns.
        rename: other names.
    """

    def __init__(self, arrays: Any, rename: Any) -> None:
        self._patterns: Sequence[str] = [arrays] if isinstance(arrays, str) else arrays
        check_patterns(self._patterns)
        check_other_names(rename)
        self._rename: Rename | None = rename
        self._matches = matcher(self._patterns).fullmatch
        self._has_programs = any(text.startswith(PROGRAM_PREFIX) for text in self._patterns)

    def wanted(self, name: str) -> bool:
        """Whether an array is chosen: what functions were compiled to, where it is asked for."""
        if name.startswith(PROGRAM_PREFIX) and not self._has_programs:
            return False
        return self._matches(name) is not None

    def tensors(self, state: StoredState) -> list[Tensor]:
        """The tensors, by name; their bytes are views of ``state``.

        Raises:
            ArrayNotFoundError: nothing, or no array, is chosen.
            StructureError: an array that safetensors cannot hold, or that is stale; two with one
                name.
        """
        check_selection(state, self._patterns)
        chosen = [info for info in state.table.arrays.values() if self.wanted(info.name)]
        if not chosen:
            raise ArrayNotFoundError(
                f"arrays={self._patterns} selects no array at version {state.table.version}, but "
                f"strings, numbers or functions, which are no tensors. Choose arrays too."
            )
        _refuse_stale(state, chosen)
        names = renamed_names([info.name for info in chosen], self._rename)
        tensors = [
            _tensor_of(info, name, state.bytes_of(info.id))
            for info, name in zip(chosen, names, strict=True)
        ]
        return sorted(tensors, key=lambda tensor: tensor.name)


def check_other_names(rename: Any) -> None:
    """Refuse what is neither a table nor a function of names; None is fine."""
    if rename is not None and not callable(rename):
        check_rename(rename)


def renamed_names(names: Sequence[str], rename: Rename | None) -> list[str]:
    """The names that others are given, in their order."""
    if rename is None:
        return list(names)
    if isinstance(rename, Mapping):
        for path in rename:
            if not any(is_at(name, path) for name in names):
                raise array_not_found(path, names)
        found = [path_renamed(name, rename) for name in names]
    else:
        found = [_called(rename, name) for name in names]
    whose: dict[str, str] = {}
    for name, new in zip(names, found, strict=True):
        if new in whose:
            raise StructureError(
                f"rename gives both {whose[new]!r} and {name!r} the name {new!r}. Give each "
                f"its own."
            )
        whose[new] = name
    return found


def _called(rename: Callable[[str], str], name: str) -> str:
    found = rename(name)
    if not isinstance(found, str) or not found:
        raise TypeError(f"rename({name!r}) gave {show(found)}: expected a name, a string")
    return found


def _refuse_stale(state: StoredState, chosen: Sequence[ArrayInfo]) -> None:
    stale = sorted(marks_in(state.table.graph).keys() & {info.name for info in chosen})
    if stale:
        raise StructureError(
            f"{', '.join(map(repr, stale))} is stale at version {state.table.version}: what it is "
            f"made from has changed since. Compute it first: bus.propagate(), or bus.read(name) "
            f"where it is derived with when='read'."
        )


def _tensor_of(info: ArrayInfo, name: str, data: np.ndarray) -> Tensor:
    if name == "__metadata__":
        raise StructureError("a tensor cannot be called '__metadata__'. Rename it.")
    dtype = TENSOR_DTYPES.get(info.dtype)
    if dtype is None:
        raise StructureError(
            f"array {info.name!r} is {info.dtype}, which safetensors does not have. Leave it out, "
            f"or derive an array of another dtype from it: cast, or packed into uint8."
        )
    if dtype == PACKED:
        data = _packed(info, data)
    return Tensor(name, dtype, info.shape, data)


def _packed(info: ArrayInfo, elements: np.ndarray) -> np.ndarray:
    """Elements of 4 bits, a byte each, as two in a byte."""
    if elements.size % 2:
        raise StructureError(
            f"array {info.name!r} has {elements.size} elements of 4 bits, and safetensors takes "
            f"even numbers only. Pad it."
        )
    return (elements[::2] & 15) | (elements[1::2] << 4)


def unpacked(data: np.ndarray) -> np.ndarray:
    """Elements of 4 bits, a byte each, of two in a byte."""
    elements = np.empty(2 * data.size, np.uint8)
    elements[::2], elements[1::2] = data & 15, data >> 4
    return elements


def bits_of(dtype: str) -> int:
    """Bits of an element of a dtype of safetensors."""
    return 4 if dtype == PACKED else 8 * parse_dtype(ARRAY_DTYPES[dtype]).itemsize


ARRAY_DTYPES = {tensor: array for array, tensor in TENSOR_DTYPES.items()}
"""The dtypes by what safetensors calls them."""
