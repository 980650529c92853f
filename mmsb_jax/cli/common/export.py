"""Arrays of a state as files that NumPy reads: one ``.npz``, or a directory of ``.npy``."""

import contextlib
import errno
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.encoding.digest import ZERO
from mmsb_jax._store.format.record import ArrayInfo
from mmsb_jax._store.query.diff import read_tag
from mmsb_jax._store.state.state import StoredState
from mmsb_jax.cli.common.command import local_file

MANIFEST = "mmsb.json"
"""Name of the member that says what each array is."""

_FORMAT = "mmsb-arrays-1"
_MAX_PART_BYTES = 200


def check_target(out: str, force: bool) -> Path:
    """The place of ``out``, where it may be written to: a file ``.npz``, or a directory.

    Raises:
        LocationError: something is there already and ``force`` is not given, or it is a directory
            where a file is to be, or the other way round; ``out`` names a file of another kind.
    """
    target = local_file(out)
    if _is_file(target):
        check_new_file(target, force)
        return target
    _check_parent(target)
    if os.path.lexists(target) and not target.is_dir():
        raise LocationError(
            f"{target} is not a directory. Expected a name that ends in .npz, or a directory."
        )
    # A version is no suffix: v1.5 is what a directory may be called.
    is_kind = target.suffix[1:2].isalpha() and not out.endswith("/") and not target.is_dir()
    if is_kind:
        raise LocationError(
            f"{target} names a file of a kind that is not written here: expected a name that ends "
            f"in .npz, or a directory. Where it is to be a directory: {target}/"
        )
    if target.exists() and any(target.iterdir()) and not force:
        raise LocationError(f"{target} exists already. Give another place, or --force.")
    return target


def check_new_file(target: Path, force: bool) -> None:
    """Refuse a place where a file must not be put.

    Raises:
        LocationError: a file is there already and ``force`` is not given; a directory is, or what
            is no file: that would be replaced, and not written to; its directory is not there.
    """
    _check_parent(target)
    if target.is_dir():
        raise LocationError(f"{target} is a directory, and a file of that name is to be written.")
    if target.exists() and not target.is_file():
        raise LocationError(f"{target} is no file. Write to one, and send on what is in it.")
    if os.path.lexists(target) and not force:
        raise LocationError(f"{target} exists already. Give another place, or --force.")


def _check_parent(target: Path) -> None:
    parent = target.absolute().parent
    if not parent.is_dir():
        raise LocationError(f"{parent} is not a directory. Make it first.")


def export(state: StoredState, facts: dict[str, Any], target: Path) -> None:
    """Write the arrays that ``state`` holds, and a manifest with ``facts``, to ``target``.

    A file is put in place as a whole. In a directory the manifest comes last; files of other
    names are left alone.

    Raises:
        LocationError: the disk refuses.
    """
    infos = [info for info in state.table.arrays.values() if info.id in state.words]
    manifest = json.dumps(_manifest(state, infos, facts), indent=1).encode()
    try:
        if _is_file(target):
            _write_npz(state, infos, manifest, target)
        else:
            _write_directory(state, infos, manifest, target)
    except OSError as error:
        code = error.errno or errno.EIO
        raise LocationError(f"{target} cannot be written: {os.strerror(code)}.") from error


def _is_file(target: Path) -> bool:
    return target.name.endswith(".npz")


def _manifest(state: StoredState, infos: list[ArrayInfo], facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        **facts,
        "arrays": {
            info.name: {
                "member": member_of(info),
                "dtype": info.dtype,
                "stored_dtype": stored_dtype(parse_dtype(info.dtype)).str,
                "shape": list(info.shape),
                "kind": info.kind,
                "digest": "{:08x}{:08x}".format(*state.table.lanes.get(info.id, ZERO)),
            }
            for info in infos
        },
        "values": {name: read_tag(value) for name, value in state.table.values.items()},
    }


def stored_dtype(dtype: np.dtype) -> np.dtype:
    """What NumPy's file format can name: ``dtype`` itself, or unsigned integers as wide."""
    is_registered_by_others = dtype.isbuiltin == 2
    return np.dtype(f"u{dtype.itemsize}") if is_registered_by_others else dtype


def member_of(info: ArrayInfo) -> str:
    """The name of an array's file: its own, or one by number where that could mislead.

    A name comes from whoever wrote the log: it may climb out of a directory, hide, collide with
    another file, or be longer than a file system allows.
    """
    parts = info.name.split("/")
    is_plain = (
        info.name.isprintable()
        and "\\" not in info.name
        and all(
            part
            and not part.startswith((".", "@"))
            and not part.endswith(".npy")
            and len(part.encode()) <= _MAX_PART_BYTES
            for part in parts
        )
    )
    is_plain &= len(info.name.encode()) <= 4 * _MAX_PART_BYTES and info.name != MANIFEST
    return f"{info.name}.npy" if is_plain else f"@{info.id}.npy"


def _stored(state: StoredState, info: ArrayInfo) -> np.ndarray:
    raw = state.bytes_of(info.id)
    return raw.view(stored_dtype(parse_dtype(info.dtype))).reshape(info.shape)


def _write_npz(state: StoredState, infos: list[ArrayInfo], manifest: bytes, target: Path) -> None:
    with _replacing(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for info in infos:
            # A ZipInfo without a time: the same state makes the same file.
            member = zipfile.ZipInfo(member_of(info))
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, _stored(state, info), allow_pickle=False)
        archive.writestr(zipfile.ZipInfo(MANIFEST), manifest)


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``target`` once it is whole."""
    draft = target.with_name(f"{target.name}.{os.getpid()}.draft")
    try:
        with open(draft, "xb") as file:
            yield file
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _write_directory(
    state: StoredState, infos: list[ArrayInfo], manifest: bytes, target: Path
) -> None:
    target.mkdir(exist_ok=True)
    # What an earlier manifest says is not true from here on.
    (target / MANIFEST).unlink(missing_ok=True)
    for info in infos:
        place = target / member_of(info)
        place.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(place) as file:
            np.lib.format.write_array(file, _stored(state, info), allow_pickle=False)
    with _replacing(target / MANIFEST) as file:
        file.write(manifest)
