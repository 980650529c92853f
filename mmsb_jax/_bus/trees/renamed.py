"""A state under other names: what was recorded at one path, and is at another in a tree of now."""

from collections.abc import Mapping
from dataclasses import replace

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import StructureError
from mmsb_jax._bus.trees.recorded import path_in_entry
from mmsb_jax._core.layout import array_not_found
from mmsb_jax._store.state.state import StoredState


def check_rename(rename: object) -> None:
    """Refuse what is no table of paths."""
    if not isinstance(rename, Mapping) or not all(
        isinstance(path, str) and path.strip("/") == path != ""
        for item in rename.items()
        for path in item
    ):
        raise TypeError(
            f"rename={show(rename)}: expected a dict from paths that were recorded to paths in the "
            f"tree, such as {{'params/old': 'params/new'}}"
        )


def renamed(state: StoredState, rename: Mapping[str, str]) -> StoredState:
    """A state whose leaves have other names; it shares the bytes, and is only to be read.

    Args:
        state: the state.
        rename: path of a leaf, or of a part of the tree, → its path from now on.

    Raises:
        ArrayNotFoundError: nothing is recorded at a path.
        StructureError: two leaves have one path then.
    """
    table = state.table
    known = [*table.ids, *table.values]
    for old in rename:
        if not any(is_at(name, old) for name in known):
            parts = {name[:i] for name in known for i, c in enumerate(name) if c == "/"}
            raise array_not_found(old, [*parts, *known])
    names = {name: path_renamed(name, rename) for name in known}
    if len(set(names.values())) < len(names):
        twice = [new for old, new in names.items() if old != new and _is_taken(names, old, new)]
        raise StructureError(f"rename={dict(rename)}: two leaves would be at {twice[0]!r}")
    other = StoredState(table.log_id)
    other.words = state.words
    other.table = replace(
        table,
        arrays={i: replace(info, name=names[info.name]) for i, info in table.arrays.items()},
        ids={names[name]: array_id for name, array_id in table.ids.items()},
        values={names[name]: value for name, value in table.values.items()},
        graph={_entry_renamed(entry, rename): text for entry, text in table.graph.items()},
    )
    return other


def is_at(name: str, path: str) -> bool:
    """Whether a name is that of a path, or of what lies below it."""
    return name == path or name.startswith(f"{path}/")


def _is_taken(names: Mapping[str, str], old: str, new: str) -> bool:
    return any(other != old and then == new for other, then in names.items())


def path_renamed(name: str, rename: Mapping[str, str]) -> str:
    """A name by a table of paths, of which the longest that leads to it counts."""
    for old in sorted(rename, key=len, reverse=True):
        if is_at(name, old):
            return rename[old] + name[len(old) :]
    return name


def _entry_renamed(entry: str, rename: Mapping[str, str]) -> str:
    path = path_in_entry(entry)
    return entry if path is None else entry[: len(entry) - len(path)] + path_renamed(path, rename)
