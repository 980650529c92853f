"""Bodies: traced functions that can be told apart, so that equal ones are compiled once.

Two functions are the same when their jaxprs are, compared as structures and not as text: arrays
that they close over, and numbers written in them, are arguments of the body and no part of it.
Rules for derivatives and batching are left out, since nothing here differentiates or batches.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import xxhash
from jax.experimental import checkify

from mmsb_jax._core.settings import any_settings
from mmsb_jax._core.tree.leaves import Constant, LeafSpec, describe
from mmsb_jax._core.tree.nodes import TreePart
from mmsb_jax._core.tree.paths import name_of_path

_RULES = frozenset(
    {"jvp_jaxpr_fun", "jvp", "fwd_jaxpr_thunk", "bwd", "fwd", "rule", "out_trees", "name"}
)
"""Parameters of calls that say how to differentiate or batch them, or what they are called."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

_HOLDERS = frozenset({"jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd", "rule"})
"""Parameters that are functions of the user's, whose closures nobody can see into."""
_LIGHT_BYTES = 4096
_WIDE = frozenset({"int64", "uint64", "float64", "complex128"})


@dataclass(frozen=True, eq=False)
class Body:
    """A function of typed arrays, traced; equal to every body of the same structure.

    Attributes:
        jaxpr: what it does.
        inputs: what its arguments are.
        hoisted: what its constants are, in the order in which `call` takes them.
        outputs: what it returns, leaf by leaf.
        is_wide: whether it was traced with JAX's 64-bit types.
        has_checks: whether it holds checks of `checkify` that are not discharged.
        can_fail: whether it holds a check or a callback, and so may raise while it runs.
        is_light: whether it holds little data: what functions inside it, and rules for their
            derivatives, close over is a part of it.
    """

    jaxpr: Any
    inputs: tuple[LeafSpec, ...]
    hoisted: tuple[LeafSpec, ...]
    outputs: tuple[LeafSpec, ...]
    is_wide: bool
    has_checks: bool
    can_fail: bool
    is_light: bool
    _key: Hashable
    _hash: int

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Body) and self._hash == other._hash and self._key == other._key
        )

    def __hash__(self) -> int:
        return self._hash

    def call(self, hoisted: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
        """The outputs, as arrays of ``outputs`` (a PRNG key as its data); pure, to be traced."""
        keyed = list(map(_wrapped, arguments, self.inputs))
        constants = list(map(_wrapped, hoisted, self.hoisted))
        return [_unwrapped(out) for out in _evaluate(self.jaxpr, constants, keyed)]


@dataclass(frozen=True)
class Traced:
    """What tracing a function gave.

    Attributes:
        body: the part that other functions may share.
        constants: the values of the body's constants, for this function.
        treedef: structure of what the function returns.
        names: name of each leaf that it returns, as a path; empty for a bare leaf.
        fingerprint: a hash of what it does and of its constants, the same in every process.
    """

    body: Body
    constants: tuple[Any, ...]
    treedef: Any
    names: tuple[str, ...]
    fingerprint: str


def trace(function: Callable[..., Any], arguments: Any, specs: Sequence[LeafSpec]) -> Traced:
    """Trace ``function`` once.

    Args:
        function: a pure function of JAX arrays.
        arguments: its positional arguments as a tuple of pytrees, or `TreePart` of such, with a
            `Slot` in the place of each array; other leaves are passed as they are.
        specs: what the array of each slot is.
    """
    is_wide = bool(jax.config.read("jax_enable_x64")) or any(
        spec.dtype in _WIDE for spec in specs if (spec.kind not in ("int", "float", "complex"))
    )
    leaves, treedef = jax.tree_util.tree_flatten(arguments, is_leaf=lambda x: isinstance(x, Slot))
    returned: list[Any] = []

    def flat(*arrays: Any) -> list[Any]:
        filled = [arrays[leaf.place] if isinstance(leaf, Slot) else leaf for leaf in leaves]
        out = function(*put_together(jax.tree_util.tree_unflatten(treedef, filled)))
        named, structure = jax.tree_util.tree_flatten_with_path(out)
        returned[:] = [structure, [path for path, _ in named]]
        return [_as_array(leaf) for _, leaf in named]

    with any_settings(), jax.enable_x64(is_wide):
        closed = jax.make_jaxpr(flat)(*map(_example, specs))
    structure, paths = returned
    outputs = tuple(_output_spec(aval) for aval in closed.out_avals)
    hoisted, literals = _hoisted(closed)
    jaxpr, primitives = closed.jaxpr, {eqn.primitive.name for eqn in equations_of(closed.jaxpr)}
    inputs = tuple(_input_spec(spec, is_wide) for spec in specs)
    key = (inputs, outputs, is_wide, _structure(jaxpr, literals))
    body = Body(
        jaxpr=jaxpr,
        inputs=inputs,
        hoisted=tuple(_spec_of(value) for value in hoisted),
        outputs=outputs,
        is_wide=is_wide,
        has_checks="check" in primitives,
        can_fail=bool(jaxpr.effects) or any(_may_fail(name) for name in primitives),
        is_light=_is_light(jaxpr),
        _key=key,
        _hash=hash(key),
    )
    constants = tuple(map(_unwrapped, hoisted))
    names = tuple(name_of_path(path) if path else "" for path in paths)
    return Traced(body, constants, structure, names, _fingerprint(body, constants))


def put_together(values: Iterable[Any]) -> list[Any]:
    """The values with every `TreePart` put together."""
    return [value.put_together() if isinstance(value, TreePart) else value for value in values]


def _fingerprint(body: Body, constants: Sequence[Any]) -> str:
    # Printed jaxprs name functions by where they lie in memory, which says nothing.
    text = _ADDRESS.sub("", f"{body.inputs} {body.outputs} {text_of(body.jaxpr)}")
    contexts = {_ADDRESS.sub("", repr(eqn.ctx)) for eqn in equations_of(body.jaxpr)}
    text = " ".join([text, *sorted(contexts - {_plain_context()})])
    values = [np.asarray(_unwrapped(v)).tobytes() for v in (*constants, *_buried(body.jaxpr))]
    for code in _codes(body.jaxpr):
        text = text.replace(f" {code}:i32[] -1:i32[]", " code:i32[] -1:i32[]")
        pair = [np.int32(number).tobytes() for number in (code, -1)]
        values = [v for i, v in enumerate(values) if values[i : i + 2] != pair]
    return xxhash.xxh3_128(b"".join([text.encode(), *values])).hexdigest()


def _is_light(jaxpr: Any) -> bool:
    if any(eqn.params.keys() & _HOLDERS for eqn in equations_of(jaxpr)):
        return False
    return sum(np.asarray(_unwrapped(value)).nbytes for value in _buried(jaxpr)) <= _LIGHT_BYTES


def _codes(jaxpr: Any) -> set[int]:
    """The numbers of the checks in a jaxpr: `checkify` counts all that were ever traced."""
    equations = list(equations_of(jaxpr))
    makers = {out: eqn for eqn in equations for out in eqn.outvars}
    codes = [eqn.invars[1] for eqn in equations if eqn.primitive.name == "check"]
    chosen = [makers.get(code) for code in codes if not isinstance(code, jex.Literal)]
    return {
        int(atom.val)
        for eqn in chosen
        if eqn is not None
        for atom in eqn.invars
        if isinstance(atom, jex.Literal)
        and getattr(atom.aval, "dtype", None) == jnp.int32
        and atom.val >= 0
    }


def _buried(jaxpr: Any) -> Iterable[Any]:
    """The arrays inside a jaxpr, which its text does not show, or not whole."""
    for eqn in equations_of(jaxpr):
        for value in jax.tree_util.tree_leaves(list(eqn.params.values())):
            if isinstance(value, jex.ClosedJaxpr):
                yield from value.consts
            elif isinstance(value, jax.Array | np.ndarray):
                yield value
        for atom in eqn.invars:
            if isinstance(atom, jex.Literal) and np.shape(atom.val):
                yield atom.val


def text_of(jaxpr: Any) -> str:
    """A jaxpr in one line: broken into lines or coloured it depends on more than what it does."""
    return " ".join(jaxpr.pretty_print(use_color=False).replace(";", " ").split())


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of an array among the arguments of a function."""

    place: int


def _example(spec: LeafSpec) -> Any:
    """What stands for an array while a function is traced; numbers are weakly typed as in JAX."""
    match spec.kind:
        case "bool":
            return False
        case "int":
            return 0
        case "float":
            return 0.0
        case "complex":
            return 0j
    if spec.kind.startswith("key:"):
        data = jax.ShapeDtypeStruct(spec.shape, jnp.uint32)
        return jax.eval_shape(lambda x: _wrapped(x, spec), data)
    return jax.ShapeDtypeStruct(spec.shape, jnp.dtype(spec.dtype))


def _input_spec(spec: LeafSpec, is_wide: bool) -> LeafSpec:
    """An argument as the body takes it: a Python number in JAX's own size of it."""
    if spec.kind in ("int", "float", "complex") and not is_wide:
        return dataclasses.replace(
            spec, dtype={"int": "int32", "float": "float32", "complex": "complex64"}[spec.kind]
        )
    return spec


def _as_array(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
        return jnp.asarray(leaf)
    raise TypeError(f"it returned a {type(leaf).__name__}. Expected arrays, or a pytree of arrays.")


def _output_spec(aval: Any) -> LeafSpec:
    spec = describe(jax.ShapeDtypeStruct(aval.shape, aval.dtype), "the result")
    assert not isinstance(spec, Constant)
    return spec


def _spec_of(value: Any) -> LeafSpec:
    if isinstance(value, jax.Array):
        return _output_spec(value)
    return LeafSpec("jax", np.dtype(value.dtype).name, np.shape(value))


def _wrapped(value: Any, spec: LeafSpec) -> Any:
    if spec.kind.startswith("key:"):
        return jax.random.wrap_key_data(value, impl=spec.kind.removeprefix("key:"))
    return value


def _unwrapped(value: Any) -> Any:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(value)
    return value


def _dtype_of(atom: Any) -> Any:
    return atom.aval.dtype


def _is_hoistable(atom: Any) -> bool:
    """Whether ``atom`` is a number that may as well be an argument."""
    return (
        isinstance(atom, jex.Literal)
        and np.shape(atom.val) == ()
        and _dtype_of(atom) != jnp.bool_
        and not jnp.issubdtype(_dtype_of(atom), jax.dtypes.extended)
    )


def _calls(eqn: Any) -> bool:
    return any(True for _ in _inner(eqn.params.values()))


def _hoisted(closed: Any) -> tuple[list[Any], dict[tuple[int, int], int]]:
    """The constants, then the numbers in the outermost equations; and where the latter stand.

    The second is (equation, operand) → place among the constants. A number that is passed to an
    inner jaxpr stays: what it is belongs to the type of that jaxpr.
    """
    values = list(closed.consts)
    places = {}
    for i, eqn in enumerate(closed.jaxpr.eqns):
        if _calls(eqn):
            continue
        for j, atom in enumerate(eqn.invars):
            if _is_hoistable(atom):
                places[i, j] = len(values)
                values.append(np.asarray(atom.val, _dtype_of(atom)))
    return values, places


def _evaluate(jaxpr: Any, hoisted: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Run the equations of ``jaxpr``, with ``hoisted`` for its constants and numbers."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, hoisted, strict=False))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    numbers = iter(hoisted[len(jaxpr.constvars) :])
    for eqn in jaxpr.eqns:
        calls = _calls(eqn)
        operands = [
            next(numbers)
            if not calls and _is_hoistable(atom)
            else atom.val
            if isinstance(atom, jex.Literal)
            else values[atom]
            for atom in eqn.invars
        ]
        with eqn.ctx.manager:
            out = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
        outs = out if eqn.primitive.multiple_results else [out]
        values.update(zip(eqn.outvars, outs, strict=True))
    return [
        jnp.asarray(atom.val, _dtype_of(atom)) if isinstance(atom, jex.Literal) else values[atom]
        for atom in jaxpr.outvars
    ]


def _inner(params: Iterable[Any]) -> Iterable[Any]:
    """The jaxprs in the parameters of an equation."""
    for value in params:
        if isinstance(value, jex.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, jex.Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)


def equations_of(jaxpr: Any) -> Iterable[Any]:
    """The equations of a jaxpr and of those inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _inner(eqn.params.values()):
            yield from equations_of(inner)


def _may_fail(primitive: str) -> bool:
    return primitive == "check" or "callback" in primitive


def _structure(jaxpr: Any, hoisted: dict[tuple[int, int], int] | None = None) -> Hashable:
    """A value that is equal for jaxprs that do the same in the same order."""
    numbers: dict[Any, int] = {}

    def number(var: Any) -> int:
        return numbers.setdefault(var, len(numbers))

    def typed(var: Any) -> Hashable:
        return number(var), str(var.aval)

    heads = tuple(map(typed, jaxpr.constvars)), tuple(map(typed, jaxpr.invars))
    lines = []
    for i, eqn in enumerate(jaxpr.eqns):
        operands = tuple(
            ("hoisted", str(atom.aval))
            if hoisted is not None and (i, j) in hoisted
            else _frozen_literal(atom)
            if isinstance(atom, jex.Literal)
            else number(atom)
            for j, atom in enumerate(eqn.invars)
        )
        params = tuple(
            (name, _frozen(value))
            for name, value in sorted(eqn.params.items())
            if name not in _RULES
        )
        outs = tuple(map(typed, eqn.outvars))
        lines.append((eqn.primitive, operands, params, outs, _frozen_context(eqn.ctx)))
    results = tuple(
        _frozen_literal(atom) if isinstance(atom, jex.Literal) else number(atom)
        for atom in jaxpr.outvars
    )
    return heads, tuple(lines), results


def _frozen_context(context: Any) -> Hashable:
    """The settings of JAX that an equation was traced under, and is run under."""
    text = repr(context)
    return _Identity(context) if _ADDRESS.search(text) else text


@functools.cache
def _plain_context() -> str:
    with any_settings(), jax.threefry_partitionable(True):
        return repr(jax.make_jaxpr(lambda x: x + 1)(0).jaxpr.eqns[0].ctx)


def _frozen_literal(atom: Any) -> Hashable:
    value = np.asarray(atom.val)
    return "literal", str(atom.aval), value.dtype.str, value.tobytes()


@functools.singledispatch
def _frozen(value: Any) -> Hashable:
    """A parameter of an equation as something that can be hashed and compared by value."""
    if isinstance(value, jex.ClosedJaxpr):
        return "closed", _structure(value.jaxpr), tuple(map(_frozen, value.consts))
    if isinstance(value, jex.Jaxpr):
        return "jaxpr", _structure(value)
    if isinstance(value, jax.Array):
        return "array", str(value.aval), np.asarray(value).tobytes()
    try:
        hash(value)
    except TypeError:
        return "identity", _Identity(value)
    return type(value), value


@_frozen.register(tuple)
@_frozen.register(list)
def _(value: Any) -> Hashable:
    return type(value), tuple(map(_frozen, value))


@_frozen.register
def _(value: dict) -> Hashable:
    return "dict", tuple((key, _frozen(item)) for key, item in value.items())


@_frozen.register
def _(value: np.ndarray) -> Hashable:
    return "array", value.dtype.str, value.shape, value.tobytes()


class _Identity:
    """Equal to itself alone, and keeps what it stands for alive."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def checked(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` that returns (error, what it returns), for a body with checks."""
    return checkify.checkify(call, errors=checkify.user_checks)
