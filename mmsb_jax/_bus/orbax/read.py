"""Items of checkpoints as trees of dicts and lists, which is all that Orbax keeps of classes."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from mmsb_jax._base.errors import CorruptionError, StructureError
from mmsb_jax._bus.orbax.files import CheckpointItem, leaf_kinds
from mmsb_jax._bus.orbax.library import import_orbax

_ARRAYS, _NUMBER, _TEXT = ("jax.Array", "np.ndarray"), "scalar", "string"
_EMPTY = ("None", "Dict", "List", "Tuple", "NamedTuple")

Keys = tuple[str, ...]
"""Where a leaf is: its keys as Orbax writes them down."""


class ItemReader:
    """Reads items that are pytrees. Arrays of JAX come to the host, wherever they lay."""

    def __init__(self) -> None:
        self._orbax = import_orbax()
        self._handler = self._orbax.PyTreeCheckpointHandler()
        self._place = SingleDeviceSharding(_host_device())

    def outline(self, item: CheckpointItem) -> Any:
        """The tree without its bytes: a stand-in for each leaf, of its type, shape and dtype.

        Raises:
            StructureError: leaves of a kind that is not known here; every one is named.
        """
        kinds = self._kinds(item)
        return self._map(item, lambda keys, leaf: _stand_in(kinds[keys], leaf))

    def read(self, item: CheckpointItem) -> Any:
        """The tree. Cost: its bytes, once."""
        kinds = self._kinds(item)
        how = self._map(item, lambda keys, leaf: self._how_to_read(kinds[keys], leaf))
        arguments = self._orbax.args.PyTreeRestore(restore_args=how)
        tree = self._of_orbax(item, lambda: self._handler.restore(_path(item), args=arguments))
        leaves, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
        del tree
        made = []
        while leaves:
            path, leaf = leaves.pop()
            made.append(self._as_saved(kinds.get(keys_of(path)), leaf))
        return jax.tree_util.tree_unflatten(treedef, made[::-1])

    def _kinds(self, item: CheckpointItem) -> dict[Keys, str]:
        try:
            kinds = leaf_kinds(item)
        except (AttributeError, KeyError, TypeError) as error:
            raise CorruptionError(
                f"what {item.path} says of its tree is not in the form of Orbax 0.11 or newer: "
                f"{error!r}. Restore it with the Orbax that wrote it, and save it anew."
            ) from error
        known = (*_ARRAYS, _NUMBER, _TEXT, *_EMPTY)
        unknown = [
            f"{'/'.join(keys)} ({kind})" for keys, kind in kinds.items() if kind not in known
        ]
        if unknown:
            raise StructureError(
                f"item {item.name!r} has leaves of a type of its own: {', '.join(unknown)}"
            )
        return kinds

    def _map(self, item: CheckpointItem, made_of: Callable[[Keys, Any], Any]) -> Any:
        """What is made of what Orbax says of each leaf, in the structure of the tree."""
        said = self._of_orbax(item, lambda: self._handler.metadata(_path(item)))
        said = getattr(said, "tree", said)
        leaves, treedef = jax.tree_util.tree_flatten_with_path(said, is_leaf=_is_none)
        made = [leaf if leaf is None else made_of(keys_of(path), leaf) for path, leaf in leaves]
        return jax.tree_util.tree_unflatten(treedef, made)

    def _of_orbax(self, item: CheckpointItem, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except MemoryError:
            raise
        except Exception as error:  # of whatever type Orbax and what is below it raise
            raise CorruptionError(
                f"Orbax cannot read {item.path}: {type(error).__name__}: {error}"
            ) from error

    def _how_to_read(self, kind: str, leaf: Any) -> Any:
        if kind == "jax.Array" and not _is_wide(leaf.dtype):
            return self._orbax.ArrayRestoreArgs(restore_type=jax.Array, sharding=self._place)
        if kind in _ARRAYS:
            return self._orbax.RestoreArgs(restore_type=np.ndarray)
        return self._orbax.RestoreArgs()

    def _as_saved(self, kind: str | None, leaf: Any) -> Any:
        """A leaf as it was saved: an array of JAX in 64 bits too, where these are off."""
        if kind != "jax.Array" or isinstance(leaf, jax.Array):
            return leaf
        with jax.enable_x64(True):
            return jax.device_put(leaf, self._place)


def keys_of(path: Any) -> Keys:
    """The keys of a path of JAX, as Orbax writes them down."""
    return tuple(map(_text_of, path))


def _text_of(key: Any) -> str:
    match key:
        case SequenceKey(idx=index) | FlattenedIndexKey(key=index):
            return str(index)
        case GetAttrKey(name=name):
            return name
        case DictKey(key=key):
            return str(key)
        case _:
            return str(key)


def _stand_in(kind: str, leaf: Any) -> Any:
    if kind == _TEXT:
        return ""
    if kind == _NUMBER:
        return np.zeros((), leaf.dtype).item()
    if kind == "jax.Array":
        with jax.enable_x64(True):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _is_wide(dtype: Any) -> bool:
    """Whether JAX would cut a dtype down, as things stand."""
    return jax.dtypes.canonicalize_dtype(dtype) != dtype


def _host_device() -> Any:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX was told to know no CPU
        return jax.local_devices()[0]


def _path(item: CheckpointItem) -> Any:
    from etils import epath  # it comes with Orbax, which wants paths of this kind

    return epath.Path(item.path)


def _is_none(leaf: Any) -> bool:
    return leaf is None
