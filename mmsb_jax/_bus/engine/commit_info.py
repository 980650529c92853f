"""What a caller says of a commit: step, source, note, extra."""

import enum
import operator
from typing import Any

import jax
import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._base.texts import encoded, to_decimal
from mmsb_jax._bus.trees.staging import check_readable
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.format.record import MAX_NOTE_BYTES
from mmsb_jax._store.query.commit import encode_json

MAX_SOURCE_BYTES = 1024


_STEPS = range(2**63)


class CommitInfo:
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

    @property
    def says_more(self) -> bool:
        """Whether it says more than a step and a source."""
        return self._note_tree is not None or self.extra is not None

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
        """The note as JSON, with ``numbers`` in the places of its arrays."""
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
