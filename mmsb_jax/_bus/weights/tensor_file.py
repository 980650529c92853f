"""A file of safetensors: the length of a header, the header in JSON, the bytes of the tensors.

What stands in a file may come from anywhere: all of the header is checked before a byte is read.
"""

import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmsb_jax._base.arguments import is_integer, show
from mmsb_jax._base.errors import CorruptionError, FormatError, StructureError
from mmsb_jax._base.strict_json import check_texts, parse_json
from mmsb_jax._bus.weights.tensors import ARRAY_DTYPES, Tensor, bits_of
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.files.unreadable import unreadable

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000
"""So much readers take."""
_ALIGNMENT = 8
_METADATA = "__metadata__"


class Entry(NamedTuple):
    """Where a tensor lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def file_buffers(tensors: Sequence[Tensor], metadata: dict[str, str]) -> list[Buffer]:
    """The bytes of a file: the larger dtypes first, so that all are aligned."""
    ordered = sorted(tensors, key=lambda tensor: (-bits_of(tensor.dtype), tensor.name))
    header: dict[str, Any] = {_METADATA: metadata}
    offset = 0
    for tensor in ordered:
        end = offset + tensor.data.size
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _MAX_HEADER_BYTES:
        raise StructureError(
            f"the header of {len(ordered):,} tensors takes {len(text):,} bytes, and readers take "
            f"{_MAX_HEADER_BYTES:,}. Write several files (arrays=[…])."
        )
    return [_LENGTH.pack(len(text)), text, *(tensor.data.data for tensor in ordered)]


class TensorFile:
    """A file that is there, opened to read.

    Attributes:
        path: where it is.
        entries: its tensors, by name.
        metadata: what else it says.

    Raises:
        LocationError: it cannot be read.
        CorruptionError: it is no file of safetensors, or is cut short.
        FormatError: it has a dtype that arrays cannot have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise unreadable(error, path) from error
        try:
            self.entries, self.metadata = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str, into: np.ndarray) -> None:
        """Read the bytes of a tensor into uint8[nbytes]."""
        self._read_at(self.entries[name].offset, into)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_at(self, offset: int, into: np.ndarray) -> None:
        view = into.data
        try:
            self._file.seek(offset)
            while view:
                count = self._file.readinto(view)
                if not count:
                    raise self._damaged("it is cut short")
                view = view[count:]
        except OSError as error:
            raise unreadable(error, self.path) from error

    def _read_header(self) -> tuple[dict[str, Entry], dict[str, str]]:
        try:
            size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise unreadable(error, self.path) from error
        if size < _LENGTH.size:
            raise self._damaged("it has no header")
        start = np.empty(_LENGTH.size, np.uint8)
        self._read_at(0, start)
        length = _LENGTH.unpack(start.tobytes())[0]
        if length > min(_MAX_HEADER_BYTES, size - _LENGTH.size):
            raise self._damaged(f"its header would take {length:,} bytes of {size:,}")
        text = np.empty(length, np.uint8)
        self._read_at(_LENGTH.size, text)
        return self._parse(text.tobytes(), _LENGTH.size + length, size)

    def _parse(self, text: bytes, start: int, size: int) -> tuple[dict[str, Entry], dict[str, str]]:
        try:
            header = parse_json(text)
        except ValueError as error:
            raise self._damaged(f"its header is not JSON: {error}") from error
        if not isinstance(header, dict):
            raise self._damaged("its header is no JSON object")
        metadata = header.pop(_METADATA, None) or {}
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise self._damaged(f"its {_METADATA} is no table of texts")
        try:
            check_texts(header)
        except UnicodeEncodeError as error:
            raise self._damaged(f"a name is no text: {error}") from error
        entries = {name: self._entry(name, said, start) for name, said in header.items()}
        end = start
        for entry in sorted(entries.values(), key=lambda entry: (entry.offset, entry.nbytes)):
            if entry.offset != end:
                raise self._damaged("its tensors overlap, or leave gaps")
            end += entry.nbytes
        if end != size:
            raise self._damaged(f"it has {size:,} bytes, and its header tells of {end:,}")
        return entries, metadata

    def _entry(self, name: str, said: Any, start: int) -> Entry:
        fields: dict[str, Any] = said if isinstance(said, dict) else {}
        dtype: Any = fields.get("dtype")
        shape: Any = fields.get("shape")
        offsets: Any = fields.get("data_offsets")
        is_whole = isinstance(dtype, str) and _is_sizes(shape) and _is_sizes(offsets)
        if not is_whole or len(offsets) != 2:
            raise self._damaged(f"what it says of tensor {show(name)} does not parse")
        if dtype not in ARRAY_DTYPES:
            raise FormatError(
                f"{self.path}: tensor {show(name)} is {show(dtype)}, a dtype that no array has. "
                f"Leave it out (arrays=[…]), or convert the file."
            )
        bits = math.prod(shape) * bits_of(dtype)
        begin, end = offsets
        if bits % 8 or end - begin != bits // 8:
            raise self._damaged(
                f"tensor {show(name)} of shape {shape} has {end - begin:,} bytes, and {dtype} "
                f"takes {bits // 8:,}"
            )
        return Entry(dtype, tuple(shape), start + begin, bits // 8)

    def _damaged(self, fault: str) -> CorruptionError:
        return CorruptionError(
            f"{self.path} is no whole file of safetensors: {fault}. Copy it again from where it "
            f"came from."
        )


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(is_integer(item) and item >= 0 for item in value)


def shards_of(tensors: Sequence[Tensor], most_bytes: int) -> Iterator[list[Tensor]]:
    """The tensors in groups of at most ``most_bytes``; one that is larger is alone."""
    shard, nbytes = list[Tensor](), 0
    for tensor in tensors:
        if shard and nbytes + tensor.data.size > most_bytes:
            yield shard
            shard, nbytes = [], 0
        shard.append(tensor)
        nbytes += tensor.data.size
    yield shard
