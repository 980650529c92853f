"""Orbax's manager of checkpoints, over a log."""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from mmsb_jax._base.arguments import check_number, show
from mmsb_jax._base.errors import LocationError, VersionError
from mmsb_jax._bus.bus import Bus
from mmsb_jax._bus.engine.commit_info import CLEAR
from mmsb_jax._bus.open import open
from mmsb_jax._bus.orbax.files import DEFAULT_ITEM, EXTRA_ITEM, is_there, local_path
from mmsb_jax._bus.orbax.notes import CheckpointNote, pack
from mmsb_jax._bus.orbax.write import build_nested, outline_of
from mmsb_jax._core.tree.paths import name_of_key
from mmsb_jax._store.query.commit import Commit
from mmsb_jax.orbax._arguments import ItemRequest, is_composite, items_of
from mmsb_jax.orbax._options import ManagerOptions


class CheckpointManager:
    """A log with the methods of Orbax's ``CheckpointManager`` (of ``orbax.checkpoint``, v0).

    For code that expects one: each step that it saves is a commit of `bus`, and what else a bus
    can do is there beside it. It works without Orbax, which is needed for its classes of arguments
    and options alone. What differs:

    - A step that is not due (``save_interval_steps``) is a commit of digests: it can be rerun, and
      what its note says is there. The first step has bytes whatever the options say, and the newest
      once the manager is closed.
    - Steps are not deleted one by one (`delete`): what ``max_to_keep``, ``best_fn``,
      ``keep_period`` and ``keep_time_interval`` let go of is given up in the background, by whole
      segments of the log. So there may be more steps than these say, and never fewer.
    - A save of a step that is not beyond the newest goes on from the step that was restored last;
      the steps between are superseded (`Bus.resume`). Where none was restored it is left out, with
      a warning; Orbax leaves it out in silence.
    - ``restore`` with a tree takes it as `Bus.checkout` does ``like``: another shape, dtype or path
      is an error that names each. Without one it gives dicts and lists, as Orbax does.
    - An array of JAX comes back on the default device, where no tree says otherwise.

    Args:
        directory: of the log; made where it is not there.
        options: Orbax's ``CheckpointManagerOptions``. Those of which directories are called or
            written how cannot be honoured, and are refused by name.

    Raises:
        ValueError: options that a log cannot honour.
        LocationError: as `mmsb_jax.open`.

    Attributes:
        bus: the log.

    >>> import tempfile
    >>> from mmsb_jax.orbax import CheckpointManager
    >>> with CheckpointManager(tempfile.mkdtemp()) as manager:
    ...     for step in range(3):
    ...         _ = manager.save(step, {"w": float(step)}, metrics={"loss": 1.0})
    ...     manager.latest_step(), manager.restore(1)
    (2, {'w': 1.0})
    """

    def __init__(self, directory: str | os.PathLike[str], *, options: Any = None) -> None:
        self._options = ManagerOptions(options)
        place = local_path("directory", directory)
        if not self._options.create and not is_there(place):
            raise LocationError(f"{place} is not there, and options.create is False. Make it.")
        if self._options.read_only:
            self.bus: Bus = open(place, "r")
        else:
            self.bus = open(place, keep=self._options.keep)
        newest = self.bus.latest
        self._newest_step = None if newest is None else newest.step
        self._newest_is_saved = newest is not None and newest.saved
        self._saved_step = self.latest_step()
        self._says_extra = newest is not None and self.bus.extra() is not None
        self._restored: Commit | None = None

    @property
    def directory(self) -> Path | None:
        """Where the log is."""
        return self.bus.path

    def save(
        self,
        step: int,
        items: Any = None,
        *,
        args: Any = None,
        metrics: Any = None,
        force: bool = False,
        custom_metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Save a step; what is passed may be donated or changed once this returns.

        Args:
            step: its number.
            items: the tree; or, instead,
            args: Orbax's arguments: ``StandardSave``, ``PyTreeSave``, ``JsonSave``, or a
                ``Composite`` of them.
            metrics: JSON and 0-d arrays, for `metrics`, `best_step` and `Bus.notes`.
            force: whether it is saved though it is not due.
            custom_metadata: JSON, which stands in the note too.

        Returns:
            Whether its bytes are saved.

        Raises:
            StructureError, TypeError: as `Bus.commit`.
        """
        check_number("step", step)
        if (items is None) == (args is None):
            raise ValueError("give one of items and args: what to save")
        wanted = (
            {DEFAULT_ITEM: ItemRequest("tree", items)} if args is None else items_of(args, "Save")
        )
        trees = {name: value for name, (kind, value) in wanted.items() if kind == "tree"}
        texts = {name: value for name, (kind, value) in wanted.items() if kind == "json"}
        tree, extra = pack(trees, texts)
        kinds = {name: item.kind for name, item in wanted.items()}
        note = CheckpointNote(metrics, kinds, custom_metadata or {}).note()
        is_due = force or self._options.is_due(step, self._saved_step)
        if self._newest_step is not None and step <= self._newest_step:
            if self._can_go_back(step):
                self.bus.resume(tree, at=self._restored)
                is_due = True  # what goes on from an older version has bytes
            elif step < self._newest_step or self._newest_is_saved or not is_due:
                warnings.warn(
                    f"step {step} is not saved: step {self._newest_step} is not older. Restore the "
                    f"step to go on from first.",
                    stacklevel=2,
                )
                return False
        if extra is None and self._says_extra:
            extra = CLEAR
        self.bus.commit(
            tree,
            step=step,
            note=note,
            extra=extra,
            save=is_due,
            structure="new",
            wait=self._options.waits,
        )
        self._says_extra = extra is not None and extra is not CLEAR
        self._newest_step, self._newest_is_saved = step, is_due
        self._saved_step = step if is_due else self._saved_step
        self._restored = None
        return is_due

    def _can_go_back(self, step: int) -> bool:
        """Whether a step goes on from the one that was restored last.

        The newest may be saved again, now with bytes, after a look at an older one.
        """
        origin = None if self._restored is None else self._restored.step
        if origin is None or origin >= step:
            return False
        is_newest = step == self._newest_step and not self._newest_is_saved
        return not is_newest or origin == self._saved_step

    def restore(self, step: int | None = None, items: Any = None, *, args: Any = None) -> Any:
        """A step that was saved; the newest for None.

        Args:
            step: which.
            items: a tree like it, for its classes and shardings; or, instead,
            args: Orbax's arguments: ``StandardRestore``, ``PyTreeRestore``, ``JsonRestore``, or a
                ``Composite`` of them.

        Returns:
            The tree; where items have names, all of them by name, or those of ``args``, in a
            ``Composite``.

        Raises:
            VersionError: no such step, or its bytes are not there.
            StructureError: a tree that was passed differs; every path is named.
        """
        commit = self._commit_of(step)
        if args is not None and items is not None:
            raise ValueError("give one of items and args, or neither")
        if args is None:
            said = CheckpointNote.of(commit.note).items
            kinds = {DEFAULT_ITEM: "tree"} if said is None else said
            wanted = {name: ItemRequest(kind, items) for name, kind in kinds.items()}
        else:
            wanted = items_of(args, "Restore")
        found = {name: self._item(commit, name, item) for name, item in wanted.items()}
        self._restored = commit
        if is_composite(args):
            return type(args)(**found)
        return found[DEFAULT_ITEM] if found.keys() == {DEFAULT_ITEM} else found

    def _item(self, commit: Commit, name: str, wanted: ItemRequest) -> Any:
        said = CheckpointNote.of(commit.note).items or {DEFAULT_ITEM: "tree"}
        if name not in said or said[name] != wanted.kind:
            raise VersionError(
                f"step {commit.step} has no item {name!r} of that kind; it has "
                f"{', '.join(f'{one} ({kind})' for one, kind in said.items())}."
            )
        if wanted.kind == "json":
            extra = self.bus.extra(commit)
            return (
                extra
                if [n for n, k in said.items() if k == "json"] == [EXTRA_ITEM]
                else extra[name]
            )
        is_one = list(said.values()).count("tree") == 1
        arrays = None if is_one else [f"{name_of_key(jax.tree_util.DictKey(name))}/**"]
        if wanted.value is not None:
            return self.bus.checkout(version=commit, arrays=arrays, like=wanted.value)
        return self._nested(commit, build_nested, None if is_one else name)

    def item_metadata(self, step: int) -> Any:
        """What is saved of a step, without its bytes: `jax.ShapeDtypeStruct` for each array."""
        commit = self._commit_of(step)
        said = CheckpointNote.of(commit.note).items or {DEFAULT_ITEM: "tree"}
        trees = [name for name, kind in said.items() if kind == "tree"]
        tree = self._nested(commit, outline_of, None)
        if said.keys() == {DEFAULT_ITEM}:
            return tree
        parts = {trees[0]: tree} if len(trees) == 1 else {name: tree[name] for name in trees}
        return {name: parts.get(name) for name in said}

    def _nested(self, commit: Commit, build: Callable[..., Any], entry: str | None) -> Any:
        session = self.bus._session
        with session.lock:
            session.settle()
            state = session.state_now(commit.version, None)
            tree = build(state, None, session.places.of)
        return tree if entry is None else tree[entry]

    def _commits(self) -> Iterator[Commit]:
        """The commits of steps with bytes, newest first, but for those that are superseded."""
        session = self.bus._session
        with session.lock:
            session.settle()
        for commit in reversed(list(self.bus._commits_in("living"))):
            if commit.step is not None and self._has_bytes(commit):
                yield commit

    def _has_bytes(self, commit: Commit) -> bool:
        try:
            self.bus._session.log.check_state(commit.version)
        except VersionError:
            return False
        return True

    def _commit_of(self, step: int | None) -> Commit:
        if step is not None:
            check_number("step", step)
        for commit in self._commits():
            if step is None or commit.step == step:
                return commit
        there = ", ".join(map(str, self.all_steps())) or "none"
        raise VersionError(f"step={show(step)} was not saved, or not kept. There are: {there}.")

    def latest_step(self) -> int | None:
        """The newest step that was saved; None for none."""
        return next((commit.step for commit in self._commits()), None)

    def all_steps(self) -> list[int]:
        """The steps that can be restored, ascending."""
        return sorted({commit.step for commit in self._commits() if commit.step is not None})

    def best_step(self) -> int | None:
        """The best step by ``options.best_fn`` of its metrics; None for none."""
        if self._options.best_fn is None:
            return self.latest_step()
        ranked = self._options.ranked(reversed(list(self._commits())))
        return ranked[-1].step if ranked else None

    def metrics(self, step: int) -> Any:
        """The metrics of a step; None for none."""
        return CheckpointNote.of(self._commit_of(step).note).metrics

    def should_save(self, step: int) -> bool:
        """Whether ``save`` would save the bytes of a step."""
        check_number("step", step)
        latest = self.latest_step()
        if latest is not None and step <= latest:
            return False
        return self._options.is_due(step, latest)

    def delete(self, step: int) -> None:
        """Not to be had: a log gives up the bytes of old versions by a policy, or `Bus.compact`."""
        raise NotImplementedError(
            f"step {show(step)} cannot be deleted alone: options.max_to_keep gives up the bytes of "
            f"old steps, and so does manager.bus.compact(keep_since=…)."
        )

    def wait_until_finished(self) -> None:
        """Wait until all that was saved survives a power cut.

        Raises:
            whatever made a save fail.
        """
        if not self._options.read_only:
            self.bus.sync()

    def close(self) -> None:
        """Let what is saved land, and close the log."""
        self.bus.close()

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
