"""Nodes: a function bound to the arrays that it reads and the arrays that it makes."""

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax

from mmsb_jax._base.errors import RecomputeError
from mmsb_jax._compile.body import Body, Slot, Traced, trace
from mmsb_jax._core.tree.leaves import LeafSpec, qualified_name
from mmsb_jax._core.tree.nodes import TreePart
from mmsb_jax._graph.run.interpreter import Recipe
from mmsb_jax._graph.run.pagewise import check_shapeless, row_specs

When = Literal["commit", "read"]
Equal = Callable[[Any, Any], Any] | Literal["bytes", "never"]


COPY_NAME = "mmsb_jax.bus._deriving._copy"
"""What logs call `copy`."""


def copy(array: Any) -> Any:
    """The function of an array that follows another as it is."""
    return array


@dataclass(frozen=True, slots=True)
class Rule:
    """What a user said of a derived array.

    Attributes:
        name: what it is called.
        inputs: names or patterns of what it is made from, one an argument.
        function: what makes it; None where only its name is known.
        function_name: qualified name of the function.
        when: computed with each commit, or only when somebody reads.
        equal: when a result counts as unchanged: ``"bytes"``, ``"never"``, or a function.
        pagewise: whether only the pages that changed are computed.
    """

    name: str
    inputs: tuple[str, ...]
    function: Callable[..., Any] | None
    function_name: str
    when: When = "commit"
    equal: Equal = "bytes"
    pagewise: bool = False

    @property
    def is_copy(self) -> bool:
        """Whether a link asked for it."""
        return self.function_name == COPY_NAME

    @property
    def call(self) -> str:
        """How messages name the call that asked for it."""
        return (
            f"link({self.inputs[0]!r}, {self.name!r})"
            if self.is_copy
            else (f"derive({self.name!r})")
        )

    @property
    def title(self) -> str:
        """How messages call it."""
        if self.is_copy:
            return f"derived {self.name!r} (a copy of {self.inputs[0]!r})"
        return f"derived {self.name!r} ({self.function_name})"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A rule bound to arrays.

    Attributes:
        rule: what the user said.
        serial: nodes of one level run in the order of these.
        inputs: the arrays that it reads, each once.
        outputs: the arrays that it makes.
        reads: the arrays in the order of the function's arguments.
        recipe: what is compiled; None where there is no function.
        constants: values of the recipe's constants.
        traced: the traced function; None where there is none.
        paged: the function traced over one row, for a rule that is computed page by page.
        arguments: its arguments, with a `Slot` in the place of each array.
        specs: what the array of each slot was when it was traced.
    """

    rule: Rule
    serial: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: tuple[str, ...] = ()
    recipe: Recipe | None = None
    constants: tuple[Any, ...] = ()
    traced: Traced | None = None
    paged: Traced | None = None
    arguments: Any = None
    specs: tuple[LeafSpec, ...] = ()

    @property
    def name(self) -> str:
        """The name of the rule."""
        return self.rule.name

    @property
    def fingerprint(self) -> str:
        """A hash of what the function does, by which it is known again; empty without one."""
        return "" if self.traced is None else self.traced.fingerprint


@dataclass(slots=True)
class Arguments:
    """The arguments of a function.

    Attributes:
        trees: one an input, with a `Slot` in the place of each array.
        reads: the array of each slot.
        specs: what it is.
    """

    trees: tuple[Any, ...] = ()
    reads: list[str] = field(default_factory=list)
    specs: list[LeafSpec] = field(default_factory=list)

    def add(self, name: str, spec: LeafSpec) -> Slot:
        """The place of one more array."""
        self.reads.append(name)
        self.specs.append(spec)
        return Slot(len(self.reads) - 1)


class Tracer:
    """Traces functions: the same one over the same arrays once; equal bodies become one object."""

    def __init__(self) -> None:
        self._traced: weakref.WeakKeyDictionary[Any, dict[Any, Traced]] = (
            weakref.WeakKeyDictionary()
        )
        self._bodies: weakref.WeakValueDictionary[Body, Body] = weakref.WeakValueDictionary()

    def trace(self, function: Any, arguments: Any, specs: Sequence[LeafSpec]) -> Traced:
        """As `mmsb_jax._compile.body.trace`."""
        try:
            known = self._traced.setdefault(function, {})
            leaves, treedef = jax.tree_util.tree_flatten(arguments, is_leaf=_is_slot)
            key = (treedef, tuple(leaves), tuple(specs), bool(jax.config.read("jax_enable_x64")))
            hash(key)
        except TypeError:  # a function or a leaf that cannot be a key
            return self._interned(trace(function, arguments, specs))
        if key not in known:
            known[key] = self._interned(trace(function, arguments, specs))
        return known[key]

    def _interned(self, traced: Traced) -> Traced:
        body = self._bodies.setdefault(traced.body, traced.body)
        return dataclasses.replace(traced, body=body)


def _is_slot(leaf: Any) -> bool:
    return isinstance(leaf, Slot)


def bind(tracer: Tracer, rule: Rule, serial: int, arguments: Arguments) -> Node:
    """Trace the function of ``rule`` over arrays.

    Args:
        tracer: what has been traced.
        rule: it has a function.
        serial: its number.
        arguments: what the function is called with.
    """
    function = rule.function
    assert function is not None
    trees, reads = arguments.trees, tuple(arguments.reads)
    traced = _traced(tracer, rule, function, trees, arguments.specs)
    if not traced.names:
        raise RecomputeError(f"{rule.title} returned no array. Expected an array, or a pytree.")
    outputs = tuple(f"{rule.name}/{name}" if name else rule.name for name in traced.names)
    cutoff: Any = rule.equal
    constants = traced.constants
    if callable(rule.equal):
        judged = _traced_equal(tracer, rule, rule.equal, traced)
        cutoff, constants = judged.body, (*constants, *judged.constants)
    paged = None
    if rule.pagewise:
        rows = row_specs(rule.title, traced.body)
        paged = _traced(tracer, rule, function, trees, rows)
        check_shapeless(rule.title, traced, paged)
    return Node(
        rule=rule,
        serial=serial,
        inputs=tuple(dict.fromkeys(reads)),
        outputs=outputs,
        reads=reads,
        recipe=Recipe(traced.body, cutoff),
        constants=constants,
        traced=traced,
        paged=paged,
        arguments=trees,
        specs=tuple(arguments.specs),
    )


def _traced(
    tracer: Tracer, rule: Rule, function: Any, arguments: Any, specs: Sequence[LeafSpec]
) -> Traced:
    try:
        return tracer.trace(function, arguments, specs)
    except (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerIntegerConversionError,
        jax.errors.NonConcreteBooleanIndexError,
    ) as error:
        raise _looks_at_values(rule) from error
    except Exception as error:
        if isinstance(error, TypeError) and "concrete value" in str(error):  # for a shape
            raise _looks_at_values(rule) from error
        raise RecomputeError(
            f"{rule.title} raised {type(error).__name__} while it was traced: {error}"
        ) from error


def _looks_at_values(rule: Rule) -> RecomputeError:
    return RecomputeError(
        f"{rule.title} looks at the values of its inputs, to decide what to do or to call NumPy. "
        f"What it reads and the shape of what it makes must be the same for all values: use "
        f"jax.numpy, jnp.where, lax.cond or lax.switch, and name every array that it may need in "
        f"inputs=."
    )


def _traced_equal(tracer: Tracer, rule: Rule, equal: Any, traced: Traced) -> Traced:
    """Trace the user's ``equal(old, new)`` over the results of a function."""
    outputs, count = traced.body.outputs, len(traced.body.outputs)
    old, new = (
        TreePart(traced.treedef, tuple(Slot(start + i) for i in range(count)))
        for start in (0, count)
    )
    judged = _traced(tracer, rule, equal, (old, new), (*outputs, *outputs))
    if [spec.shape for spec in judged.body.outputs] != [()] or (
        judged.body.outputs[0].dtype != "bool"
    ):
        got = ", ".join(map(str, judged.body.outputs))
        raise RecomputeError(
            f"equal={qualified_name(equal)} of {rule.title} returned {got}. Expected one bool: "
            f"whether the old and the new result count as equal."
        )
    return judged
