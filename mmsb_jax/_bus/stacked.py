"""What a loop has stacked: states, steps and notes with a leading axis, one place a commit."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import StructureError
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax._bus.trees.staging import check_readable
from mmsb_jax._core.settings import any_settings
from mmsb_jax._core.tree.paths import flatten_with_names


class StackedStates:
    """Trees that `jax.lax.scan` has stacked, one a place of their leading axis.

    Strings, functions and None have no axis: they are the same in each tree.

    Raises:
        StructureError: a leaf without an axis; axes of two lengths; an array that was donated.

    Attributes:
        count: how many trees.
    """

    def __init__(self, states: Any) -> None:
        names, self._leaves, self._treedef = flatten_with_names(states)
        self._places = [i for i, leaf in enumerate(self._leaves) if not _has_no_bytes(leaf)]
        lengths = {names[i]: _length(names[i], self._leaves[i]) for i in self._places}
        if len(set(lengths.values())) != 1:
            listed = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:8])
            raise StructureError(
                f"states: {f'the leading axes are of {listed}' if lengths else 'there is no array'}"
                f"; expected arrays with one leading axis, as jax.lax.scan stacks what a step "
                f"gives back"
            )
        self.count = next(iter(lengths.values()))

    def tree(self, number: int) -> Any:
        """The tree of one place."""
        leaves = list(self._leaves)
        of_jax = [i for i in self._places if isinstance(leaves[i], jax.Array)]
        with any_settings(), jax.enable_x64(True), jax.disable_jit(False):
            picked = _pick([leaves[i] for i in of_jax], np.int32(number))
        for i in self._places:
            if not isinstance(leaves[i], jax.Array):
                leaves[i] = leaves[i][number, ...]
        for i, array in zip(of_jax, picked, strict=True):
            leaves[i] = array
        return jax.tree_util.tree_unflatten(self._treedef, leaves)


@jax.jit
def _pick(arrays: list[jax.Array], number: jax.Array) -> list[jax.Array]:
    return [array[number] for array in arrays]


def _has_no_bytes(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, str) or (callable(leaf) and not hasattr(leaf, "shape"))


def _length(name: str, leaf: Any) -> int:
    if not isinstance(leaf, np.ndarray | jax.Array) or not leaf.ndim:
        raise StructureError(
            f"states: {name} is {show(leaf)}; expected an array with a leading axis, one place for "
            f"each commit. What is the same in each tree, stack too (jnp.full(steps, value))."
        )
    if isinstance(leaf, jax.Array):
        check_readable(leaf, name)
    return leaf.shape[0]


def infos_of(count: int, steps: Any, notes: Any, extras: Any, source: str) -> list[CommitInfo]:
    """What is said of ``count`` commits, all of it checked.

    Args:
        count: how many.
        steps: an integer for each; None for none.
        notes, extras: a list or tuple with one for each, or a tree of arrays with a leading axis
            of as many numbers; None for none.
        source: who commits.
    """
    numbers = [None] * count if steps is None else _numbers(count, steps)
    said = _each(count, "notes", notes), _each(count, "extras", extras)
    return [
        CommitInfo(step, source, note, extra)
        for step, note, extra in zip(numbers, *said, strict=True)
    ]


def _numbers(count: int, steps: Any) -> list[Any]:
    if isinstance(steps, np.ndarray | jax.Array):
        if steps.ndim != 1:
            raise TypeError(f"steps={show(steps)}: expected one axis, with an integer a commit")
        steps = _on_host("steps", steps).tolist()
    if not isinstance(steps, Sequence) or isinstance(steps, str | bytes):
        raise TypeError(f"steps={show(steps)}: expected a sequence of integers, one a commit")
    return list(_checked("steps", steps, count))


def _each(count: int, name: str, said: Any) -> Sequence[Any]:
    if said is None:
        return [None] * count
    if isinstance(said, list | tuple) and not hasattr(said, "_fields"):
        return _checked(name, said, count)
    leaves, treedef = jax.tree_util.tree_flatten(said)
    for leaf in leaves:
        if not isinstance(leaf, np.ndarray | jax.Array) or leaf.ndim != 1:
            raise TypeError(
                f"{name} holds {show(leaf)}. Expected a list with one for each commit, or a tree "
                f"of arrays of one axis, with a number for each."
            )
    if not leaves:
        raise TypeError(f"{name}={show(said)}: expected a list with one for each commit")
    columns = [_checked(name, _on_host(name, leaf).tolist(), count) for leaf in leaves]
    return [treedef.unflatten(row) for row in zip(*columns, strict=True)]


def _on_host(name: str, array: Any) -> np.ndarray:
    if isinstance(array, jax.Array):
        check_readable(array, name)
    with jax.transfer_guard("allow"):
        return np.asarray(array)


def _checked(name: str, said: Sequence[Any], count: int) -> Sequence[Any]:
    if len(said) != count:
        raise ValueError(f"{name}: {len(said)} arrived; expected one for each of {count} commits")
    return said
