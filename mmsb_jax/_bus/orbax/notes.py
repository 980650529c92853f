"""What Orbax says of a checkpoint beside its trees, as note and extra of a commit, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmsb_jax._bus.orbax.files import DEFAULT_ITEM, EXTRA_ITEM, TREE_ITEM

ABOUT = "orbax"
"""The entry of a note in which all stands that is no metric."""
_ITEMS, _CUSTOM, _TIME = "items", "custom_metadata", "time_ns"
_KINDS = ("tree", "json")


@dataclass(frozen=True, slots=True)
class CheckpointNote:
    """What a note says of a checkpoint.

    Attributes:
        metrics: its metrics; None for none.
        items: the kind of each item, by name; None where the tree is all, and has no name.
        custom: its custom metadata.
        time_ns: when Orbax finished it.
    """

    metrics: Any = None
    items: Mapping[str, str] | None = None
    custom: Mapping[str, Any] = field(default_factory=dict)
    time_ns: int | None = None

    @classmethod
    def of(cls, note: Any) -> "CheckpointNote":
        """What the note of a commit says; of a note of somebody else, all is metrics."""
        if not isinstance(note, dict):
            return cls(None if note is None else {"note": note})
        about = note.get(ABOUT)
        if not isinstance(about, dict):
            return cls(note or None)
        metrics = {name: value for name, value in note.items() if name != ABOUT}
        items, custom = about.get(_ITEMS), about.get(_CUSTOM)
        return cls(
            metrics or None,
            items if isinstance(items, dict) else None,
            custom if isinstance(custom, dict) else {},
            about.get(_TIME),
        )

    def note(self) -> Any:
        """The note of a commit that says it; None where there is nothing to say."""
        about = {
            _ITEMS: None if self.items == {DEFAULT_ITEM: "tree"} else self.items,
            _CUSTOM: self.custom or None,
            _TIME: self.time_ns,
        }
        about = {name: value for name, value in about.items() if value is not None}
        metrics = self.metrics or {}
        metrics = metrics if isinstance(metrics, dict) else {"metrics": metrics}
        if ABOUT in metrics:
            raise ValueError(
                f"a metric is called {ABOUT!r}, which is the entry of the note that says what else "
                f"a checkpoint has. Give it another name."
            )
        return metrics | ({ABOUT: about} if about else {}) or None


def pack(trees: Mapping[str, Any], texts: Mapping[str, Any]) -> tuple[Any, Any]:
    """(tree, extra) of the items of a checkpoint: pytrees, and JSON.

    One pytree is the tree itself, several are its entries. JSON is in the extra by name; what is
    called ``extra`` and is alone, is the extra itself.
    """
    tree = next(iter(trees.values())) if len(trees) == 1 else dict(trees)
    extra = texts[EXTRA_ITEM] if texts.keys() == {EXTRA_ITEM} else dict(texts)
    return tree, extra if texts else None


def unpack(
    items: Mapping[str, str] | None, tree: Any, extra: Any, named: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The items of a checkpoint by name, as `pack` took them: pytrees, and JSON.

    Args:
        items: the kind of each; where None, or where they do not fit, they are tree and extra.
        named: whether the tree is called ``state`` then, as it must be in checkpoints with others.
    """
    if items is not None and _fit(items, tree, extra):
        names = [name for name, kind in items.items() if kind == "tree"]
        trees = {names[0]: tree} if len(names) == 1 else {name: tree[name] for name in names}
        texts = [name for name, kind in items.items() if kind == "json"]
        return trees, {EXTRA_ITEM: extra} if texts == [EXTRA_ITEM] else {n: extra[n] for n in texts}
    trees = {TREE_ITEM if named else DEFAULT_ITEM: tree}
    return trees, {} if extra is None else {EXTRA_ITEM: extra}


def _fit(items: Mapping[str, str], tree: Any, extra: Any) -> bool:
    names = {kind: [name for name in items if items[name] == kind] for kind in _KINDS}
    if sum(map(len, names.values())) < len(items):
        return False
    trees, texts = names["tree"], names["json"]
    is_one = len(trees) == 1
    if not is_one and not (isinstance(tree, Mapping) and tree.keys() == set(trees)):
        return False
    if texts in ([], [EXTRA_ITEM]):
        return (extra is None) == (not texts)
    return isinstance(extra, Mapping) and extra.keys() == set(texts)
