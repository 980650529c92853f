"""Names of arrays: the path of a leaf in its tree, as one string that is unique and reversible.

Keys are joined by ``/``. Inside a key ``~`` reads ``~0`` and ``/`` reads ``~1`` (as in a JSON
pointer); a string that looks like an integer gets ``~s`` before it, so that ``x["0"]`` and
``x[0]`` stay different; the empty string is ``~s``; other keys are ``~k`` and their repr. A tree
that is one leaf has the name ``~``.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

BARE_LEAF = "~"
"""Name of the only leaf of a tree that is a bare leaf."""

_INTEGER = re.compile(r"-?\d+")


def name_of_path(path: Sequence[Any]) -> str:
    """Name of the leaf at ``path`` (the key path of `jax.tree_util.tree_flatten_with_path`)."""
    return "/".join(map(_name_of_key, path)) if path else BARE_LEAF


def _name_of_key(key: Any) -> str:
    match key:
        case SequenceKey(idx=index) | FlattenedIndexKey(key=index):
            return str(index)
        case GetAttrKey(name=text):
            return _escape(text)
        case DictKey(key=str(text)):
            marked = not text or _INTEGER.fullmatch(text) is not None
            return ("~s" if marked else "") + _escape(text)
        case DictKey(key=int(index)) if not isinstance(index, bool):
            return str(index)
        case _:
            return "~k" + _escape(repr(getattr(key, "key", key)))


def _escape(text: str) -> str:
    return text.replace("~", "~0").replace("/", "~1")


def flatten_with_names(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Names, leaves and treedef of ``tree``, with ``None`` counted as a leaf."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)
    return [name_of_path(path) for path, _ in paths], [leaf for _, leaf in paths], treedef
