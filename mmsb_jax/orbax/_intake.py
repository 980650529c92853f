"""A directory of checkpoints, read into a log."""

import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import jax

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import LocationError, MMSBError, StructureError
from mmsb_jax._bus.bus import Bus
from mmsb_jax._bus.engine.commit_info import CLEAR, CommitInfo
from mmsb_jax._bus.open import open
from mmsb_jax._bus.orbax.files import CheckpointItem, CheckpointStep, find_steps, read_item
from mmsb_jax._bus.orbax.notes import CheckpointNote, pack
from mmsb_jax._bus.orbax.read import ItemReader, keys_of
from mmsb_jax._bus.trees.tree import TreeShape
from mmsb_jax._core.layout import DEFAULT_PAGE_BYTES
from mmsb_jax._core.tree.paths import put_together, taken_apart

SOURCE = "from_orbax"
"""Who commits what is read here."""


def from_orbax(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None = None,
    *,
    items: str | Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
    like: Any = None,
) -> Bus:
    """Read checkpoints of Orbax into a log: a commit for each step, in their order.

    The bytes are those that Orbax has, in its types: arrays of JAX and of NumPy, keys, numbers,
    texts. One item that is a pytree is the tree; several are its entries, by name. Items that are
    JSON are the ``extra``, by name. The note has the metrics, and as ``"orbax"`` the custom
    metadata, the names of the items and the time. Of classes Orbax keeps fields and positions: a
    tuple comes as a list, a dataclass as a dict, unless ``like`` has them; `Bus.resume` takes
    them for what they were, but for nodes without leaves (optax's ``EmptyState``), which come as
    None without ``like``.

    Where it is killed, the steps that are in the log are whole; the same call goes on behind them,
    and takes steps that were added since.

    Args:
        src: the directory of a ``CheckpointManager`` (of either API), or one checkpoint.
        dst: a directory for the log; in memory for None.
        items: which items, by name; all for None. All steps must have them.
        steps: which steps; all for None.
        like: a tree that gives the classes; of abstract values, or any. Its paths are checked.

    Returns:
        The bus, open.

    Raises:
        StructureError: what cannot come, of all steps: items that are neither pytrees nor JSON,
            leaves of types of their own, paths that ``like`` does not have.
        LocationError: no checkpoints of Orbax, or one that is not finished; ``dst`` is a log of
            something else.
        VersionError: no such steps.
        CorruptionError: a checkpoint does not read back.
        ImportError: Orbax is not installed.
        In these cases nothing was written, but by a checkpoint that turns out not to read back.

    Cost: a read of each checkpoint, and its commit. Beside the state that a bus holds, one is in
    memory.
    """
    checked = _checked_items(items)
    reader = ItemReader()
    plans = [_plan(step, checked) for step in find_steps(src, steps)]
    _check(plans, reader, like)
    bus = open(dst)
    try:
        _take_in(bus, plans, reader, like)
    except BaseException:
        bus.close()
        raise
    return bus


class _Plan(NamedTuple):
    """A checkpoint that is to become a commit.

    Attributes:
        step: where it is.
        items: those that are read.
        missing: names of items that it does not have.
    """

    step: CheckpointStep
    items: tuple[CheckpointItem, ...]
    missing: tuple[str, ...]

    @property
    def note(self) -> Any:
        """The note of its commit."""
        kinds: dict[str, str] = {item.name: item.kind for item in self.items}
        step = self.step
        return CheckpointNote(step.metrics, kinds, step.custom, step.time_ns).note()

    @property
    def extra(self) -> Any:
        """The extra of its commit."""
        return pack({}, {item.name: read_item(item) for item in self.items if item.kind == "json"})[
            1
        ]

    def tree(self, value_of: Any) -> Any:
        """Its tree, of what ``value_of`` gives for each item."""
        return pack({i.name: value_of(i) for i in self.items if i.kind == "tree"}, {})[0]


def _checked_items(items: Any) -> tuple[str, ...] | None:
    if items is None:
        return None
    names = (items,) if isinstance(items, str) else items
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"items={show(items)}: expected a name, or a list of names")
    return tuple(names)


def _plan(step: CheckpointStep, names: tuple[str, ...] | None) -> _Plan:
    if names is None:
        return _Plan(step, tuple(step.items.values()), ())
    there = tuple(item for name, item in step.items.items() if name in names)
    return _Plan(step, there, tuple(name for name in names if name not in step.items))


def _check(plans: Sequence[_Plan], reader: ItemReader, like: Any) -> None:
    """Refuse what cannot come, all of it in one error, before anything is written."""
    faults = [
        f"step {plan.step.step}: {fault}" for plan in plans for fault in _faults(plan, reader, like)
    ]
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise StructureError(
            f"{len(faults)} things in the checkpoints cannot come:\n{listed}\nLeave them out with "
            f"items=… or steps=…; nothing was written."
        )


def _faults(plan: _Plan, reader: ItemReader, like: Any) -> Iterator[str]:
    yield from (f"it has no item {name!r}" for name in plan.missing)
    other = [item.name for item in plan.items if item.kind == "other"]
    yield from (f"item {name!r} is neither a pytree nor JSON" for name in other)
    if plan.missing or other:
        return
    try:
        CommitInfo(plan.step.step, SOURCE, plan.note, plan.extra)
        outline = plan.tree(reader.outline)
        TreeShape(outline if like is None else shaped(outline, like), DEFAULT_PAGE_BYTES)
    except (MMSBError, TypeError, ValueError) as error:
        yield str(error)


def shaped(tree: Any, like: Any) -> Any:
    """The leaves of a tree of Orbax in the structure of ``like``, by their paths."""
    given, treedef = _by_keys(like)
    leaves = _by_keys(tree)[0]
    missing = [keys for keys in given if keys not in leaves]
    beside = [keys for keys, leaf in leaves.items() if keys not in given and leaf is not None]
    if missing or beside:
        said = [f"{'/'.join(keys)} is in `like` alone" for keys in missing]
        said += [f"{'/'.join(keys)} is not in `like`" for keys in beside]
        raise StructureError("; ".join(said))
    return put_together(treedef, [leaves[keys] for keys in given], "`like`")


def _by_keys(tree: Any) -> tuple[dict[tuple[str, ...], Any], Any]:
    flatten = jax.tree_util.tree_flatten_with_path
    leaves, treedef = taken_apart(flatten, tree, lambda leaf: leaf is None)
    return {keys_of(path): leaf for path, leaf in leaves}, treedef


def _take_in(bus: Bus, plans: Sequence[_Plan], reader: ItemReader, like: Any) -> None:
    """Commit what is not there yet."""
    done = _count_there(bus, plans)
    for plan in plans[done:]:
        tree, extra = plan.tree(reader.read), plan.extra
        if extra is None and bus.extra() is not None:
            extra = CLEAR
        bus.commit(
            tree if like is None else shaped(tree, like),
            step=plan.step.step,
            source=SOURCE,
            note=plan.note,
            extra=extra,
            structure="new",
        )
        del tree
    bus.sync()


def _count_there(bus: Bus, plans: Sequence[_Plan]) -> int:
    """How many of the steps are in the log already; refuses one of anything else."""
    commits = list(bus.commits)
    for commit, plan in zip_longest(commits, plans):
        if commit is None:
            break
        said = (commit.step, commit.source, commit.note)
        if plan is None or said != (plan.step.step, SOURCE, plan.note):
            raise LocationError(
                f"{bus.path} is a log already, and version {commit.version} is not what these "
                f"checkpoints give. Give a path where nothing is yet; to go on where a call was "
                f"cut short, its arguments."
            )
    return len(commits)
