"""What is recorded of a tree as nested dicts and lists, by the names of its leaves.

That is all that Orbax knows of nodes: it writes a tuple as a list, and a class as its fields.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmsb_jax._bus.trees.recorded import statics_in
from mmsb_jax._core.tree.paths import BARE_LEAF, key_in_name
from mmsb_jax._store.state.state import Table

_CONTAINERS: dict[str, Callable[[], Any]] = {"{}": dict, "[]": list, "()": tuple}
_CLASS = re.compile(r"(?:.*<locals>\.)?(?!(?:None|True|False|Ellipsis|nan|inf)$)[A-Za-z_]\w*")
"""What is recorded of a node of a class of which nothing is below it."""


class _Node(dict[str, Any]):
    """The children of a node, by their keys as they stand in names."""


def nested(flat: Mapping[str, Any]) -> Any:
    """A tree of leaves by name; where keys count from 0 on, they are those of a list."""
    if flat.keys() == {BARE_LEAF}:
        return flat[BARE_LEAF]
    root = _Node()
    for name, leaf in flat.items():
        *above, last = name.split("/")
        node = root
        for key in above:
            node = node.setdefault(key, _Node())
        node[last] = leaf
    return _put_together(root)


def _put_together(node: Any) -> Any:
    if not isinstance(node, _Node):
        return node
    numbers = list(map(str, range(len(node))))
    if node and node.keys() == set(numbers):
        return [_put_together(node[number]) for number in numbers]
    return {key_in_name(key): _put_together(child) for key, child in node.items()}


def empty_nodes(table: Table, leaves: Iterable[str]) -> dict[str, Any]:
    """The nodes without leaves, by name, as Orbax has them: one of a class is None.

    Args:
        table: what is recorded.
        leaves: the names of all leaves.
    """
    above = {name[:i] for name in leaves for i, c in enumerate(f"{name}/") if c == "/"}
    said = (statics_in(table) or {}).items()
    return {
        name: _CONTAINERS.get(text, lambda: None)()
        for name, text in said
        if name not in above and (text in _CONTAINERS or _CLASS.fullmatch(text))
    }
