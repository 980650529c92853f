"""Versions of a log as checkpoints of Orbax."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import LocationError, StructureError
from mmsb_jax._bus.engine.session import Session
from mmsb_jax._bus.orbax.files import METRICS_ITEM, is_there, local_path
from mmsb_jax._bus.orbax.library import import_orbax
from mmsb_jax._bus.orbax.nested import empty_nodes, nested
from mmsb_jax._bus.orbax.notes import CheckpointNote, unpack
from mmsb_jax._bus.trees.checkout import (
    build_like,
    check_selection,
    read_array,
    recorded_in,
    wanted_names,
)
from mmsb_jax._bus.trees.places import PlaceOf
from mmsb_jax._bus.trees.tree import spec_of
from mmsb_jax._core.tree.leaves import Constant, LeafSpec
from mmsb_jax._core.tree.paths import BARE_LEAF, key_in_name
from mmsb_jax._store.format.record import ArrayInfo
from mmsb_jax._store.query.commit import Commit, read_extra_in_force
from mmsb_jax._store.state.state import StoredState, Table

Wanted = Callable[[str], bool] | None


class Version(NamedTuple):
    """A version that becomes a checkpoint: its commit, and the extra in force."""

    commit: Commit
    extra: Any

    @property
    def step(self) -> int:
        """The number of the checkpoint: the step; the version, where no step was said."""
        return self.commit.version if self.commit.step is None else self.commit.step


def to_orbax(
    session: Session,
    commit_of: Callable[[int], Commit],
    path: Any,
    refs: Any,
    steps: Any,
    arrays: Sequence[str] | None,
    like: Any,
) -> list[Path]:
    """Write versions as checkpoints, one after the other; see `Bus.to_orbax`."""
    import_orbax()
    wanted = wanted_names(arrays)
    if like is not None and jax.tree_util.all_leaves([like]):
        raise StructureError(f"like={show(like)} is one leaf, which Orbax saves in a tree alone")
    with session.lock:
        session.settle()
        numbers = _numbers(session, refs, steps)
        for number in numbers:
            session.log.check_state(number)
        versions = [
            Version(commit_of(number), read_extra_in_force(session.log, number).value)
            for number in numbers
        ]
        _check_extras(versions)
        place = _target(path, versions)
        check_savable([(number, session.log.table(number)) for number in numbers], wanted)
    is_named = any(version.extra is not None for version in versions)
    written = []
    for number, version in zip(numbers, versions, strict=True):
        with session.lock:
            session.settle()
            state = session.state_now(number, wanted)
            check_selection(state, arrays)
            if like is None:
                tree = build_nested(state, wanted, session.places.of)
            else:
                tree = build_like(state, like, wanted, arrays, "error")
            del state
        written.append(write_checkpoint(place, version, tree, is_named))
        del tree
    return written


def _numbers(session: Session, refs: Any, steps: Any) -> list[int]:
    """The versions that are given by refs or by steps, each once; the newest for neither."""
    if refs is not None and steps is not None:
        raise ValueError("give one of refs and steps, or neither for the newest version")
    if refs is None and steps is None:
        if not session.log.version:
            raise session.log.no_version(0)
        return [session.log.version]
    name, given = ("refs", refs) if steps is None else ("steps", steps)
    given = [given] if isinstance(given, int | str | Commit) else given
    if not isinstance(given, Iterable) or isinstance(given, bytes | dict):
        raise TypeError(f"{name}={show(given)}: expected one of them, or a list")
    if steps is None:
        found = [session.number_of("refs", ref) for ref in given]
    else:
        found = [session.version_of(None, step) for step in given]
    if 0 in found:
        raise session.log.no_version(0)
    return list(dict.fromkeys(found))


def _target(path: Any, versions: Sequence[Version]) -> Path:
    """The directory for the checkpoints of some versions, in which none of them may be yet."""
    place = local_path("path", path)
    counts = Counter(version.step for version in versions)
    twice = [step for step, times in counts.items() if times > 1]
    if twice:
        raise ValueError(
            f"several of the versions are of the steps {', '.join(map(str, twice))}, and a "
            f"directory holds one checkpoint a step. Give one of each in refs=…."
        )
    there = [str(step) for step in counts if is_there(place / str(step))]
    if there:
        raise LocationError(
            f"{place} has the steps {', '.join(there)} already. Leave them out with refs=…, or "
            f"give another directory."
        )
    if is_there(place) and not place.is_dir():
        raise LocationError(f"{place} is a file. Give a directory.")
    return place


def _check_extras(versions: Sequence[Version]) -> None:
    """Refuse an extra of bytes, which is no JSON."""
    raw = [version.commit.version for version in versions if isinstance(version.extra, bytes)]
    if raw:
        raise StructureError(
            f"an extra of bytes, which is no JSON, is in force at the versions "
            f"{', '.join(map(str, raw))}. Commit JSON as extra=…, or an array of the bytes."
        )


def check_savable(tables: Sequence[tuple[int, Table]], wanted: Wanted) -> None:
    """Refuse versions with leaves that Orbax cannot save; every one is named."""
    faults: dict[str, int] = {}
    for number, table in tables:
        for fault in _faults(table, wanted):
            faults.setdefault(fault, number)
    if faults:
        listed = "\n".join(f"  {fault} (version {n})" for fault, n in sorted(faults.items()))
        raise StructureError(
            f"Orbax cannot save {len(faults)} leaves:\n{listed}\nSelect the others with arrays=…."
        )


def _faults(table: Table, wanted: Wanted) -> list[str]:
    """What Orbax cannot save of a tree, a line each."""
    recorded = _recorded(table, wanted)
    if not recorded and empty_nodes(table, ()).keys() <= {BARE_LEAF}:
        return [f"{BARE_LEAF}: the tree has no leaves"]
    leaves = {
        name: known if isinstance(known, Constant) else spec_of(known)
        for name, known in recorded.items()
    }
    if BARE_LEAF in leaves:
        return [f"{BARE_LEAF}: the tree is {leaves[BARE_LEAF]}, which is no tree there"]
    reasons = {name: _reason(leaf) for name, leaf in leaves.items()}
    faults = [f"{name}: {leaves[name]}, {reason}" for name, reason in reasons.items() if reason]
    joined = Counter(map(_name_in_orbax, leaves))
    twice = [name for name in leaves if joined[_name_in_orbax(name)] > 1]
    faults += [f"{name}: is {_name_in_orbax(name)!r} there, as another is" for name in twice]
    texts = [
        name for name, leaf in leaves.items() if isinstance(leaf, Constant) and leaf.kind == "str"
    ]
    marked = [name for name in texts if {"~", "/"} & set(_name_in_orbax(name))]
    return faults + [f"{name}: a text at a key with '~' or '/'" for name in marked]


def _recorded(table: Table, wanted: Wanted) -> dict[str, ArrayInfo | Constant]:
    """The leaves of the tree; where there are none, the arrays that were made by name."""
    recorded = recorded_in(table, wanted)
    if recorded or wanted is not None:
        return recorded
    return {info.name: info for info in table.arrays.values()}


def _name_in_orbax(name: str) -> str:
    return ".".join(map(key_in_name, name.split("/")))


def _reason(leaf: LeafSpec | Constant) -> str:
    """Why Orbax cannot save a leaf; empty where it can."""
    if isinstance(leaf, Constant):
        return "" if leaf.kind in ("none", "str") else "which it has no form for"
    if leaf.kind == "complex":
        return "which it has no form for"
    if 0 in leaf.shape:
        return "which has no elements"
    return "" if _has_dtype(leaf.dtype) else "a dtype that TensorStore does not have"


def _has_dtype(name: str) -> bool:
    import tensorstore

    try:
        tensorstore.dtype(parse_dtype(name).name)
    except (TypeError, ValueError):
        return False
    return True


def build_nested(state: StoredState, wanted: Wanted, place_of: PlaceOf) -> Any:
    """The tree that is recorded as nested dicts and lists; without one, the arrays by name.

    Args:
        state: what is recorded.
        wanted: which leaves; None for all.
        place_of: where arrays of JAX go.
    """
    return _build(state.table, wanted, lambda info: read_array(state, info, place_of))


def outline_of(state: StoredState, wanted: Wanted, place_of: PlaceOf) -> Any:
    """As `build_nested`, with what an array is in its place."""
    del place_of
    return _build(state.table, wanted, lambda info: _outline(spec_of(info)))


def _outline(spec: LeafSpec) -> jax.ShapeDtypeStruct:
    with jax.enable_x64(True):
        return jax.ShapeDtypeStruct(spec.shape, parse_dtype(spec.dtype))


def _build(table: Table, wanted: Wanted, leaf_of: Callable[[ArrayInfo], Any]) -> Any:
    recorded = _recorded(table, wanted)
    flat: dict[str, Any] = {
        name: known.value if isinstance(known, Constant) else leaf_of(known)
        for name, known in recorded.items()
    }
    return nested(flat if wanted else flat | empty_nodes(table, flat))


def write_checkpoint(place: Path, version: Version, tree: Any, named: bool) -> Path:
    """Write a checkpoint, whole or not at all; its directory.

    Args:
        place: the directory of all of them.
        version: what it is of.
        tree: its tree.
        named: whether the tree is an item with a name, as it is beside an extra.
    """
    orbax = import_orbax()
    said = CheckpointNote.of(version.commit.note)
    trees, texts = unpack(said.items, tree, version.extra, named)
    items = {name: orbax.args.JsonSave(value) for name, value in texts.items()}
    handlers = {name: orbax.JsonCheckpointHandler() for name in texts}
    for name, part in trees.items():
        part = _as_arrays(part)
        if any(isinstance(leaf, str) for leaf in jax.tree_util.tree_leaves(part)):
            items[name] = orbax.args.PyTreeSave(part)
            handlers[name] = orbax.PyTreeCheckpointHandler()
        else:  # what most code asks for when it restores
            items[name] = orbax.args.StandardSave(part)
            handlers[name] = orbax.StandardCheckpointHandler()
    if said.metrics is not None:
        items[METRICS_ITEM] = orbax.args.JsonSave(said.metrics)
        handlers[METRICS_ITEM] = orbax.JsonCheckpointHandler(filename=METRICS_ITEM)
    path = place / str(version.step)
    try:
        with orbax.Checkpointer(orbax.CompositeCheckpointHandler(**handlers)) as saver:
            saver.save(path, args=orbax.args.Composite(**items), custom_metadata=dict(said.custom))
    except OSError as error:
        raise LocationError(
            error.errno,
            f"{path} cannot be written: {error}. See to the disk; the steps before it are whole.",
        ) from error
    return path


def _as_arrays(tree: Any) -> Any:
    """NumPy's scalars as arrays, which keep their dtypes."""
    return jax.tree_util.tree_map(
        lambda leaf: np.asarray(leaf) if isinstance(leaf, np.generic) else leaf, tree
    )
