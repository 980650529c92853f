"""Trees from states: in a structure that is known, in that of `like`, or as a dict by name."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmsb_jax._errors import ArrayNotFoundError, CorruptionError, StructureError
from mmsb_jax._globs import matcher
from mmsb_jax.bus._tree import (
    TreeShape,
    constant_of,
    is_same_kind,
    place_of,
    refuse_nnx,
    spec_of,
    subtree,
)
from mmsb_jax.core._layout import array_not_found
from mmsb_jax.core._leaves import Constant, LeafSpec, describe, rebuild, view_as
from mmsb_jax.core._names import BARE_LEAF, flatten_with_names
from mmsb_jax.store._record import ArrayInfo
from mmsb_jax.store._state import StoredState, Table


def wanted_names(arrays: Sequence[str] | None) -> Callable[[str], bool] | None:
    """Which names ``arrays`` (patterns) select; None for all."""
    if arrays is None:
        return None
    if isinstance(arrays, str):
        raise TypeError(f"arrays={arrays!r}: expected a list of patterns, such as ['params/**']")
    pattern = matcher(arrays)
    return lambda name: pattern.fullmatch(name) is not None


def read_array(state: StoredState, info: ArrayInfo, sharding: Any = None) -> Any:
    """An array of a state as the leaf that it was, the caller's own."""
    return array_of(info, state.bytes_of(info.id), sharding)


def array_of(info: ArrayInfo, raw: np.ndarray, sharding: Any = None) -> Any:
    """The leaf whose bytes are ``raw`` (uint8[nbytes]), the caller's own.

    Raises:
        CorruptionError: no leaf is what is recorded of it.
    """
    spec = spec_of(info)
    is_copied_by_jax = spec.kind == "jax" or spec.kind.startswith("key:")
    raw = raw if is_copied_by_jax else raw.copy()
    try:
        return rebuild(spec, view_as(spec, raw), sharding)
    except (TypeError, ValueError, OverflowError) as error:
        if sharding is not None:  # that is the caller's
            raise
        raise CorruptionError(
            f"array {info.name!r} is recorded as {spec}, which no leaf is: {error}"
        ) from error


def build_flat(state: StoredState, wanted: Callable[[str], bool] | None) -> dict[str, Any]:
    """Arrays, strings and integers by name; a tree that was a bare leaf is its only entry."""
    flat = {
        info.name: read_array(state, info)
        for info in state.table.arrays.values()
        if wanted is None or wanted(info.name)
    }
    for name, tagged in state.table.values.items():
        constant = constant_of(tagged)
        if constant.kind in ("str", "int") and (wanted is None or wanted(name)):
            flat[name] = constant.value
    return flat


def fits(state: StoredState, shape: TreeShape) -> bool:
    """Whether the committed tree of ``state`` had the structure ``shape``."""
    table = state.table
    members = {info.name: spec_of(info) for info in table.arrays.values() if info.member}
    arriving = {region.name: region.spec for region in shape.layout.regions}
    if members.keys() != arriving.keys() or table.values.keys() != shape.constants.keys():
        return False
    return all(is_same_kind(members[name], spec) for name, spec in arriving.items()) and all(
        table.values[name] == value or value[0] in "si" for name, value in shape.constants.items()
    )


def build_known(
    state: StoredState,
    shape: TreeShape,
    wanted: Callable[[str], bool] | None,
    arrays: Sequence[str] | None,
) -> Any:
    """The tree of ``shape``; with ``wanted`` the part that holds what ``arrays`` selects.

    Where no one node holds them, or one was made by name, they come as a dict by name.
    """
    table = state.table
    if wanted is None:
        data = [read_array(state, table.arrays[table.ids[name]]) for name in shape.names]
        return shape.build(data, table.values)
    if any(wanted(info.name) for info in table.arrays.values() if not info.member):
        return build_flat(state, wanted)
    data = [
        read_array(state, table.arrays[table.ids[name]]) if wanted(name) else name
        for name in shape.names
    ]
    place = place_of(arrays[0]) if arrays is not None and len(arrays) == 1 else ""
    part = subtree(shape.build(data, table.values), shape.names_by_leaf(), wanted, place)
    return build_flat(state, wanted) if part is None else part


def build_like(
    state: StoredState,
    like: Any,
    wanted: Callable[[str], bool] | None,
    arrays: Sequence[str] | None,
    missing: str,
) -> Any:
    """A tree with the classes, functions and shardings of ``like``.

    Raises:
        StructureError: its paths, shapes or dtypes are not those recorded; all are named.
    """
    refuse_nnx(like)
    names, leaves, treedef = flatten_with_names(like)
    recorded = recorded_in(state.table, wanted)
    names = absolute_names(names, recorded, arrays)
    built, faults, kept = [], [], []
    for name, leaf in zip(names, leaves, strict=True):
        expected = describe(leaf, name)
        known = recorded.pop(name, None)
        if known is None and missing == "keep":
            kept.append(name)
            built.append(leaf)
        elif known is None:
            faults.append(f"{name}: {expected} in `like`, not recorded")
        else:
            fault, value = _one_like(state, name, known, leaf, expected)
            faults += [f"{name}: {fault}"] if fault else []
            built.append(value)
    faults += [f"{name}: recorded, not in `like`" for name in recorded]
    if faults:
        listed = "\n".join(f"  {fault}" for fault in sorted(faults))
        raise StructureError(
            f"`like` differs from version {state.table.version} at {len(faults)} paths:\n{listed}\n"
            f"Give a tree of that structure; arrays=[…] selects a part, missing='keep' takes paths "
            f"that are not recorded from `like`."
        )
    if kept:
        warnings.warn(
            f"{len(kept)} paths are not recorded at version {state.table.version} and were taken "
            f"from `like`: {', '.join(kept)}",
            stacklevel=3,
        )
    return jax.tree_util.tree_unflatten(treedef, built)


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


def absolute_names(
    names: list[str], recorded: dict[str, Any], arrays: Sequence[str] | None
) -> list[str]:
    """Names of `like` as in the log, where it is the template of one selected subtree."""
    if arrays is None or len(arrays) != 1 or any(name in recorded for name in names):
        return names
    prefix = arrays[0].removesuffix("**").rstrip("/")
    return [prefix if name == BARE_LEAF else f"{prefix}/{name}" for name in names]


def _one_like(
    state: StoredState, name: str, known: ArrayInfo | Constant, leaf: Any, expected: Any
) -> tuple[str | None, Any]:
    """(what does not fit, the leaf)."""
    if isinstance(known, Constant) or isinstance(expected, Constant):
        if not isinstance(known, Constant) or not isinstance(expected, Constant):
            was = known if isinstance(known, Constant) else spec_of(known)
            return f"{expected} in `like`, {was} recorded", None
        if known.kind != expected.kind or (known.kind == "function" and known != expected):
            return f"{expected} in `like`, {known} recorded", None
        return None, leaf if known.kind == "function" else known.value
    spec = spec_of(known)
    if not is_same_kind(spec, expected):
        return f"{expected} in `like`, {spec} recorded", None
    return None, read_array(state, known, sharding_of(leaf, spec))


def sharding_of(leaf: Any, spec: LeafSpec) -> Any:
    """Where `like` says that an array goes; None for the default device."""
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
    """The array called ``name``.

    Raises:
        ArrayNotFoundError: there is none; the message says which are near.
    """
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
