"""A log: its commits, and the state at any of them."""

import functools
from collections.abc import Callable
from concurrent.futures import Executor

from mmsb_jax._base.errors import CorruptionError
from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.log.contents import LogContents
from mmsb_jax._store.log.replay import advance, replay
from mmsb_jax._store.state.state import StoredState, Table


class Log(LogContents):
    """A log, opened to read. Its writer holds one too, and enters what it appends.

    Args:
        files: the log's directory.
        place: what to call it in messages.
        salvage: open what is whole before a damage, instead of refusing.

    Attributes:
        recovered: what recovery found and left out; empty when all was well.
        pieces: the segments, oldest first; there is at least one.
        scan: where the last segment ends.

    Raises:
        LocationError, CorruptionError, FormatError: the directory is no log, is damaged below
            what was durable, or was written by a newer format.
    """

    def table(self, version: int) -> Table:
        """The arrays, constants and digests at ``version``; reads no array's bytes."""
        if version == 0:
            return Table(self.manifest.ids.own)
        nothing = functools.partial(replay, self, version, lambda _: False, None, with_data=False)
        return self.retry_if_compacted(nothing)[0].table

    def advance_table(self, table: Table, version: int) -> None:
        """Bring ``table`` forward to ``version``; reads headers. It is spent where this raises."""
        for number in range(table.version + 1, version + 1):
            found = self.find(number)
            table.advance(found.record, found.chain)

    def state(
        self,
        version: int,
        wanted: Callable[[str], bool] | None = None,
        page_bytes: int | None = None,
        check: bool = True,
        executor: Executor | None = None,
    ) -> StoredState:
        """The state at ``version``, from the nearest snapshot and the commits behind it.

        Args:
            version: 0 is the empty state.
            wanted: which arrays to hold, by name; None for all.
            page_bytes: to keep the versions of pages; None to leave them.
            check: whether to compare the digest of every array held, from scratch.
            executor: where to decode and check side by side.

        Raises:
            VersionError: its bytes were not logged.
        """
        if version == 0:
            return StoredState(self.manifest.ids.own, wanted, page_bytes)
        self.check_saved(version)
        return self._state(version, wanted, page_bytes, check, executor)

    def head(
        self,
        page_bytes: int | None = None,
        executor: Executor | None = None,
        wanted: Callable[[str], bool] | None = None,
    ) -> StoredState:
        """The state at the newest version; its bytes are those of the newest that has any."""
        if not self.version:
            return self.state(0, wanted, page_bytes)
        return self._state(self.version, wanted, page_bytes, True, executor)

    def _state(
        self,
        version: int,
        wanted: Callable[[str], bool] | None,
        page_bytes: int | None,
        check: bool,
        executor: Executor | None,
    ) -> StoredState:
        state, _ = self.retry_if_compacted(
            lambda: replay(self, version, wanted, page_bytes, executor=executor)
        )
        if check:
            self._check_digest(state, executor)
        return state

    def state_after(
        self, before: StoredState, version: int, executor: Executor | None = None
    ) -> StoredState:
        """The state at a later version than ``before``, of the same arrays; it stays as it is.

        Cost: a copy of what it holds, and the commits between the two; no snapshot is read.
        """
        self.check_saved(version)
        state = before.copied()
        self.advance(state, version)
        self._check_digest(state, executor)
        return state

    def _check_digest(self, state: StoredState, executor: Executor | None) -> None:
        try:
            state.check_digest(executor)
        except BadFrameError as error:
            raise CorruptionError(
                f"{self.place}: {error}. Its frames are whole: it was written so, or several were "
                f"changed together. `mmsb verify --deep` names the arrays that are wrong, and "
                f"since when; `mmsb repair` makes a log of all that is shown to be right, with "
                f"--keep-unproven of these arrays too."
            ) from error

    def advance(self, state: StoredState, version: int) -> None:
        """Bring ``state`` forward to ``version``; its bytes are spent where this raises."""
        with room_for(f"the state at version {version}"):
            advance(self, state, version)
