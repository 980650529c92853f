"""Names of arrays: the path of a leaf in its tree, as one string that is unique and reversible.

Keys are joined by ``/``. Inside a key ``~`` reads ``~0`` and ``/`` reads ``~1`` (as in a JSON
pointer); a string that looks like an integer gets ``~s`` before it, so that ``x["0"]`` and
``x[0]`` stay different; the empty string is ``~s``; other keys are ``~k`` and their repr. A tree
that is one leaf has the name ``~``.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from mmsb_jax._base.errors import StructureError

BARE_LEAF = "~"
"""Name of the only leaf of a tree that is a bare leaf."""

_INTEGER = re.compile(r"-?\d+")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+", re.IGNORECASE)


def name_of_path(path: Sequence[Any]) -> str:
    """Name of the leaf at ``path`` (the key path of `jax.tree_util.tree_flatten_with_path`)."""
    return "/".join(map(name_of_key, path)) if path else BARE_LEAF


def name_of_key(key: Any) -> str:
    """One key of a path, as it stands in a name."""
    match key:
        case SequenceKey(idx=index) | FlattenedIndexKey(key=index):
            return str(index)
        case GetAttrKey(name=str(text)):
            return _escape(text)
        case DictKey(key=str(text)):
            marked = not text or _INTEGER.fullmatch(text) is not None
            return ("~s" if marked else "") + _escape(text)
        case DictKey(key=int(index)) if not isinstance(index, bool):
            return str(index)
        case _:
            return "~k" + _escape(_own_repr(getattr(key, "key", key)))


def key_in_name(text: str) -> str:
    """The key of a dict, or the field, that stands in a name as ``text``."""
    return text.removeprefix("~s").removeprefix("~k").replace("~1", "/").replace("~0", "~")


def _own_repr(key: Any) -> str:
    text = repr(key)
    if _ADDRESS.search(text):
        raise StructureError(
            f"the key {text} of the tree is known by its place in memory alone, which is another "
            f"in each process. Use a key of a type with a repr of its own, such as a string."
        )
    return text


def _escape(text: str) -> str:
    return text.replace("~", "~0").replace("/", "~1")


def flatten_with_names(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Names, leaves and treedef of ``tree``, with ``None`` counted as a leaf."""
    paths, treedef = taken_apart(jax.tree_util.tree_flatten_with_path, tree, _is_none)
    return [name_of_path(path) for path, _ in paths], [leaf for _, leaf in paths], treedef


def taken_apart(flatten: Callable[..., Any], tree: Any, is_leaf: Callable[[Any], bool]) -> Any:
    """What a function of `jax.tree_util` gives for ``tree``."""
    try:
        return flatten(tree, is_leaf=is_leaf)
    except Exception as error:  # of whatever type the class of a node raises
        raise StructureError(
            f"the tree cannot be taken apart: {type(error).__name__}: {error} Expected a pytree: "
            f"keys of a dict must be of one type that can be sorted."
        ) from error


def put_together(treedef: Any, leaves: Sequence[Any], where: str) -> Any:
    """The node of ``treedef`` with ``leaves``."""
    try:
        return jax.tree_util.tree_unflatten(treedef, leaves)
    except Exception as error:
        raise StructureError(
            f"{where} cannot be put together from its leaves: the class of a node in it raised "
            f"{type(error).__name__}: {error}"
        ) from error


def is_same_treedef(left: Any, right: Any) -> bool:
    """Whether two treedefs compare equal; False where metadata in them cannot be compared."""
    try:
        return bool(left == right)
    except Exception:  # arrays have no truth value; whatever else a class of the user's raises
        return False


def _is_none(leaf: Any) -> bool:
    return leaf is None
