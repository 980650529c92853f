"""Committing trees: what the caller gives, checked and copied, as a draft for the head."""

import enum
import operator
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._base.texts import encoded, to_decimal
from mmsb_jax._bus.arrays.changes import Made
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._bus.trees.staging import Staged, Stager, check_readable, raw_bytes
from mmsb_jax._bus.trees.tree import Reconciled, TreeShape, differences, reconcile
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.format.record import MAX_NOTE_BYTES
from mmsb_jax._store.query.commit import Commit, encode_json

MAX_SOURCE_BYTES = 1024
_STEPS = range(2**63)


class Annotation:
    """What a caller says of a commit, checked: step, source, note, extra.

    Raises:
        TypeError, ValueError: not a step, a source, JSON; too large.
        StructureError: a string that is no text.
    """

    def __init__(self, step: Any, source: str, note: Any, extra: Any) -> None:
        self.step = None if step is None else _checked_step(step)
        if not isinstance(source, str) or len(encoded(source, "source=")) > MAX_SOURCE_BYTES:
            raise ValueError(
                f"source={show(source)}: expected a string of at most {MAX_SOURCE_BYTES} bytes"
            )
        self.source = source
        self.extra, self.extra_is_json = _encode_extra(extra)
        self._note_tree = None
        self.note_arrays: list[Any] = []
        if note is not None:
            self._take_note(note)

    def _take_note(self, note: Any) -> None:
        leaves, self._note_tree = jax.tree_util.tree_flatten(note, is_leaf=lambda x: x is None)
        for leaf in leaves:
            if isinstance(leaf, np.ndarray | jax.Array) and leaf.shape != ():
                raise TypeError(
                    f"note holds an array of shape {leaf.shape}. Expected JSON and 0-d arrays: "
                    f"commit arrays in the tree, or reduce them to numbers."
                )
        self._places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]
        self.note_arrays = [leaves[i] for i in self._places]
        for i in self._places:
            leaves[i] = 0  # its number is fetched later
        self._leaves = [_plain(leaf) for leaf in leaves]
        self.note_text([np.zeros(())] * len(self._places))  # refuse now what is not JSON

    def note_text(self, numbers: list[Any]) -> str:
        """The note as JSON, with ``numbers`` in the places of its arrays.

        Raises:
            TypeError, ValueError: it is not JSON, or too long.
        """
        if self._note_tree is None:
            return ""
        leaves = list(self._leaves)
        for place, number in zip(self._places, numbers, strict=True):
            leaves[place] = np.asarray(number).item()
        text = encode_json(jax.tree_util.tree_unflatten(self._note_tree, leaves), "note")
        if len(text) > MAX_NOTE_BYTES:
            raise ValueError(
                f"note takes {len(text):,} bytes as JSON; at most {MAX_NOTE_BYTES:,}. Put what is "
                f"larger into extra=…"
            )
        return text

    def numbers(self) -> list[Any]:
        """The values of the note's arrays, fetched."""
        if not self.note_arrays:
            return []
        for array in self.note_arrays:
            check_readable(array, "note")
        with jax.transfer_guard("allow"):
            return jax.device_get(self.note_arrays)

    def fill(self, draft: Draft, numbers: list[Any]) -> Draft:
        """Enter it all into a draft."""
        draft.step, draft.source, draft.note = self.step, self.source, self.note_text(numbers)
        draft.extra, draft.extra_is_json = self.extra, self.extra_is_json
        return draft


def _plain(leaf: Any) -> Any:
    return leaf.item() if isinstance(leaf, np.ndarray) else leaf


def _checked_step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        number = None
    if number is None or isinstance(step, bool):
        raise TypeError(f"step={show(step)}: expected an integer")
    if number not in _STEPS:
        raise ValueError(f"step={to_decimal(number):.40}: expected 0 to 2**63 - 1")
    return number


class Clear(enum.Enum):
    """`CLEAR` as ``extra=`` of a commit: what was said before is no longer in force."""

    CLEAR = "CLEAR"

    def __repr__(self) -> str:
        return "mmsb_jax.CLEAR"


CLEAR = Clear.CLEAR


def _encode_extra(extra: Any) -> tuple[bytes | None, bool]:
    if extra is None:
        return None, False
    if extra is CLEAR:
        return b"null", True
    if isinstance(extra, bytes | bytearray | memoryview):
        return bytes(extra), False
    return encode_json(extra, "extra").encode(), True


class TreeWriter:
    """Commits trees; knows the structure that was committed last.

    Args:
        engine: lands the drafts.
        made: arrays to record with the next structure.

    Attributes:
        shape: structure of the newest tree; None before the first in this process.
    """

    def __init__(self, engine: Engine, made: Made) -> None:
        self.shape: TreeShape | None = None
        self._engine = engine
        self._made = made
        self._ids: list[int] = []
        self._stager = Stager()

    @property
    def programs(self) -> int:
        """Programs compiled for commits that do not wait."""
        return self._stager.compiled

    def commit(self, tree: Any, said: Annotation, allow_new: bool) -> Commit:
        """Commit ``tree`` and wait until it has landed; the queue must be empty."""
        shape, data, change = self._match(tree, allow_new)
        with jax.transfer_guard("allow"), room_for("the bytes of this commit"):
            contents = _read_all(data, shape.names, change.ids)
        draft = Draft(ops=self._made.ops() + change.ops, contents=contents, values=change.values)

        def landed(commit: Commit) -> None:
            self._made.specs.clear()
            if self.shape is not shape:
                shape.succeed(self.shape, commit.version)
            self.shape, self._ids = shape, change.ids

        return self._engine.land(said.fill(draft, said.numbers()), shape, landed=landed)

    def know(self, tree: Any) -> None:
        """Take the structure of ``tree`` for that of the next one, if it is that recorded."""
        self.shape, self._ids = self._known(tree) or (self.shape, self._ids)

    def _known(self, tree: Any) -> tuple[TreeShape, list[int]] | None:
        shape = TreeShape(tree, self._engine.page_bytes)
        table = self._engine.head.state.table
        if differences(table, shape):
            return None
        change = reconcile(table, shape, False, self._made.specs.keys())
        shape.is_recorded = not change.ops and not change.values
        shape.succeed(self.shape, table.version)
        return shape, change.ids

    def enqueue(self, tree: Any, said: Annotation) -> "Future[Commit] | None":
        """Commit ``tree`` without waiting; None where its structure has to be recorded first."""
        data = self.shape.data_of(tree) if self.shape is not None else None
        if data is None or self._made:
            return None
        assert self.shape is not None
        shape = self.shape
        engine, ids, names, time_ns = self._engine, self._ids, shape.names, time.time_ns()
        for array in said.note_arrays:
            check_readable(array, "note")
        engine.queue.wait_for_room()
        labels = [*names, *(["note"] * len(said.note_arrays))]
        with room_for("the copy of this commit"):
            staged = self._stager.stage([*data, *said.note_arrays], labels)

        def run(landed: Callable[[Commit], None]) -> None:
            _land_staged(engine, staged, ids, said, time_ns, shape, landed)

        return engine.queue.submit(run, staged.release)

    def _match(self, tree: Any, allow_new: bool) -> tuple[TreeShape, list[Any], Reconciled]:
        data = self.shape.data_of(tree) if self.shape is not None else None
        if data is not None and self.shape is not None:
            return self.shape, data, Reconciled(ids=self._ids)
        shape = TreeShape(tree, self._engine.page_bytes)
        table = self._engine.head.state.table
        change = reconcile(table, shape, allow_new, self._made.specs.keys(), self.shape)
        return shape, shape.data_leaves(tree), change

    def forget(self) -> None:
        """Look at the next tree anew: the table has changed without it."""
        self.shape, self._ids = None, []


def _land_staged(
    engine: Engine,
    staged: Staged,
    ids: list[int],
    said: Annotation,
    time_ns: int,
    shape: TreeShape,
    landed: Callable[[Commit], None],
) -> None:
    """What the queue's thread does: read the copies, land them."""
    with room_for("the bytes of this commit"):
        contents = {array_id: staged.bytes_of(i) for i, array_id in enumerate(ids)}
    count = len(ids)
    numbers = [staged.value_of(count + i).reshape(()) for i in range(len(said.note_arrays))]
    draft = said.fill(Draft(contents=contents, time_ns=time_ns), numbers)
    try:
        engine.land(draft, shape, landed=landed)
    finally:
        if (events := engine.events) is not None:
            events.deliver_later()


def _read_all(data: list[Any], names: list[str], ids: list[int]) -> dict[int, np.ndarray]:
    """The bytes of every leaf; those on other devices travel side by side."""
    for leaf, name in zip(data, names, strict=True):
        if isinstance(leaf, jax.Array):
            check_readable(leaf, name)
            if not _is_on_cpu(leaf):
                leaf.copy_to_host_async()
    return {i: raw_bytes(leaf, name) for i, leaf, name in zip(ids, data, names, strict=True)}


def _is_on_cpu(leaf: Any) -> bool:
    return all(device.platform == "cpu" for device in leaf.devices())


def done(commit: Commit) -> "Future[Commit]":
    """A future of what is there already."""
    future: Future[Commit] = Future()
    future.set_result(commit)
    return future
