"""What a durability is to the writer of a log."""

from collections.abc import Callable
from typing import ClassVar

Durability = str | tuple[str, float]
"""``"os"``, ``"fsync"`` or ``("group", milliseconds)``."""


class DurabilityStrategy:
    """When what was appended is synced.

    Args:
        durability: what the user asked for; `takes` it.
        sync: makes everything that was appended durable.

    Attributes:
        form: how a user asks for it.
        syncs_each: whether a commit is synced before it counts.
    """

    form: ClassVar[str]
    syncs_each: ClassVar[bool] = False

    def __init__(self, durability: Durability, sync: Callable[[], object]) -> None:
        """Nothing is kept, unless a strategy needs it."""

    @classmethod
    def takes(cls, durability: object) -> bool:
        """Whether this is what ``durability`` asks for: the word that `form` is."""
        return isinstance(durability, str) and durability == cls.form.strip("'")

    def appended(self) -> None:
        """Something was appended that is not synced yet; no lock of the writer is held."""

    def stop(self) -> None:
        """End what was begun; what is left is for the writer's last sync."""
