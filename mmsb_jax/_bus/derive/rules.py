"""Rules as callers give them, checked."""

import inspect
from collections.abc import Iterable, Set
from typing import Any

from mmsb_jax._base.arguments import check_choice, check_flag, check_text, show
from mmsb_jax._base.errors import StructureError
from mmsb_jax._bus.derive.log_entries import fault_of_name
from mmsb_jax._core.tree.leaves import qualified_name
from mmsb_jax._graph.run.node import Rule
from mmsb_jax._store.format.record import GRAPH_PREFIX, MAX_NAME_BYTES


def checked_rule(
    name: Any, inputs: Any, function: Any, when: Any, equal: Any, pagewise: Any
) -> Rule:
    name, inputs = checked_name("name", name), _checked_inputs(inputs)
    if not callable(function) or inspect.iscoroutinefunction(function):
        raise TypeError(f"derive({name!r}): expected a function, not async, got {show(function)}")
    check_choice("when", when, "commit", "read")
    if not callable(equal) and (not isinstance(equal, str) or equal not in ("bytes", "never")):
        raise ValueError(f"equal={show(equal)}: expected 'bytes', 'never' or a function")
    check_flag("pagewise", pagewise)
    if pagewise and callable(equal):
        raise ValueError(
            "pagewise=True with a function as equal=: an array that is never whole cannot be "
            "compared as a whole. Leave one of them out."
        )
    return Rule(name, inputs, function, qualified_name(function), when, equal, pagewise)


def checked_name(role: str, name: Any) -> str:
    """The name of a derived array to be."""
    if not isinstance(name, str) or fault_of_name(name) is not None:
        raise StructureError(
            f"{role}={show(name)}: expected a string of 1 to {MAX_NAME_BYTES:,} bytes in UTF-8"
        )
    if name.startswith(GRAPH_PREFIX) or any(mark in name for mark in "*?"):
        raise StructureError(
            f"{role}={name!r:.80}: a name has no wildcards, and does not begin with NUL"
        )
    return name


def known_name(role: str, name: Any) -> str:
    """What may be the name of an array that is there."""
    check_text(role, name, "the name of an array")
    return name


def _checked_inputs(inputs: Any) -> tuple[str, ...]:
    is_ordered = isinstance(inputs, Iterable) and not isinstance(inputs, Set)
    texts = (inputs,) if isinstance(inputs, str) else tuple(inputs) if is_ordered else ()
    if not texts or not all(isinstance(text, str) and text for text in texts):
        shown = texts if is_ordered else inputs
        raise TypeError(
            f"inputs={show(shown)}: expected names or patterns of arrays, in order, at least one"
        )
    return texts
