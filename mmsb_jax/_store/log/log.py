"""A log: its commits, and the state at any of them."""

import functools
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor

from mmsb_jax._base.errors import CorruptionError
from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.log.contents import LogContents, few
from mmsb_jax._store.log.replay import advance, replay
from mmsb_jax._store.state.aside import BytesAside, FoundAside
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
            version: 0 is the empty state. One that was saved in part has the arrays ``wanted`` if
                their bytes are there.
            wanted: which arrays to hold, by name; None for all.
            page_bytes: to keep the versions of pages; None to leave them.
            check: whether to compare the digest of every array held, from scratch.
            executor: where to decode and check side by side.

        Raises:
            VersionError: its bytes were not logged.
        """
        if version == 0:
            return StoredState(self.manifest.ids.own, wanted, page_bytes)
        if not self.is_saved(version):
            if wanted is not None and page_bytes is None:
                return self._state_aside(version, wanted, check, executor)
            self.check_saved(version)
        return self._state(version, wanted, page_bytes, check, executor)

    def newest_with(self, wanted: Callable[[str], bool], until: int) -> int:
        """The newest version up to ``until`` that has the bytes of the arrays ``wanted``."""
        base = self.last_saved(until)
        return max(self._with_bytes_of(wanted, base, until), default=base)

    def _with_bytes_of(self, wanted: Callable[[str], bool], base: int, until: int) -> Iterator[int]:
        """The versions behind ``base``, the last with all bytes, that have those of ``wanted``."""
        found, is_wanted = FoundAside(), dict[int, bool]()
        for version in range(base + 1, until + 1):
            found.take(self.record(version))
            stale = found.stale
            for i in stale - is_wanted.keys():
                is_wanted[i] = wanted(self.name_of(i))
            if not any(map(is_wanted.__getitem__, stale)):
                yield version

    def found_aside(self, version: int) -> FoundAside:
        """What the commits up to ``version`` have aside, since the newest with all bytes."""
        found = FoundAside()
        for number in range(self.last_saved(version) + 1, version + 1):
            found.take(self.record(number))
        return found

    def _state_aside(
        self,
        version: int,
        wanted: Callable[[str], bool],
        check: bool,
        executor: Executor | None,
    ) -> StoredState:
        """The arrays ``wanted`` at a version that was not saved whole."""
        self.check_kept(version)
        found, base = self.found_aside(version), self.last_saved(version)
        stale = sorted(name for i in found.stale if wanted(name := self.name_of(i)))
        if not base:
            self.check_saved(version)
        if stale:
            after = self.first_saved(version)
            last = self.version if after is None else after - 1
            near = list(self._with_bytes_of(wanted, base, last))
            before = max((v for v in near if v < version), default=base)
            after = min((v for v in near if v > version), default=after)
            fault = f"has no bytes of {few(stale)}: these were not logged"
            raise self.unsaved(version, fault, before, after)
        state, aside = self._state(base, wanted, None, False, executor), BytesAside()
        for number, ids in found.steps(state.words):
            self.take_aside(aside, state, number, ids)
        self.advance(state, version)
        aside.put_into(state)
        if check:
            self._check_digest(state, executor)
        return state

    def take_aside(
        self, aside: BytesAside, state: StoredState, version: int, ids: Collection[int]
    ) -> None:
        """Bring ``aside`` forward to what ``version`` has of the arrays ``ids``.

        Args:
            aside: up to the commit before, of those that have bytes of these arrays.
            state: their bytes at the newest version before it that was saved whole.
            version: one that was saved in part.
            ids: the arrays.
        """
        commit = self.find(version)
        try:
            aside.take(state, commit.record, self.chunks_of(commit), ids)
        except BadFrameError as error:
            raise self.damaged(commit.piece.segment, commit.offset, str(error)) from error

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
