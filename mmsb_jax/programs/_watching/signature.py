"""The signature of a call: all that JAX finds a compiled program by, and that can be seen.

Taken after the call, and of abstract values alone: an array that was donated still has its shape,
dtype and sharding.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
from jax.core import Tracer

from mmsb_jax._display.text import printable
from mmsb_jax.programs._watching.values import StaticValue, cut, cut_middle, static_value


class Fact(NamedTuple):
    """One thing that is so of an argument.

    Attributes:
        text: to be shown.
        key: what it is compared by.
    """

    text: str
    key: Any


Facts = tuple[Fact | None, ...]
"""The `FACTS` of one array, in their order; None for one that it does not say."""

FACTS = (
    "shape",
    "dtype",
    "weak type",
    "transformation",
    "device",
    "sharding",
    "memory kind",
    "committed",
    "layout",
    "static value",
)

_CONFIGURATION = (
    "check_vma",
    "eager_constant_folding",
    "jax_accurate_erf_inv",
    "jax_allow_f16_reductions",
    "jax_auto_pcast",
    "jax_check_static_indices",
    "jax_custom_jvp3",
    "jax_custom_vjp3",
    "jax_debug_key_reuse",
    "jax_default_device",
    "jax_default_matmul_precision",
    "jax_embedded_constants_max_bytes",
    "jax_enable_pgle",
    "jax_enable_x64",
    "jax_error_checking_behavior_divide",
    "jax_error_checking_behavior_nan",
    "jax_error_checking_behavior_oob",
    "jax_explicit_x64_dtypes",
    "jax_no_execution",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_pallas_enable_debug_checks",
    "jax_pallas_use_mosaic_gpu",
    "jax_pgle_profiling_runs",
    "jax_ragged_dot_use_gpu_pallas_triton_lowering",
    "jax_raise_on_ppermute_sort_diff",
    "jax_random_seed_offset",
    "jax_remat3",
    "jax_remat_barrier_no_cotangents",
    "jax_remove_size_one_mesh_axis_from_type",
    "jax_scan3",
    "jax_softmax_custom_jvp",
    "jax_threefry_gpu_kernel_lowering",
    "jax_threefry_partitionable",
    "jax_use_direct_linearize",
    "jax_use_emit_pipeline_primitive",
    "jax_use_shardy_partitioner",
    "jax_use_simplified_jaxpr_constants",
    "jax_xla_profile_version",
)
"""What JAX, of any version that is supported, compiles again for."""

_MOST_PATH = 300
_TRANSFORMATIONS = {
    "BatchTracer": "vmap",
    "DynamicJaxprTracer": "jit",
    "JVPTracer": "grad or jvp",
    "LinearizeTracer": "grad or jvp",
}


@dataclass(frozen=True, slots=True)
class Signature:
    """What can be seen of a call.

    Attributes:
        given: argument → whether by position or by keyword.
        statics: static argument → its value.
        trees: any other → its structure.
        paths: the arrays in these.
        facts: of each of the paths.
        settings: name → configuration of JAX, and the mesh in scope.
    """

    given: Mapping[str, str]
    statics: Mapping[str, StaticValue]
    trees: Mapping[str, Any]
    paths: tuple[str, ...]
    facts: tuple[Facts, ...]
    settings: Mapping[str, str]

    def like(self, other: "Signature") -> "Signature":
        """This one, which shares with ``other`` the structure and paths that are equal in both."""
        if self.trees != other.trees or self.paths != other.paths:
            return self
        return replace(self, trees=other.trees, paths=other.paths)


def signature_of(
    names: Callable[[int], str],
    statics: frozenset[int | str] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    show_values: bool,
) -> Signature:
    """The signature of a call.

    Args:
        names: how the argument at a position is called.
        statics: positions and keywords of static arguments; None where that is not known.
        args: as they were passed.
        kwargs: the same.
        show_values: whether static values are shown as they print.
    """
    given: dict[str, str] = {}
    values: dict[str, StaticValue] = {}
    trees: dict[str, Any] = {}
    paths: list[str] = []
    facts: list[Facts] = []
    known = frozenset() if statics is None else statics
    places: list[tuple[int | str, Any]] = [*enumerate(args), *sorted(kwargs.items())]
    for place, value in places:
        name = place if isinstance(place, str) else names(place)
        given[name] = "by keyword" if isinstance(place, str) else "by position"
        if place in known:
            values[name] = static_value(value, show_values)
            continue
        leaves, trees[name] = jax.tree_util.tree_flatten_with_path(value)
        for path, leaf in leaves:
            full = f"{name}{jax.tree_util.keystr(path)}"
            paths.append(printable(cut_middle(full, _MOST_PATH)))
            facts.append(_facts_of(leaf, statics is None, show_values))
    return Signature(given, values, trees, tuple(paths), tuple(facts), _settings())


def argument_names(function: Any) -> Callable[[int], str]:
    """How the argument at each position of ``function`` is called."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = inspect.Parameter
    rest = next((p.name for p in parameters if p.kind is kinds.VAR_POSITIONAL), "args")
    plain = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in plain]

    def name(place: int) -> str:
        return names[place] if place < len(names) else f"{rest}[{place - len(names)}]"

    return name


def _facts_of(leaf: Any, may_be_static: bool, show_values: bool) -> Facts:
    """What is so of one leaf: an array, a number; or, where it is static in a tree, its value."""
    value = None
    if may_be_static and isinstance(leaf, bool | int | float | complex):
        value = _value_of(leaf, show_values)
    try:
        aval = jax.typeof(leaf)
    except TypeError:
        return *[None] * (len(FACTS) - 1), _value_of(leaf, show_values)
    is_weak = bool(getattr(aval, "weak_type", False))
    array = aval.shape, aval.dtype, is_weak, _transformation(leaf)
    if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
        committed = bool(getattr(leaf, "committed", False))
        return _facts(array, (leaf.sharding, committed, _layout(leaf)), value)
    return _facts(array, (None, False, None), value)


@functools.lru_cache(maxsize=4096)
def _facts(array: tuple[Any, ...], place: tuple[Any, ...], value: Fact | None) -> Facts:
    """The same object for what is equal, so that few are kept, and are quickly compared."""
    shape, dtype, is_weak, transformation = array
    sharding, is_committed, layout = place
    return (
        _fact(shape),
        _fact(str(dtype)),
        _yes_or_no(is_weak),
        _fact(transformation),
        *((None, None, None) if sharding is None else _place(sharding)),
        _yes_or_no(is_committed),
        None if layout is None else Fact(_layout_text(layout), layout),
        value,
    )


def _value_of(leaf: Any, show_values: bool) -> Fact:
    value = static_value(leaf, show_values)
    return Fact(value.text, value)


def _transformation(leaf: Any) -> str:
    if not isinstance(leaf, Tracer):
        return "none"
    kind = type(leaf).__name__
    return _TRANSFORMATIONS.get(kind, kind)


def _place(sharding: Any) -> tuple[Fact | None, Fact | None, Fact | None]:
    """Device or sharding, and memory kind."""
    is_one = isinstance(sharding, jax.sharding.SingleDeviceSharding)
    key = sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        key = sharding.mesh, _spec_of(sharding)
    kind = sharding.memory_kind
    return (
        _fact(str(next(iter(sharding.device_set)))) if is_one else None,
        None if is_one else Fact(_sharding_text(sharding), key),
        None if kind is None else _fact(kind),
    )


def _sharding_text(sharding: Any) -> str:
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return cut(str(sharding))
    axes = ", ".join(f"{name}={size}" for name, size in sharding.mesh.shape.items())
    spec = ", ".join("None" if axis is None else str(axis) for axis in _spec_of(sharding))
    return cut(f"P({spec}) over {axes or 'no axes'}")


def _spec_of(sharding: Any) -> tuple[Any, ...]:
    """The axes of the mesh for each axis of the array, without those at the end that are None."""
    spec = tuple(sharding.spec)
    while spec and spec[-1] is None:
        spec = spec[:-1]
    return spec


def _layout(array: jax.Array) -> Any:
    if array.is_deleted():
        return None
    try:
        return array.format.layout  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:  # not all backends say it
        return None


def _layout_text(layout: Any) -> str:
    order = getattr(layout, "major_to_minor", None)
    return cut(str(layout if order is None else order))


def _fact(value: Any) -> Fact:
    return Fact(cut(str(value)), value)


_YES, _NO = Fact("yes", True), Fact("no", False)


def _yes_or_no(value: bool) -> Fact:
    return _YES if value else _NO


def _settings() -> dict[str, str]:
    found = {name: cut(str(getattr(jax.config, name, None))) for name in _CONFIGURATION}
    mesh = jax.sharding.get_abstract_mesh()
    return found | {"mesh": "none" if mesh.empty else _mesh_text(mesh)}


@functools.lru_cache(maxsize=64)
def _mesh_text(mesh: Any) -> str:
    axes = ", ".join(
        f"{name}={size} {kind.name.lower()}"
        for (name, size), kind in zip(mesh.shape.items(), mesh.axis_types, strict=True)
    )
    return cut(f"({axes})")
