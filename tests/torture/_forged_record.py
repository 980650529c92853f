"""A commit that says what no writer says."""

from mmsb_jax._store.format.record import CommitRecord


class ForgedRecord(CommitRecord):
    """Encoded whatever is in it, where the parts have room for it."""

    __slots__ = ()

    def check(self) -> None:
        """Refuse nothing."""
