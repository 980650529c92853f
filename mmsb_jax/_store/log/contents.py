"""The log as a reader sees it: which commits there are, what each says, the state after any."""

import bisect
import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import CorruptionError, VersionError
from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._store.encoding.blob import read_blob
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.data import ChunksOf, read_chunks
from mmsb_jax._store.format.frame import BadFrameError, reader_of
from mmsb_jax._store.format.index import IndexRow, SegmentIndex
from mmsb_jax._store.format.names import list_snapshots, snapshot_name
from mmsb_jax._store.format.record import EXTRA_ID, MAX_EXTRA_BYTES, CommitRecord
from mmsb_jax._store.format.tags import no_tag
from mmsb_jax._store.log.archive import Archive
from mmsb_jax._store.log.opened import OpenedLog, Read
from mmsb_jax._store.log.segment import LogSegment, StoredCommit
from mmsb_jax._store.state.snapshot import read_snapshot, read_snapshot_extra

_NAMED = 4
"""Arrays that a message names."""


def few(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


class LogContents(OpenedLog):
    """What the files of a log hold, commit by commit; see `Log`."""

    def __init__(self, files: Files, place: str, salvage: bool = False) -> None:
        self._names: dict[int, str] = {}
        self._named_through = 0
        try:
            super().__init__(files, place, salvage)
        except BaseException as error:
            files.close()  # what was opened to look is not kept for a log that there is not
            if isinstance(error, FileNotFoundError):
                raise self.missing(error) from error
            raise

    @property
    def first_version(self) -> int:
        """The oldest version of which the log knows what its commit says."""
        view = self.view
        part = view.archives[0] if view.archives else view.pieces[0].segment
        return part.first_version

    @property
    def kept_since(self) -> int:
        """The oldest version whose commit is there with its data.

        Of what is older a compaction has left what the commits say of themselves, and the states
        of the versions in `kept`.
        """
        return self.pieces[0].segment.first_version

    @property
    def kept(self) -> tuple[int, ...]:
        """Versions before `kept_since` whose state is there, ascending."""
        compaction = self.view.compaction
        return () if compaction is None else compaction.kept

    @property
    def durable_version(self) -> int:
        """The newest version that is known to survive a power cut."""
        return self.retry_if_compacted(self._durable_version)

    def _durable_version(self) -> int:
        for piece in reversed(self.pieces):
            if piece.segment.base < self.scan.synced:
                index = self.index_of(piece)
                limit = self.scan.synced - piece.segment.base
                return piece.segment.first_version - 1 + index.count_before(limit)
        return self.kept_since - 1

    def tags(self) -> dict[str, int]:
        """The version that each tag names, by tag, sorted."""
        return self.retry_if_compacted(self._tags)

    def _tags(self) -> dict[str, int]:
        view = self.view
        compaction = view.compaction
        found = dict[str, int | None]() if compaction is None else dict(compaction.tags)
        for piece in list(view.pieces):
            found |= self.index_of(piece).tags
        return {
            name: version
            for name, version in sorted(found.items())
            if version is not None and version <= self.version
        }

    def tagged(self, name: str) -> int:
        """The version that is tagged ``name``."""
        tags = self.tags()
        if name not in tags:
            raise no_tag(name, tags)
        return tags[name]

    def part_of(self, version: int) -> Archive | LogSegment:
        """The archive or segment that holds the commit of ``version``."""
        view = self.view
        if version > self.version:
            raise self.no_version(version)
        starts = [piece.segment.first_version for piece in view.pieces]
        if version >= starts[0]:
            return view.pieces[bisect.bisect_right(starts, version) - 1]
        place = bisect.bisect_left(view.archives, version, key=lambda archive: archive.last_version)
        if place == len(view.archives) or version < view.archives[place].first_version:
            raise self.no_version(version)
        return view.archives[place]

    def piece_of(self, version: int) -> LogSegment:
        """The segment that holds ``version``."""
        part = self.part_of(version)
        if isinstance(part, Archive):
            raise self.dropped(version)
        return part

    def retry_if_compacted(self, read: Callable[[], Read]) -> Read:
        """As `OpenedLog.retry_if_compacted`."""
        try:
            with room_for(f"what is read of {self.place}"):
                return super().retry_if_compacted(read)
        except FileNotFoundError as error:
            raise self.missing(error) from error

    def missing(self, error: FileNotFoundError) -> CorruptionError:
        """The error for a file that the log needs, and that is not there."""
        name = str(error.filename or "a file")
        where = name if name.startswith("/") else f"{self.place}/{name}"
        return CorruptionError(
            f"{where} is missing. Restore it from a copy, or make a new log of what "
            f"is whole with `mmsb repair`."
        )

    def no_version(self, version: int) -> VersionError:
        """The error for a version that is not there, with the nearest that is."""
        if not self.version:
            return VersionError(f"version {show(version)} does not exist: the log is empty")
        nearest = min(max(version, self.first_version), self.version)
        return VersionError(
            f"version {show(version)} does not exist. The log has versions {self.first_version} to "
            f"{self.version}; the nearest is {nearest}."
        )

    def dropped(self, version: int) -> VersionError:
        """The error for a version whose data a compaction dropped, with the nearest that is had."""
        there = (*self.kept, self.kept_since)
        nearest = min(there, key=lambda known: (abs(known - version), known))
        kept = ", ".join(map(str, self.kept))
        return VersionError(
            f"the data of version {version} were dropped when the log was compacted. It has "
            f"versions {self.kept_since} to {self.version}, and of those before the states of "
            f"{kept or 'none'}; the nearest is {nearest}."
        )

    def is_saved(self, version: int) -> bool:
        """Whether the bytes of ``version`` were logged; of one that is there."""
        if version == 0 or version in self.kept:
            return True
        return self.retry_if_compacted(lambda: self._index_with(version)[1].is_saved(version))

    def last_saved(self, version: int) -> int:
        """The newest version up to ``version`` whose bytes can be had; 0 where there is none."""

        def find() -> int:
            indexes = map(self.index_of, reversed(self.pieces))
            found = next((v for index in indexes if (v := index.last_saved(version))), 0)
            return max(found, *(kept for kept in self.kept if kept <= version), 0)

        return self.retry_if_compacted(find)

    def first_saved(self, version: int) -> int | None:
        """The oldest version from ``version`` on whose bytes can be had; None for none."""

        def find() -> int | None:
            indexes = map(self.index_of, self.pieces)
            found = next((v for index in indexes if (v := index.first_saved(version))), None)
            later = [kept for kept in self.kept if kept >= version]
            return min(later + ([] if found is None else [found]), default=None)

        return self.retry_if_compacted(find)

    def with_bytes(self) -> list[int]:
        """The versions whose bytes can be had, ascending."""

        def find() -> list[int]:
            view = self.view
            kept = () if view.compaction is None else view.compaction.kept
            indexes = map(self.index_of, list(view.pieces))
            return [*kept, *(v for index in indexes for v in index.saved())]

        return self.retry_if_compacted(find)

    def check_saved(self, version: int) -> None:
        """Refuse a version of which not all bytes were logged, with the nearest on both sides."""
        if self.is_saved(version):
            return
        aside = sorted(map(self.name_of, self.record(version).aside["id"].tolist()))
        fault = "holds a digest only: its bytes were not logged"
        if aside:
            fault = f"was saved in part: arrays=[…] gives {few(aside)}, the rest was not logged"
        raise self.unsaved(version, fault, self.last_saved(version), self.first_saved(version))

    def unsaved(self, version: int, fault: str, before: int, after: int | None) -> VersionError:
        """The error for a version that has no bytes of what is asked for, with the nearest."""
        names = [str(near) for near in (before, after) if near]
        nearest = (
            f"the nearest with bytes: {' and '.join(names)}"
            if names
            else "no version has bytes yet"
        )
        return VersionError(
            f"version {version} {fault}, as a policy or save=False said; {nearest}. `Bus.rerun` "
            f"takes its steps again."
        )

    def check_kept(self, version: int) -> None:
        """Refuse a version whose state cannot be had any more."""
        if version < self.kept_since and version not in self.kept:
            is_known = version >= self.first_version
            raise self.dropped(version) if is_known else self.no_version(version)

    def check_state(self, version: int) -> None:
        """Refuse a version whose state cannot be had: it was dropped, or never logged."""
        self.check_kept(version)
        self.check_saved(version)

    def row(self, version: int) -> IndexRow:
        """What the index says of ``version``."""
        return self.retry_if_compacted(lambda: self._index_with(version)[1].row(version))

    def _index_with(self, version: int) -> tuple[Archive | LogSegment, SegmentIndex]:
        part = self.part_of(version)
        index = self.index_of(part)
        if version > index.last_version:
            assert isinstance(part, LogSegment)
            assert part.damage is not None
            raise part.damage
        return part, index

    def record(self, version: int) -> CommitRecord:
        """What the commit says of itself; reads none of its data."""
        return self._commit(version)[0]

    def chain_after(self, version: int) -> bytes:
        """The chain after the commit of ``version``."""
        return self._commit(version)[1]

    def chain_at(self, version: int) -> bytes:
        """The chain after ``version``, which may be the one before the oldest that is there."""
        if version == 0:
            return bytes(16)
        if version == self.version:
            return self.scan.chain
        return self.record(version + 1).previous_chain

    def end_of(self, version: int) -> int:
        """Where in the log the commit of ``version`` ends, in bytes."""
        return self._commit(version)[2]

    def _commit(self, version: int) -> tuple[CommitRecord, bytes, int]:
        """What a commit says, the chain after it, the position where it ends."""

        def read() -> tuple[CommitRecord, bytes, int]:
            part = self.part_of(version)
            if isinstance(part, Archive):
                return part.record(version)
            found = self._find(version)
            return found.record, found.chain, found.end

        return self.retry_if_compacted(read)

    def find(self, version: int) -> StoredCommit:
        """The commit of ``version``, which has its data; reads none of them."""
        return self.retry_if_compacted(lambda: self._find(version))

    def _find(self, version: int) -> StoredCommit:
        piece, index = self._index_with(version)
        if isinstance(piece, Archive):
            raise self.dropped(version)
        offset = index.offset(version)
        try:
            found = self._read_commit(piece, offset)
            if found.record.version != version:
                raise BadFrameError(f"the commit of version {version} is not where it should be")
            if found.record.log_id != self.manifest.ids.of(version):
                raise BadFrameError(f"the commit of version {version} is of another log")
        except FileNotFoundError as error:
            raise self.missing(error) from error
        except BadFrameError as error:
            raise self.damaged(piece.segment, offset, str(error)) from error
        return found

    def chunks_of(self, found: StoredCommit) -> ChunksOf:
        """The data of each chunk of a commit, in order; frames are read as they are asked for."""
        segment = found.piece.segment
        read = reader_of(self.files, segment.name)
        with self._reading(found):
            chunks = read_chunks(read, segment.base, found.offset, found.record)
        chunks.within = lambda: self._reading(found)
        return chunks

    @contextlib.contextmanager
    def _reading(self, found: StoredCommit) -> Iterator[None]:
        """Turn what is wrong with the data of a commit into the error that names its place."""
        try:
            yield
        except FileNotFoundError as error:
            raise self.missing(error) from error
        except BadFrameError as error:
            raise self.damaged(found.piece.segment, found.offset, str(error)) from error

    def extra(self, version: int) -> tuple[bytes | None, int]:
        """The caller's ``extra`` of a commit (None: there is none), and the commit's flags."""
        record = self.record(version)
        if record.extra_span() is None:
            return None, record.flags
        return self.retry_if_compacted(lambda: self._extra(version)), record.flags

    def _extra(self, version: int) -> bytes | None:
        self.check_kept(version)
        if version < self.kept_since:
            try:
                extra = read_snapshot_extra(self.files, version, self.manifest.ids)
                if extra is not None:
                    return extra.blob()
            except (BadFrameError, FileNotFoundError) as error:
                fault = "missing" if isinstance(error, FileNotFoundError) else f"damaged: {error}"
                raise CorruptionError(
                    f"{snapshot_name(version)} is {fault}. Restore it from a copy: nothing else "
                    f"has the extra of version {version}."
                ) from error
            raise CorruptionError(
                f"{self.place}: the extra of version {version} is not there. Its state is: the "
                f"log was repaired, and only that was whole."
            )
        found = self._find(version)
        span = found.record.extra_span()
        assert span is not None
        parts = self.chunks_of(found)[span]
        with self._reading(found):
            return read_blob(found.record.chunks[span], parts, MAX_EXTRA_BYTES)

    def select(
        self,
        array: str | None = None,
        source: str | None = None,
        since: int | None = None,
        until: int | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Iterator[int]:
        """Versions, oldest first; ``since`` and ``until`` are inclusive, as ``start_ns`` is."""
        low = max(self.first_version, 0 if since is None else since)
        high = self.version if until is None else min(until, self.version)

        def find() -> list[int]:
            ids = None if array is None else self.ids_named(array, low, high)
            found: list[int] = []
            for index in map(self.index_of, self.parts):
                if index.last_version >= low and index.first_version <= high:
                    found += index.select(ids, source, start_ns, end_ns)
            return [version for version in found if low <= version <= high]

        return iter(self.retry_if_compacted(find))

    def ids_named(self, name: str, low: int, high: int) -> list[int]:
        """Ids of every array that was called ``name`` while it was touched in ``low … high``."""
        touched: set[int] = set()
        for index in map(self.index_of, self.parts):
            if index.last_version >= low and index.first_version <= high:
                touched |= index.touched_ids()
        return [i for i in touched if self.name_of(i) == name]

    def versions_with_ops(self) -> list[int]:
        """Versions, oldest first, that changed the table of arrays."""
        return self.retry_if_compacted(
            lambda: [v for p in self.parts for v in self.index_of(p).versions_with_ops()]
        )

    def name_of(self, array_id: int) -> str:
        """The name of an array, live or deleted."""
        for learn in (self._learn_names, self._learn_archived_names):
            if array_id in self._names:
                break
            self.retry_if_compacted(learn)
        if array_id not in self._names:
            raise CorruptionError(
                f"{self.place}: a commit touches array {array_id}, which no commit ever made"
            )
        return self._names[array_id]

    def _learn_names(self) -> None:
        through = self.version
        for piece in list(self.pieces):
            for version in self.index_of(piece).versions_with_ops(self._named_through):
                self._learn(self._find(version).record)
        if not self._named_through and self.kept_since > 1:
            # What was made before is in the snapshot that the rest builds on.
            with contextlib.suppress(BadFrameError, StopIteration):
                oldest = next(v for v in self.snapshots() if v >= self.kept_since - 1)
                ids = self.manifest.ids
                state, _ = read_snapshot(self.files, oldest, ids, with_data=False)
                self._names |= {i: info.name for i, info in state.table.arrays.items()}
        self._named_through = through

    def _learn_archived_names(self) -> None:
        for archive in self.view.archives:
            for version in archive.index.versions_with_ops():
                self._learn(archive.record(version)[0])

    def _learn(self, record: CommitRecord) -> None:
        self._names |= {op.info.id: op.info.name for op in record.ops}

    def last_with(
        self,
        step: int | None = None,
        time_ns: int | None = None,
        without: Sequence[tuple[int, int]] = (),
    ) -> int:
        """The newest version of ``step``, or the newest not after ``time_ns``.

        Args:
            step: the step.
            time_ns: the time, where there is no step.
            without: spans of versions that do not count: first and last.
        """
        return self.retry_if_compacted(lambda: self._last_with(step, time_ns, without))

    def _last_with(
        self, step: int | None, time_ns: int | None, without: Sequence[tuple[int, int]]
    ) -> int:
        found = self._newest_with(step, time_ns, without)
        if found is not None:
            return found
        if without and (passed := self._newest_with(step, time_ns, ())) is not None:
            what = f"time_ns={time_ns}" if step is None else f"step {step}"
            raise VersionError(
                f"{what} is that of version {passed}, which is superseded: the log went back, and "
                f"on from an older version. Ask with lineage='all', or for version={passed}."
            )
        if not any(len(self.index_of(part)) for part in self.parts):
            raise VersionError("the log is empty: there is no version to find")
        if step is not None:
            steps = np.concatenate([self.index_of(part).steps(without) for part in self.parts])
            if not steps.size:
                raise VersionError(f"no commit has a step; step={step} does not exist")
            nearest = min(steps.tolist(), key=lambda known: abs(known - step))
            raise VersionError(f"step {step} does not exist; the nearest step is {nearest}")
        indexes = map(self.index_of, self.parts)
        earliest = min(index.earliest_ns() for index in indexes if len(index))
        raise VersionError(
            f"time_ns={time_ns} is before every commit; the earliest is time_ns={earliest}"
        )

    def _newest_with(
        self, step: int | None, time_ns: int | None, without: Sequence[tuple[int, int]]
    ) -> int | None:
        for part in reversed(self.parts):
            found = self.index_of(part).last_with(step, time_ns, without)
            if found is not None:
                return found
        return None

    def snapshots(self) -> list[int]:
        """Versions of which there is a snapshot, ascending."""
        oldest, kept = self.kept_since - 1, self.kept
        return [
            version
            for version in list_snapshots(self.files)
            if oldest < version <= self.version or version in kept
        ]

    def arrays_of(self, record: CommitRecord) -> list[str]:
        """Names of the arrays that a commit changed a byte of."""
        if not record.is_saved:
            return sorted(self.name_of(i) for i in record.digests["id"].tolist())
        rows = record.records
        changed = rows[(rows["changed"] > 0) & (rows["id"] != EXTRA_ID)]
        return sorted(self.name_of(int(i)) for i in changed["id"])
