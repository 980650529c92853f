"""Following a log: the commits as they land, whoever writes it."""

import time

from mmsb_jax._base.errors import DivergenceError, VersionError
from mmsb_jax._store.format.names import segment_name
from mmsb_jax._store.log.log import Log

_LOOK_S = 0.2
"""How often a follower lists the segments, whatever the last one does."""


class Follower:
    """Goes through a log, commit by commit, and sees that each continues the one before.

    Args:
        log: the log; a writer's own is always up to date.
        after: the version to begin behind.

    Attributes:
        version: the version that was come to.

    Raises:
        VersionError: there is no such version; commits behind it were compacted away.
    """

    def __init__(self, log: Log, after: int) -> None:
        check_there(log, after, log.version)
        self.version = after
        self._log = log
        self._chain = log.chain_at(after)
        self._size: int | None = -1
        self._looked = time.monotonic()

    def look(self) -> None:
        """See what another process has added, at little cost where that is nothing."""
        log, now = self._log, time.monotonic()
        log.check_place()
        name = log.pieces[-1].segment.name
        size = self._size_of(name)
        if size != self._size or now - self._looked > _LOOK_S or self._is_next_there():
            self._size, self._looked = size, now
            log.refresh()

    def _is_next_there(self) -> bool:
        """Whether a segment that continues the log may have been begun."""
        log = self._log
        name = segment_name(log.pieces[-1].segment.number + 1, log.version + 1)
        return self._size_of(name) is not None

    def _size_of(self, name: str) -> int | None:
        try:
            return self._log.files.size(name)
        except FileNotFoundError:
            return None

    def advance(self) -> int | None:
        """Go on to the next version; None where there is none yet."""
        log = self._log
        if log.version == self.version:
            return None
        if log.version < self.version:
            raise self._went_back(f"it ends at version {log.version} now, before {self.version}")
        check_there(log, self.version, log.version)
        found = log.find(self.version + 1)
        if found.record.previous_chain != self._chain:
            raise self._went_back(
                f"its version {self.version + 1} does not continue version {self.version}"
            )
        self.version, self._chain = self.version + 1, found.chain
        return self.version

    def _went_back(self, fault: str) -> DivergenceError:
        return DivergenceError(
            f"{self._log.place} is not the log that was followed: {fault}. It lost its end in a "
            f"power cut, or another log was put in its place. Begin anew with its newest state."
        )


def check_there(log: "Log", since: int, until: int) -> None:
    """Refuse what the log cannot give: the commits behind ``since`` up to ``until``."""
    if not 0 <= since <= until:
        raise log.no_version(since)
    oldest = log.kept_since
    if since + 1 < oldest:
        missing = f"versions {since + 1} to {oldest - 1}"
        raise VersionError(
            f"{missing if since + 2 < oldest else f'version {since + 1}'} cannot be had: the data "
            f"of what is older than version {oldest} were compacted away. Join late: begin with "
            f"the state of version {oldest - 1} or later (export() without since), and go on "
            f"behind it."
        )
