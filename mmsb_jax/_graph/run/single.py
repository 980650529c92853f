"""A function that is called by itself: for large arrays, and for what may fail while it runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmsb_jax._base.words import host_words
from mmsb_jax._compile.body import Body, checked
from mmsb_jax._compile.program import SharedProgram, program_of, run_here, undisturbed
from mmsb_jax._core.tree.leaves import LeafSpec, host_array, view_as
from mmsb_jax._graph.run.interpreter import Recipe


def words_of_array(array: Any) -> np.ndarray:
    """The words (uint32[n]) of an array, the last one filled with zeros; a view where it can be."""
    return host_words(host_array(array).reshape(-1).view(np.uint8))


def as_input(words: np.ndarray, spec: LeafSpec, wanted: LeafSpec) -> np.ndarray:
    """The words of an array as a body takes them: a Python number in JAX's own size of it."""
    if spec.dtype == wanted.dtype:
        return words
    number = view_as(spec, words)[()]
    if wanted.dtype == "int32" and not -(2**31) <= int(number) < 2**31:
        raise OverflowError(
            f"{int(number)} does not fit {wanted.dtype}. Turn on JAX's 64-bit types."
        )
    return words_of_array(number.astype(wanted.dtype))


class SingleRunner:
    """A recipe compiled by itself.

    Cost: compiled when it is first called; a call about 10 µs more than what it computes.

    Attributes:
        compile_time: what compiling it has taken.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._program = _compiled(recipe.body)
        self.compile_time = self._program.compile_time
        cutoff = recipe.cutoff
        self._judge = _compiled(cutoff) if isinstance(cutoff, Body) else None

    def run(
        self,
        arguments: Sequence[np.ndarray],
        constants: Sequence[Any],
        old: Sequence[np.ndarray],
        is_first: bool,
    ) -> list[tuple[np.ndarray, bool]]:
        """Each result as its words, and whether it counts as changed.

        Args:
            arguments: the words of each input.
            constants: those of the body, then those of the cutoff.
            old: the words of each result before.
            is_first: whether these are no value, so that the new one is not equal to it.
        """
        body, cutoff = self._recipe.body, self._recipe.cutoff
        own, rest = constants[: len(body.hoisted)], constants[len(body.hoisted) :]
        new = self._program(_NEVER, list(own), list(map(view_as, body.inputs, arguments)))[0]
        if body.has_checks:
            error, new = new
            with undisturbed():
                error.throw()
        with undisturbed():
            pairs = list(zip(map(words_of_array, new), old, strict=True))
        if self._judge is not None and not is_first:
            before = list(map(view_as, body.outputs, old))
            with undisturbed():
                is_equal = bool(self._judge(_NEVER, list(rest), [*before, *new])[0][0])
            return [(was if is_equal else now, not is_equal) for now, was in pairs]
        if cutoff == "never":
            return [(now, True) for now, _ in pairs]
        return [(now, not np.array_equal(now, was)) for now, was in pairs]


def _compiled(body: Body) -> SharedProgram:
    return program_of(_run, body, [body], body.is_wide)


def _run(body: Body, never: Any, hoisted: Any, arguments: Any) -> Any:
    call = checked(body.call) if body.has_checks else body.call
    return call(hoisted, arguments), run_here(never, never)


_NEVER = np.zeros((), np.bool_)
