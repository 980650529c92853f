"""Files of safetensors as trees."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mmsb_jax._base.arguments import check_choice, check_flag, path_text, show
from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import ArrayNotFoundError, CorruptionError, FormatError, LocationError
from mmsb_jax._base.memory_limit import check_room, room_for
from mmsb_jax._base.patterns import matcher
from mmsb_jax._base.strict_json import parse_json
from mmsb_jax._bus.trees.checkout import build_like, wanted_names
from mmsb_jax._bus.trees.tree import tag_constant
from mmsb_jax._bus.weights.tensor_file import TensorFile
from mmsb_jax._bus.weights.tensors import (
    ARRAY_DTYPES,
    PACKED,
    Rename,
    check_other_names,
    renamed_names,
    unpacked,
)
from mmsb_jax._bus.weights.version_index import INDEX_NAME
from mmsb_jax._core.layout import array_not_found
from mmsb_jax._core.tree.leaves import Constant, LeafSpec, describe
from mmsb_jax._core.tree.paths import flatten_with_names
from mmsb_jax._store.files.unreadable import unreadable
from mmsb_jax._store.format.record import ArrayInfo
from mmsb_jax._store.state.state import StoredState, word_count

_ADVICE = (
    "; arrays=[…] selects tensors, rename= gives them the paths of `like`, missing='keep' takes "
    "from `like` what is not there, cast=True changes dtypes"
)


def from_safetensors(
    path: str | os.PathLike[str],
    *,
    like: Any = None,
    arrays: str | Sequence[str] | None = None,
    rename: Rename | None = None,
    missing: Literal["error", "keep"] = "error",
    cast: bool = False,
) -> Any:
    """The tensors of a checkpoint: a dict of NumPy arrays by name, or a tree like ``like``.

    Args:
        path: a file of safetensors, a directory of them, or the index of one
            (``model.safetensors.index.json``).
        like: a tree that gives classes, functions, dtypes and shardings; `jax.ShapeDtypeStruct`
            will do for arrays. What of it is no array (strings, None, functions) stays. Its paths
            are the names of tensors.
        arrays: patterns (``model.layers.*``) that select tensors, by the names that they have in
            the file; all for None.
        rename: name in the file → name in the tree: a dict, or a function of the name such as
            ``lambda name: name.replace(".", "/")``.
        missing: ``"keep"`` takes what is not in the file from ``like``, with a warning.
        cast: whether arrays get the dtypes of ``like``: from bools to integers to floats to complex
            numbers, and not back.

    Raises:
        LocationError: it cannot be read.
        CorruptionError: a file is cut short, or is none of safetensors.
        FormatError: a tensor has a dtype that arrays cannot have, or the directory is what changed
            between two versions, and no checkpoint.
        ArrayNotFoundError: a pattern, or a name to be changed, that is not there.
        StructureError: ``like`` differs; every path is named.

    Cost: one read of what is selected; with ``like``, another copy to where it goes.

    >>> import os, tempfile
    >>> import jax, jax.numpy as jnp
    >>> import mmsb_jax as mmsb
    >>> bus = mmsb.open()
    >>> _ = bus.commit({"params": {"w": jnp.ones(2, "bfloat16")}, "step": 3})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = bus.to_safetensors(
    ...         os.path.join(folder, "w.safetensors"), arrays="params", rename={"params": "model"}
    ...     )
    ...     flat = mmsb.from_safetensors(path)
    ...     tree = mmsb.from_safetensors(
    ...         path, like={"params": {"w": jnp.zeros(2)}}, rename={"model": "params"}, cast=True
    ...     )
    >>> list(flat), tree
    (['model/w'], {'params': {'w': Array([1., 1.], dtype=float32)}})
    """
    check_choice("missing", missing, "error", "keep")
    check_flag("cast", cast)
    check_other_names(rename)
    patterns = [arrays] if isinstance(arrays, str) else arrays
    wanted = wanted_names(patterns) or _every
    found, names = list[_Found](), list[str]()
    place = Path(path_text("path", path))
    for file in _files_of(place):
        with TensorFile(file) as opened:
            names += opened.entries
            found += [_read(opened, name) for name in opened.entries if wanted(name)]
    _check_names(names, patterns, place)
    paths = renamed_names([tensor.name for tensor in found], rename)
    if like is None:
        return {path: tensor.array() for path, tensor in zip(paths, found, strict=True)}
    state = _state_of(dict(zip(paths, found, strict=True)), like)
    return build_like(
        state, like, None, None, missing, _ADVICE, cast=cast, against=f"the tensors in {place}"
    )


class _Found(NamedTuple):
    """A tensor that was read; its bytes in whole words."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    words: np.ndarray

    def array(self) -> np.ndarray:
        dtype = parse_dtype(self.dtype)
        nbytes = math.prod(self.shape) * dtype.itemsize
        return self.words.view(np.uint8)[:nbytes].view(dtype).reshape(self.shape)


def _every(name: str) -> bool:
    del name
    return True


def _read(file: TensorFile, name: str) -> _Found:
    entry = file.entries[name]
    dtype = ARRAY_DTYPES[entry.dtype]
    nbytes = math.prod(entry.shape) * parse_dtype(dtype).itemsize
    what = f"tensor {show(name)} of {file.path}"
    check_room(nbytes, what)
    with room_for(what):
        words = np.zeros(word_count(nbytes), np.uint32)
        data = words.view(np.uint8)[:nbytes]
        if entry.dtype == PACKED:
            packed = np.empty(entry.nbytes, np.uint8)
            file.read(name, packed)
            data[:] = unpacked(packed)
        else:
            file.read(name, data)
    if dtype == "bool" and data.max(initial=0) > 1:
        raise CorruptionError(f"{what} holds bytes that are no bool. Convert it to uint8.")
    return _Found(name, dtype, entry.shape, words)


def _files_of(path: Path) -> list[Path]:
    """The files of a checkpoint."""
    try:
        if not path.is_dir():
            return _files_of_index(path) if path.suffix == ".json" else [path]
        if (path / INDEX_NAME).is_file():
            return _files_of_index(path / INDEX_NAME)
        files = sorted(file for file in path.iterdir() if file.suffix == ".safetensors")
    except OSError as error:
        raise unreadable(error, path) from error
    if not files:
        raise LocationError(f"{path} holds no file of safetensors. Give the directory of some.")
    return files


def _files_of_index(path: Path) -> list[Path]:
    try:
        said = parse_json(path.read_bytes())
    except OSError as error:
        raise unreadable(error, path) from error
    except ValueError as error:
        raise CorruptionError(f"{path} is not JSON: {error}") from error
    files = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(files, dict) or not all(map(_is_name, files.values())):
        raise CorruptionError(f"{path} has no weight_map of names of files beside it.")
    metadata = said.get("metadata")
    if isinstance(metadata, dict) and "delta_encoding" in metadata:
        raise FormatError(
            f"{path.parent} holds what changed since version {metadata.get('base_version')}, and "
            f"no checkpoint. Give a full version."
        )
    return [path.parent / name for name in sorted(set(files.values()))]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and not set(value) & {"/", "\0"}


def _check_names(names: Sequence[str], patterns: Sequence[str] | None, place: Path) -> None:
    """Refuse names that are there twice, and patterns that select nothing."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CorruptionError(f"{place}: tensor {show(twice)} is in two files. Copy it again.")
    for pattern in patterns or ():
        if not any(map(matcher([pattern]).fullmatch, names)):
            raise ArrayNotFoundError(
                f"arrays={pattern!r} selects nothing in {place}. {array_not_found(pattern, names)}"
            )


def _state_of(found: Mapping[str, _Found], like: Any) -> StoredState:
    """The tensors as a state of which a tree like ``like`` can be made."""
    names, leaves, _ = flatten_with_names(like)
    specs = {name: describe(leaf, name) for name, leaf in zip(names, leaves, strict=True)}
    state = StoredState(bytes(16))
    table = state.table
    for number, (path, tensor) in enumerate(found.items(), start=1):
        kind = _kind_of(specs.get(path))
        table.arrays[number] = ArrayInfo(number, path, kind, tensor.dtype, tensor.shape, True)
        table.ids[path] = number
        state.words[number] = tensor.words
    for name, spec in specs.items():
        if isinstance(spec, Constant) and name not in table.ids:
            table.values[name] = tag_constant(spec)
    return state


def _kind_of(spec: LeafSpec | Constant | None) -> str:
    """The kind of leaf that a tensor is: a key where `like` has one, whose data it then is."""
    if isinstance(spec, LeafSpec) and spec.kind.startswith("key:"):
        return spec.kind
    return "numpy"
