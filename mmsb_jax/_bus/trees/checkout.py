"""Trees from states: in a structure that is known, in that of `like`, or as a dict by name."""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from mmsb_jax._base.arguments import show
from mmsb_jax._base.dtypes import parse_dtype
from mmsb_jax._base.errors import ArrayNotFoundError, CorruptionError, StructureError
from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._base.patterns import matcher
from mmsb_jax._bus.trees.compare import Difference, differing_leaves, differing_statics
from mmsb_jax._bus.trees.places import PlaceOf
from mmsb_jax._bus.trees.recorded import is_weak, show_pair, statics_in
from mmsb_jax._bus.trees.tree import (
    TreeShape,
    check_references,
    constant_of,
    part_of_pattern,
    recorded_leaves,
    spec_of,
)
from mmsb_jax._core.layout import array_not_found
from mmsb_jax._core.tree.leaves import Constant, LeafSpec, describe, rebuild, view_as
from mmsb_jax._core.tree.nodes import TreeNode, nodes_of
from mmsb_jax._core.tree.paths import BARE_LEAF, flatten_with_names, put_together
from mmsb_jax._store.format.record import PROGRAM_PREFIX, ArrayInfo
from mmsb_jax._store.state.state import StoredState, Table


def wanted_names(arrays: Sequence[str] | None) -> Callable[[str], bool] | None:
    """Which names ``arrays`` (patterns) select; None for all."""
    if arrays is None:
        return None
    check_patterns(arrays)
    pattern = matcher(arrays)
    return lambda name: pattern.fullmatch(name) is not None


def check_patterns(arrays: Any) -> None:
    """Refuse what is no list of patterns."""
    is_list = isinstance(arrays, Collection) and not isinstance(arrays, str)
    if not is_list or not all(isinstance(pattern, str) for pattern in arrays):
        raise TypeError(
            f"arrays={show(arrays)}: expected a list of patterns, such as ['params/**']"
        )


def read_array(state: StoredState, info: ArrayInfo, place_of: PlaceOf) -> Any:
    """An array of a state as the leaf that it was, the caller's own."""
    return array_of(info, state.bytes_of(info.id), place_of, is_weak(state.table, info.name))


def array_of(info: ArrayInfo, raw: np.ndarray, place_of: PlaceOf, weak: bool = False) -> Any:
    """The leaf whose bytes are ``raw`` (uint8[nbytes]), the caller's own."""
    spec = spec_of(info)
    sharding = place_of(info.name, spec)
    is_copied_by_jax = spec.kind == "jax" or spec.kind.startswith("key:")
    try:
        with room_for(f"array {info.name!r} of {info.nbytes:,} bytes"):
            raw = raw if is_copied_by_jax else raw.copy()
            return rebuild(spec, view_as(spec, raw), sharding, weak)
    except (TypeError, ValueError, OverflowError) as error:
        raise CorruptionError(
            f"array {info.name!r} is recorded as {spec}, which no leaf is: {error}"
        ) from error


def build_flat(
    state: StoredState, wanted: Callable[[str], bool] | None, place_of: PlaceOf
) -> dict[str, Any]:
    """Arrays, strings and integers by name; a tree that was a bare leaf is its only entry.

    What functions were compiled to is there where it is asked for.
    """
    flat = {
        info.name: read_array(state, info, place_of)
        for info in state.table.arrays.values()
        if (not info.name.startswith(PROGRAM_PREFIX) if wanted is None else wanted(info.name))
    }
    for name, tagged in state.table.values.items():
        constant = constant_of(tagged)
        if constant.kind in ("str", "int") and (wanted is None or wanted(name)):
            flat[name] = constant.value
    return flat


def fits(state: StoredState, shape: TreeShape) -> bool:
    """Whether the committed tree of ``state`` had the structure ``shape``, by what is recorded."""
    return shape.fits(recorded_leaves(state.table), statics_in(state.table))


def known_shape(state: StoredState, shape: TreeShape | None) -> TreeShape | None:
    """The structure of the committed tree of ``state``, as far as it is known here.

    Of several that fit, the one that its version had; ``shape`` is the newest.
    """
    if shape is None:
        return None
    known, version = (shape, *shape.earlier), state.table.version
    then = [one for one in known if one.since <= version]
    later = [one for one in reversed(known) if one.since > version]
    return next((one for one in (*then, *later) if fits(state, one)), None)


def build_known(
    state: StoredState,
    shape: TreeShape,
    wanted: Callable[[str], bool] | None,
    arrays: Sequence[str] | None,
    place_of: PlaceOf,
) -> Any:
    """The tree of ``shape``; with ``wanted`` the part that holds what ``arrays`` selects.

    Where no one node holds them, or one was made by name, they come as a dict by name.
    """
    table = state.table

    def leaf_of(name: str) -> Any:
        if name in table.values:
            return constant_of(table.values[name]).value
        return read_array(state, table.arrays[table.ids[name]], place_of)

    if wanted is None:
        return shape.build(leaf_of)
    if any(wanted(info.name) for info in table.arrays.values() if not info.member):
        return build_flat(state, wanted, place_of)
    place = part_of_pattern(arrays[0]) if arrays is not None and len(arrays) == 1 else ""
    node = shape.part(wanted, place)
    return build_flat(state, wanted, place_of) if node is None else shape.build(leaf_of, node)


def build_like(
    state: StoredState,
    like: Any,
    wanted: Callable[[str], bool] | None,
    arrays: Sequence[str] | None,
    missing: str,
    advice: str = "",
    cast: bool = False,
    called: str = "like",
    against: str = "",
) -> Any:
    """A tree with the classes, functions and shardings of ``like``.

    Args:
        state: what is recorded.
        like: the tree.
        wanted, arrays: what is selected, as a function and as patterns; None for all.
        missing: ``"keep"`` takes what is not recorded from ``like``.
        advice: how errors end.
        cast: whether arrays get the dtypes of ``like``.
        called: how the caller calls ``like``.
        against: what ``like`` is held against; the version of the state where nothing is said.
    """
    check_references(like)
    against = against or f"version {state.table.saved_version}"
    names, leaves, treedef = flatten_with_names(like)
    recorded = recorded_in(state.table, wanted)
    prefix = prefix_of(names, recorded, arrays)
    paths = absolute_names(names, prefix)
    expected = {path: describe(leaf, path) for path, leaf in zip(paths, leaves, strict=True)}
    differing = {
        found.path: found
        for found in differing_leaves(_leaves(recorded), expected)
        if not (cast and can_cast(found.was, found.now))
    }
    built, faults, kept = [], [], []
    for path, leaf in zip(paths, leaves, strict=True):
        is_new = path in differing and differing[path].was is None
        if is_new and missing == "keep" and not isinstance(leaf, jax.ShapeDtypeStruct):
            kept.append(path)
            del differing[path]
            built.append(leaf)
        elif path not in differing:
            fault, value = _one_like(state, path, recorded[path], leaf, expected[path])
            faults += [f"{path}: {fault}"] if fault else []
            built.append(value)
    faults += [_fault_of(found, state.table, called) for found in differing.values()]
    root, keeps = nodes_of(like, treedef), missing == "keep"
    static_faults, uncompared = _statics_like(state.table, root, prefix, wanted, keeps, called)
    faults += static_faults
    if faults:
        listed = "\n".join(f"  {fault}" for fault in sorted(faults))
        raise StructureError(
            f"`{called}` differs from {against} at {len(faults)} paths:\n{listed}\n"
            f"Give a tree of that structure{advice}."
        )
    if kept:
        warnings.warn(
            f"{len(kept)} paths are not recorded at {against} and were taken from "
            f"`{called}`: {', '.join(kept)}",
            stacklevel=3,
        )
    if uncompared:
        warnings.warn(
            f"what {len(uncompared)} static values of `{called}` were at {against} is not "
            f"recorded but for their types, and was not compared: {', '.join(uncompared)}",
            stacklevel=3,
        )
    return put_together(treedef, built, f"`{called}`")


def _leaves(recorded: Mapping[str, ArrayInfo | Constant]) -> dict[str, LeafSpec | Constant]:
    """What each array or constant is as a leaf."""
    return {
        name: spec_of(known) if isinstance(known, ArrayInfo) else known
        for name, known in recorded.items()
    }


def _fault_of(found: Difference, table: Table, called: str) -> str:
    """How a leaf of a tree differs from what is recorded, in words."""
    path, was, now = found
    if now is None:
        return f"{path}: recorded, not in `{called}`"
    if was is None:
        where = "made by name" if path in table.ids else "not recorded"
        return f"{path}: {now} in `{called}`, {where}"
    return f"{path}: {now} in `{called}`, {was} recorded"


def _statics_like(
    table: Table,
    like: TreeNode,
    prefix: str,
    wanted: Callable[[str], bool] | None,
    keeps: bool,
    called: str,
) -> tuple[list[str], list[str]]:
    """(how what is no leaf differs, paths at which it cannot be compared)."""
    recorded = statics_in(table)
    if recorded is None:
        return [], []
    arriving = {path: static for node in like.walk() for path, static in node.statics.items()}
    paths = absolute_names(arriving, prefix)
    statics = dict(zip(paths, arriving.values(), strict=True))
    faults, same = [], statics.keys() & recorded.keys()
    for path, was, now in differing_statics(recorded, statics):
        same -= {path}
        if now is None and (wanted is None or wanted(path)):
            faults.append(f"{path}: static {was} recorded, not in `{called}`")
        elif was is None and not keeps:
            faults.append(f"{path}: static {now} in `{called}`, not recorded")
        elif was is not None and now is not None:
            pair = show_pair(now, was)
            faults.append(f"{path}: static {pair[0]} in `{called}`, {pair[1]} recorded")
    opaque = [path for path in paths if path in same and statics[path].opaque]
    return faults, [f"{path} ({statics[path].text})" for path in opaque]


def recorded_in(
    table: Table, wanted: Callable[[str], bool] | None
) -> dict[str, ArrayInfo | Constant]:
    """What a tree like that of the state must have, by name; with ``wanted`` what is selected."""
    recorded: dict[str, ArrayInfo | Constant] = {
        info.name: info for info in table.arrays.values() if info.member
    }
    recorded |= {name: constant_of(value) for name, value in table.values.items()}
    if wanted is not None:
        chosen = {info.name: info for info in table.arrays.values()} | recorded
        recorded = {name: known for name, known in chosen.items() if wanted(name)}
    return recorded


def prefix_of(names: Sequence[str], recorded: Collection[str], arrays: Sequence[str] | None) -> str:
    """The path of `like` in the log, where it is the template of one selected part; else empty."""
    if arrays is None or len(arrays) != 1 or any(name in recorded for name in names):
        return ""
    return arrays[0].removesuffix("**").rstrip("/")


def absolute_names(names: Iterable[str], prefix: str) -> list[str]:
    """Names in a part as in the log."""
    if not prefix:
        return list(names)
    return [prefix if name == BARE_LEAF else f"{prefix}/{name}" for name in names]


def _one_like(
    state: StoredState, name: str, known: ArrayInfo | Constant, leaf: Any, expected: Any
) -> tuple[str | None, Any]:
    """(what does not fit, the leaf); of another dtype only where it is to be cast."""
    if isinstance(known, Constant):
        return None, leaf if known.kind == "function" else known.value
    spec = spec_like(known, expected)
    is_cast = can_cast(spec, expected)
    sharding = sharding_of(leaf, spec)
    if isinstance(getattr(sharding, "mesh", None), AbstractMesh):
        return (
            f"its sharding is of an abstract mesh, {sharding.mesh}, which has no devices. Expected "
            f"a mesh of devices that are here: jax.make_mesh",
            None,
        )
    raw = view_as(spec, state.bytes_of(known.id))
    try:
        with room_for(f"array {name!r} of {known.nbytes:,} bytes"):
            if is_cast:
                spec, raw = expected, raw.astype(parse_dtype(expected.dtype))
            else:
                raw = raw if spec.kind == "jax" else raw.copy()
            is_weakly_typed = not is_cast and is_weak(state.table, name)
            return None, rebuild(spec, raw, sharding, is_weakly_typed)
    except (TypeError, ValueError, OverflowError) as error:
        place = "" if sharding is None else f" in {sharding}"
        return f"{spec}{place} cannot be made: {error}", None


def can_cast(was: Any, now: Any) -> bool:
    """Whether an array may become one of another dtype: of a kind that can say what it says."""
    if not (isinstance(was, LeafSpec) and isinstance(now, LeafSpec)):
        return False
    if was.shape != now.shape or was.dtype == now.dtype:
        return False
    if any(spec.kind not in ("jax", "numpy", "scalar") for spec in (was, now)):
        return False
    old, new = (_rank_of(parse_dtype(spec.dtype)) for spec in (was, now))
    return old is not None and new is not None and old <= new


def _rank_of(dtype: Any) -> int | None:
    """0 for bool, 1 for integers, 2 for floats, 3 for complex numbers; None for anything else."""
    kinds = (np.bool_, np.integer, np.floating, np.complexfloating)
    for rank, kind in enumerate(kinds):
        if jax.dtypes.issubdtype(dtype, kind):
            return rank
    return None


def spec_like(info: ArrayInfo, expected: LeafSpec | Constant) -> LeafSpec:
    """What an array becomes where `like` has ``expected``: that, as long as nothing is cast."""
    spec = spec_of(info)
    if isinstance(expected, LeafSpec) and (
        (spec.dtype, spec.shape) == (expected.dtype, expected.shape)
    ):
        return expected
    return spec


def sharding_of(leaf: Any, spec: LeafSpec) -> Any:
    """Where `like` says that an array goes; None for the default device."""
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return None
    if spec.kind != "jax" and not spec.kind.startswith("key:"):
        return None
    if not isinstance(leaf, jax.ShapeDtypeStruct) and not getattr(leaf, "_committed", False):
        return None
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding) and len(sharding.spec) > len(leaf.shape):
        # JAX gives a key that was made under a mesh the axes of its data.
        axes = PartitionSpec(*sharding.spec[: len(leaf.shape)])
        return NamedSharding(sharding.mesh, axes, memory_kind=sharding.memory_kind)
    return sharding


def find_array(state: StoredState, name: str) -> ArrayInfo:
    """The array called ``name``."""
    table = state.table
    if name not in table.ids:
        raise array_not_found(name, list(table.ids))
    return table.arrays[table.ids[name]]


def check_selection(state: StoredState, arrays: Sequence[str] | None) -> None:
    """Refuse patterns that select nothing."""
    for pattern in arrays or ():
        wanted = wanted_names([pattern])
        names = [*state.table.ids, *state.table.values]
        if wanted is not None and not any(map(wanted, names)):
            raise ArrayNotFoundError(
                f"arrays={pattern!r} selects nothing at version {state.table.version}. "
                f"{array_not_found(pattern, names)}"
            )


def has_tree(state: StoredState) -> bool:
    """Whether a tree was committed: an array of it, or a constant, is there."""
    table = state.table
    return bool(table.values) or any(info.member for info in table.arrays.values())
