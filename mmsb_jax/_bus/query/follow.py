"""Following: the commits of a log as they land, whoever writes it."""

import time
from collections.abc import Iterator

from mmsb_jax._base.arguments import check_number
from mmsb_jax._bus.reading import Reading
from mmsb_jax._store.query.commit import Commit, read_commit
from mmsb_jax._store.query.follow import Follower


class Following(Reading):
    """What every bus can do to keep up with its log."""

    def follow(
        self, after: int | None = None, *, timeout: float | None = None, poll_s: float = 0.002
    ) -> Iterator[Commit]:
        """The commits behind ``after``, each once and in order, and those that land from now on.

        It sees whole commits only, at whatever durability, in the process that writes and beside
        it. It goes on when the writer begins another segment, compacts what was followed already,
        dies and comes back.

        Args:
            after: the version that the caller has; the newest one for None.
            timeout: end when nothing has landed for so many seconds; None waits for ever.
            poll_s: how long to wait between two looks.

        Raises:
            VersionError: there is no version ``after``; or commits behind it were compacted away
                before they were followed: the message says which.
            DivergenceError: what lands does not continue what was followed. The log lost its end
                in a power cut, or another one was put in its place.
            LocationError: the log was removed, or moved elsewhere.
            ClosedError: the bus was closed.

        Cost: a look that finds nothing asks for the size of the last segment, and whether the next
        is there (about 10 µs).

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for x in (1.0, 2.0):
        ...     commit = bus.commit({"x": x})
        >>> [commit.version for commit in bus.follow(after=0, timeout=0)]
        [1, 2]
        """
        if after is not None:
            check_number("after", after)
        with self._lock:
            self._settle()
            follower = Follower(self._log, self._log.version if after is None else int(after))
        return self._follow(follower, timeout, poll_s)

    def _follow(self, follower: Follower, timeout: float | None, poll_s: float) -> Iterator[Commit]:
        since = time.monotonic()
        while True:
            with self._lock:
                if self._engine_or_none is None and not self._reader_closed:
                    follower.look()
                else:
                    self._refresh()  # a writer's log is up to date; refuses one that was closed
                version = follower.advance()
                commit = None if version is None else self._commit(version)
            if commit is not None:
                since = time.monotonic()
                yield commit
                continue
            left = poll_s if timeout is None else since + timeout - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(poll_s, left))

    def _commit(self, version: int) -> Commit:
        return read_commit(self._log, version, lambda: self.durable_version)
