"""When a shadow is worth its memory, and when it is given up."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import DeviceMemoryError
from mmsb_jax._base.memory_limit import is_out_of_memory
from mmsb_jax._bus.device.shadow import FoundChanges, Shadow, pieces_in

Shadowing = Literal["auto", "bytes", "digest"] | None
SHADOWINGS = ("auto", "bytes", "digest", None)


def check_shadow(shadow: Any) -> None:
    """Refuse what is no choice of a shadow."""
    if not isinstance(shadow, str | None) or shadow not in SHADOWINGS:
        raise ValueError(f"shadow={show(shadow)}: expected 'auto', 'bytes', 'digest' or None")


_FIRST_COMMIT = 3
"""By then a training step has taken the memory that it needs."""
_SHARE = 10
"""Of the memory that was never used, a shadow may take one part of so many."""
_PATIENCE = 8
"""After so many commits in a row of which half of the bytes moved, ``"auto"`` gives up."""


class ShadowKeeper:
    """The shadow of a bus, made when it is wanted and let go of when it is none any more.

    Args:
        choice: as for `mmsb_jax.open`.

    Attributes:
        shadow: the shadow; None where there is none.
    """

    def __init__(self, choice: Shadowing) -> None:
        self._choice = choice
        self.shadow: Shadow | None = None
        self._key = np.frombuffer(os.urandom(8), np.uint32) if choice == "digest" else None
        self._made_for: object = None
        self._commits = self._dense = 0

    def drop(self) -> None:
        """Let go of it: it is not the state that the next commit meets."""
        self.shadow = None

    def find(
        self, made_for: object, data: Sequence[Any], places: Iterable[int]
    ) -> FoundChanges | None:
        """What a commit changes of the leaves at ``places``; None where there is no shadow of it.

        Args:
            made_for: tells structures apart.
            data: the data leaves of the tree.
            places: those that may have changed.
        """
        shadow = self.shadow
        if shadow is None:
            return None
        if self._made_for is not made_for or not shadow.takes(data, places):
            self.drop()
            return None
        try:
            return shadow.find(data, places)
        except jax.errors.JaxRuntimeError as error:
            self.drop()
            if not is_out_of_memory(error):
                raise
            return None

    def seed(self, made_for: object, data: Sequence[Any]) -> Shadow | None:
        """Make the shadow that of ``data``, if it is wanted; the caller may donate them then."""
        self.drop()
        self._commits += 1
        if self._made_for is not made_for:
            self._dense = 0
        if self._choice is None or not self._is_wanted(data):
            return None
        try:
            self.shadow, self._made_for = Shadow(data, self._key), made_for
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
        return self.shadow

    def count(self, found: FoundChanges) -> None:
        """Learn from a commit how much of the state moved."""
        shadow = self.shadow
        if shadow is not None and self._choice == "auto":
            is_dense = 2 * found.moved_bytes > shadow.nbytes
            self._dense = self._dense + 1 if is_dense else 0
            if self._dense >= _PATIENCE:
                self.drop()

    def _is_wanted(self, data: Sequence[Any]) -> bool:
        if self._choice in ("bytes", "digest"):
            return True
        is_time = self._commits >= _FIRST_COMMIT and self._dense < _PATIENCE
        return is_time and _has_room(data)


def _has_room(data: Sequence[Any]) -> bool:
    """Whether all devices say what memory they have, and a shadow is little beside it."""
    needed: dict[Any, int] = {}
    for device, piece, _ in pieces_in(data):
        needed[device] = needed.get(device, 0) + piece.nbytes
    return bool(needed) and all(fits(device, nbytes) for device, nbytes in needed.items())


def fits(device: Any, nbytes: int) -> bool:
    """Whether a device says what memory it has, and so many bytes are little beside it."""
    stats = device.memory_stats() or {}
    never_used = stats.get("bytes_limit", 0) - stats.get("peak_bytes_in_use", 0)
    return nbytes * _SHARE <= never_used


def no_room(error: BaseException) -> DeviceMemoryError:
    """The error for a commit whose device has no room for it."""
    return DeviceMemoryError(
        f"a device has no memory left for this commit ({str(error).splitlines()[0]:.200}). Nothing "
        f"has changed: free some, or open the log with shadow=None, and commit again."
    )
