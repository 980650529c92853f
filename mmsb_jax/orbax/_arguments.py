"""The arguments of Orbax for saving and restoring, known by the names of their classes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmsb_jax._base.arguments import show
from mmsb_jax._bus.orbax.files import DEFAULT_ITEM

_KINDS = {"Standard": "tree", "PyTree": "tree", "Json": "json"}


class ItemRequest(NamedTuple):
    """An item that is to be saved or restored.

    Attributes:
        kind: ``tree`` or ``json``.
        value: what is saved; for a tree that is restored, a tree like it, or None.
    """

    kind: str
    value: Any


def items_of(args: Any, verb: str) -> dict[str, ItemRequest]:
    """The items that arguments of Orbax speak of, by name.

    Args:
        args: such as ``StandardSave(state)`` or ``Composite(state=StandardSave(state))``.
        verb: ``Save`` or ``Restore``.
    """
    if is_composite(args):
        return {name: _request(inner, verb, name) for name, inner in args.items()}
    return {DEFAULT_ITEM: _request(args, verb, DEFAULT_ITEM)}


def is_composite(args: Any) -> bool:
    """Whether arguments name their items."""
    return type(args).__name__ in ("Composite", "CompositeArgs") and isinstance(args, Mapping)


def _request(args: Any, verb: str, name: str) -> ItemRequest:
    called = type(args).__name__.removesuffix("Args")
    kind = _KINDS.get(called.removesuffix(verb))
    if kind is None or not called.endswith(verb):
        raise TypeError(
            f"args for {name!r}: {show(args)}. Expected Standard{verb}, PyTree{verb} or Json{verb} "
            f"of orbax.checkpoint.args, or a Composite of them."
        )
    for option in ("save_args", "restore_args", "transforms"):
        if getattr(args, option, None):
            raise ValueError(
                f"args for {name!r}: {option} cannot be honoured by a log. Leave it out; a tree "
                f"that is passed to restore gives classes and shardings."
            )
    return ItemRequest(kind, args.item)
