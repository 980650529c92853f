"""The writer of a log: append, sync, rotate, close. All or nothing a commit."""

import contextlib
import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mmsb_jax._base.errors import ClosedError, CorruptionError, DivergenceError, LocationError
from mmsb_jax._store.files.protocol import AppendFile, Buffer
from mmsb_jax._store.files.threads import Job, Threads
from mmsb_jax._store.format.chain import closed
from mmsb_jax._store.format.data import CommitFrames, Frames, Position
from mmsb_jax._store.format.frame import Kind, build_frame
from mmsb_jax._store.format.names import LOG_FOLDER, NO_SEGMENT, list_snapshots, snapshot_name
from mmsb_jax._store.format.tags import TagChanges, encode_tags
from mmsb_jax._store.log.in_force import encode_process, stored_extra
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import SEGMENT_FRAME_BYTES, LogSegment, ScannedCommit, Segment
from mmsb_jax._store.state.snapshot import write_snapshot
from mmsb_jax._store.writer.cleanup import remove_leftovers, remove_unreached
from mmsb_jax._store.writer.durability.base import Durability
from mmsb_jax._store.writer.durability.choose import durability_strategy
from mmsb_jax._store.writer.lineage import change_ids

Result = TypeVar("Result")

_PLACE_CHECK_NS = 100_000_000
"""How long commits go on before the path of the log is looked at again."""


class LogWriter:
    """Appends commits to a log that nobody else writes.

    Thread-safe: one commit is appended at a time; a sync runs beside appends.

    An interrupt may come between any two lines of a call. So whatever changes the log first says
    that it is at work; where the next call finds that still said, it brings the memory up from the
    disk: what is whole there counts.

    Args:
        log: the log, opened; it is kept up to date.
        durability: when a commit counts as done.
        has_lock: whether nobody else can have the right to write it by now.

    Attributes:
        durable_version: the newest version that survives a power cut.
        snapshots_begun: snapshots that were begun here.
        snapshot_fault: why the last snapshot could not be made; None when it could.
        is_at_work: whether something that changes the log is going on, or was cut short.
        process: what to say of this process before its first commit in each segment; empty where
            nothing is known, which is said behind another process.
    """

    def __init__(
        self,
        log: Log,
        durability: Durability = "os",
        has_lock: Callable[[], bool] = lambda: True,
    ) -> None:
        strategy = durability_strategy(durability)
        self.log = log
        self.durable_version = 0
        self.snapshots_begun = 0
        self.snapshot_fault: str | None = None
        self._append_lock = threading.RLock()
        self._sync_lock = threading.Lock()
        self._disk_lock = threading.Lock()
        self._pid = os.getpid()
        log.is_written_here = True
        self._poison: str | None = None
        self.is_at_work = False
        self._has_tagged = False
        self.process: Mapping[str, str] = {}
        self._introduced: Mapping[str, str] = self.process
        self._introduced_in = ""
        self._has_lock = has_lock
        self._place_checked_ns = time.monotonic_ns()
        self._synced = log.scan.synced
        self._unsynced: list[AppendFile] = []
        self._background = Threads(1)
        self._snapshot: Job | None = None
        self._upkeep: Job | None = None
        self._file_name = log.pieces[-1].segment.name
        self._file = log.files.reopen(self._file_name)
        try:
            self._begin()
        except BaseException:
            self._close_files()
            raise
        self._durability = strategy(durability, self.sync)

    def _begin(self) -> None:
        """Make durable what is there; seal a bad tail by going on in a new segment."""
        log = self.log
        *sealed, last = log.pieces
        for piece in (*(p for p in sealed if p.end > self._synced), last):
            # An earlier sync of it may have failed; then the next would cover nothing.
            log.files.rewrite(piece.segment.name, max(0, self._synced - piece.segment.base))
            if piece is not last:
                self._unsynced.append(log.files.reopen(piece.segment.name))
        self.sync()
        if log.scan.fault is not None or log.newest_number() != last.segment.number:
            before = self._file
            self._go_on_in(self._create_segment())
            before.close()
        remove_leftovers(log.files, log.manifest)  # the manifest is durable by now
        remove_unreached(log.files, log.version)

    def _go_on_in(self, file: AppendFile) -> None:
        self._file, self._file_name = file, self.log.pieces[-1].segment.name

    def _create_segment(self) -> AppendFile:
        """A new segment that continues the log where it ends, durable before it is used."""
        log, files = self.log, self.log.files
        segment = Segment(
            log_id=log.manifest.ids.own,
            number=log.newest_number() + 1,
            previous=log.pieces[-1].segment.number,
            first_version=log.version + 1,
            base=log.position,
            chain=log.scan.chain,
            synced=self._synced,
        )
        handle = files.create(segment.name)
        try:
            handle.append(segment.frame())
        except BaseException:
            handle.close()
            with contextlib.suppress(OSError):
                files.remove(segment.name)
            raise
        try:
            handle.sync()
        except OSError as error:
            handle.close()
            if not isinstance(error, LocationError):
                # It may come to light after a crash. Nothing may be written behind it elsewhere.
                self._poison = f"a sync of the log failed: {error!r}"
            raise
        log.enter_segment(segment)
        return handle

    def append(self, commit: Frames) -> int:
        """Append one commit, of this log's own or of another; returns the bytes written.

        One of another log must continue this log, whose manifest must say who wrote it. Where it
        fails the log is as it was.
        """
        with self._append_lock:
            self._check_usable()
            if time.monotonic_ns() - self._place_checked_ns > _PLACE_CHECK_NS:
                self._check_place()
            self.is_at_work = True
            scan, piece = self.log.scan, self.log.pieces[-1]
            if self._introduced_in != self._file_name or self._introduced is not self.process:
                self._introduce()
            start = scan.offset
            try:
                written = self._write(commit)
            except OSError as error:
                self._take_back(start)
                raise disk_error(error, self.log.place) from error
            except Exception:
                self._take_back(start)
                raise
            if not self._file.is_there():
                raise self.poison("its files were removed while it was open")
            record, end = written.record, start + written.logged_bytes
            if self._durability.syncs_each:
                self._sync_commit(record.version, piece.segment.base + end, start)
            assert piece.index is not None
            piece.index.append(record, written.offset, written.logged_bytes)
            scan.offset, scan.chain = end, written.chain
            scan.version = record.version  # last: readers in other threads go by it
            self.is_at_work = False
        self._durability.appended()
        return written.logged_bytes

    def append_tags(self, changes: TagChanges, check: Callable[[], None] | None = None) -> None:
        """Give names to versions, or take them away: a frame without a version of its own.

        Args:
            changes: the names.
            check: called first, while nothing is dropped; refuses what cannot be named.
        """
        meta = encode_tags(changes)
        with self._append_lock:
            self._check_usable()
            self._check_place()
            if check is not None:
                check()
            log, scan, index = self.log, self.log.scan, self.log.pieces[-1].index
            self.is_at_work, start = True, scan.offset
            header, buffers = build_frame(
                Kind.TAG, log.position, self._synced, meta, must_understand=False
            )
            try:
                self._file.append(buffers)
            except OSError as error:
                self._take_back(start)
                raise disk_error(error, log.place) from error
            if self._durability.syncs_each:
                self._sync_commit(log.version, log.position + header.frame_bytes, start)
            assert index is not None
            index.tags |= changes
            scan.offset, scan.synced = start + header.frame_bytes, max(scan.synced, header.synced)
            self._has_tagged, self.is_at_work = True, False
        self._durability.appended()

    def _introduce(self) -> None:
        """Say which process the commits are of that follow; where nobody said, not of none."""
        scan = self.log.scan
        if not (self.process or scan.has_process):
            self._introduced, self._introduced_in = self.process, self._file_name
            return
        header, buffers = build_frame(
            Kind.PROCESS,
            self.log.position,
            self._synced,
            encode_process(self.process),
            must_understand=False,
        )
        try:
            self._file.append(buffers)
        except OSError as error:
            self._take_back(scan.offset)
            raise disk_error(error, self.log.place) from error
        scan.synced = max(scan.synced, header.synced)
        scan.offset += header.frame_bytes
        self._introduced, self._introduced_in = self.process, self._file_name

    def _write(self, commit: Frames) -> ScannedCommit:
        """Write the frames of a commit; returns it as a scan would meet it."""
        log, scan = self.log, self.log.scan
        if commit.is_own:
            change_ids(log, closed(log.manifest.ids, scan.version), self.poison)
        base, version = log.pieces[-1].segment.base, scan.version + 1
        own = log.manifest.ids.own
        place = Position(base + scan.offset, self._synced, own, version, scan.chain)
        last = None
        for header, buffers in commit.placed(place):
            self._file.append(buffers)
            last = header
        assert last is not None
        scan.synced = max(scan.synced, last.synced)
        offset = last.position - base
        end = offset + last.frame_bytes
        return ScannedCommit(commit.record, offset, end - scan.offset, commit.chain)

    def begin_with(self, commit: CommitFrames, chain: bytes, snapshot: list[Buffer]) -> None:
        """Begin an empty log anew, with a commit that another log wrote and the state after it.

        Args:
            commit: the first commit; the log's manifest must say who wrote it.
            chain: the chain before it.
            snapshot: the file of the snapshot of its version.
        """
        with self._append_lock:
            self._check_usable()
            log, files, version = self.log, self.log.files, commit.record.version
            end = SEGMENT_FRAME_BYTES + commit.nbytes
            segment = Segment(
                log_id=log.manifest.ids.own,
                number=log.newest_number() + 1,
                previous=NO_SEGMENT,
                first_version=version,
                base=0,
                chain=chain,
                synced=end,
            )
            frames = [buffers for _, buffers in commit.placed(Position(SEGMENT_FRAME_BYTES, end))]
            self.is_at_work = True
            try:
                files.publish(snapshot_name(version), snapshot)
                files.publish(segment.name, [*segment.frame(), *itertools.chain(*frames)])
            except OSError as error:
                if self._may_be_there(segment.name):
                    # It may be there after a crash. Nothing may be written elsewhere.
                    fault = f"the beginning of the log could not be synced: {error}"
                    raise self.poison(fault) from error
                self.is_at_work = False
                raise disk_error(error, log.place) from error
            # From here on the log begins so, whatever happens.
            self._recover(is_synced=True)
            self._synced, self.durable_version = end, version

    def _may_be_there(self, name: str) -> bool:
        try:
            return name in self.log.files.names(LOG_FOLDER)
        except OSError:
            return True

    def _sync_commit(self, version: int, position: int, start: int) -> None:
        """Make the commit just written durable before it counts."""
        try:
            self._sync_files([self._file])
        except ClosedError:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise
        self._synced, self.durable_version = position, version

    def _sync_files(self, files: Sequence[AppendFile]) -> None:
        """Sync one after the other; after a failure never again.

        Nobody knows then what the disk holds, and a second sync would lie: the system tells of a
        failure once.
        """
        with self._disk_lock:
            if self._poison is not None:
                raise self._poisoned()
            try:
                for file in files:
                    file.sync()
            except LocationError:  # a folder that cannot be opened now: nothing was synced in vain
                raise
            except OSError as error:
                self._poison = f"a sync of the log failed: {error}"
                raise self._poisoned() from error

    def _take_back(self, offset: int) -> None:
        """Remove what a failed append left; a log that cannot be cleaned is not used again."""
        try:
            self._file.truncate(offset)
        except OSError as error:
            self._poison = f"a failed write could not be taken back: {error}"
        self.is_at_work = False

    def settle(self) -> None:
        """Finish, or take back, what an interrupt cut short; nothing where nothing was."""
        if self.is_at_work:
            with self._append_lock:
                self._check_usable()

    def _recover(self, is_synced: bool = False) -> None:
        """Bring the memory up from the log: what is whole on disk counts, the rest is taken back.

        Args:
            is_synced: whether the newest segment is known to survive a power cut.
        """
        log, manifest = self.log, self.log.manifest
        try:
            log.open_anew()
            segment = log.pieces[-1].segment
            if segment.name != self._file_name or log.manifest != manifest:
                file = log.files.reopen(segment.name)
                self._unsynced.append(self._file)
                self._go_on_in(file)
                if not is_synced:
                    self._sync_files([self._file])
            if log.scan.fault is not None:
                self._file.truncate(log.scan.offset)
                log.scan.fault = None
            if self._durability.syncs_each:
                self._sync_files([*self._unsynced, self._file])
                self._synced, self.durable_version = log.position, log.version
        except CorruptionError as error:
            raise self.poison(f"what was cut short cannot be made whole: {error}") from error
        except OSError as error:
            raise disk_error(error, log.place) from error
        self.is_at_work = False

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ClosedError(
                f"{self.log.place} is written by process {self._pid}, which forked this one. Pass "
                f"what is to be written to that process."
            )
        if self._poison is not None:
            raise self._poisoned()
        if self.is_at_work:
            self._recover()

    def check_place(self) -> None:
        """See that the log can be written, and is the one at its path; see `sync`."""
        with self._append_lock:
            self._check_usable()
            self._check_place()

    def _check_place(self) -> None:
        """See that what is at the path is still this log, and that nobody else may write it."""
        try:
            self.log.check_place_written()
        except (DivergenceError, FileNotFoundError, LocationError) as error:
            if isinstance(error, LocationError) and error.errno != errno.ENOENT:
                raise
            raise self.poison(str(error)) from error
        if not self._has_lock():
            raise self.poison("its lock was removed, so that another process may write it too")
        self._place_checked_ns = time.monotonic_ns()

    def _poisoned(self) -> ClosedError:
        reason = str(self._poison)
        if not reason.endswith("."):  # a sentence says itself what to do
            reason += ". Close it and open it again: what is whole on disk is recovered."
        return ClosedError(f"{self.log.place} cannot be written any more: {reason}")

    def sync(self) -> int:
        """Make every commit so far durable; returns the newest durable version."""
        with self._sync_lock:
            with self._append_lock:
                self._check_usable()
                self._check_place()
                version, position = self.log.version, self.log.position
                sealed, last = list(self._unsynced), self._file
            self._sync_files([*sealed, last])
            with self._append_lock:
                del self._unsynced[: len(sealed)]
                self._synced = max(self._synced, position)
                self.durable_version = max(self.durable_version, version)
            for file in sealed:
                file.close()
            return self.durable_version

    def mark_sealed(self) -> int:
        """Let the log say, whatever happens, that its sealed segments are durable.

        Returns:
            The position up to which it says so; what is before it is never written again.
        """
        self.sync()
        with self._append_lock:
            self._check_usable()
            newest = self.log.pieces[-1].segment
            if newest.synced >= newest.base:  # its first frame says it
                return newest.synced
            self._append_mark()
            return self.log.scan.synced if self._poison is None else 0

    def rotate(self) -> LogSegment | None:
        """Go on in a new segment; returns the one that is sealed, None where it is still empty."""
        with self._append_lock:
            self._check_usable()
            sealed = self.log.pieces[-1]
            if not sealed.index:
                return None
            self._check_place()
            self.is_at_work = True
            try:
                fresh = self._create_segment()
            except LocationError:
                raise  # it may be whole: the next call goes on in it, or takes it away
            except OSError as error:
                self.is_at_work = False
                self._check_usable()
                raise disk_error(error, self.log.place) from error
            self._unsynced.append(self._file)
            self._go_on_in(fresh)
            self.is_at_work = False
            return sealed

    def while_still(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns; meanwhile nothing is appended, and nothing done beside it."""
        self.finish_background()
        return self.at_rest(work)

    def finish_background(self) -> None:
        """Return once what was begun in the background is done, here where no thread is at it."""
        for job in (self._snapshot, self._upkeep):
            if job is not None:
                job.run()

    @property
    def is_run_here(self) -> bool:
        """Whether this very thread is at work in the background, for which it cannot wait."""
        return any(job is not None and job.is_run_here for job in (self._snapshot, self._upkeep))

    def at_rest(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns, which is short; meanwhile nothing is appended."""
        with self._sync_lock, self._append_lock:
            self._check_usable()
            self._check_place()
            return work()

    def change_manifest(self, change: Callable[[], None]) -> None:
        """Do what replaces the manifest; an interrupt in it is made good by the next call."""
        with self._append_lock:
            self._check_usable()
            self.is_at_work = True
            try:
                change()
            except Exception:
                self.is_at_work = False
                raise
            self.is_at_work = False

    def poison(self, reason: str) -> ClosedError:
        """Write nothing more, since nobody knows what the disk holds; returns the error for it."""
        self._poison = self._poison or reason
        return self._poisoned()

    def schedule_snapshot(self, page_bytes: int, sealed: LogSegment | None = None) -> Job:
        """Fold the newest version that has bytes into a snapshot, in the background.

        One at a time: while one is being made, the next is left out. Where no thread can be begun
        it is made now.

        Returns:
            A future: the bytes written; None where there was a snapshot already.
        """
        with self._append_lock:
            if self._snapshot is None or self._snapshot.done():
                version = self.log.last_saved(self.log.version)
                self.snapshots_begun += 1
                self._snapshot = self._background.submit(
                    self._make_snapshot, version, page_bytes, sealed
                )
            else:
                self._background.again(self._snapshot)
            snapshot = self._snapshot
        if self._background.are_none:
            snapshot.run()
        return snapshot

    def schedule_upkeep(self, work: Callable[[], object]) -> None:
        """Do ``work`` in the background, behind the snapshots; one at a time, as with these."""
        with self._append_lock:
            if self._upkeep is not None and not self._upkeep.done():
                return
            self._upkeep = upkeep = self._background.submit(work)
        if self._background.are_none:
            upkeep.run()

    def _make_snapshot(
        self, version: int, page_bytes: int, sealed: LogSegment | None
    ) -> int | None:
        log = self.log
        try:
            self.sync()
            if sealed is not None:
                log.write_index(sealed)
            if not version or version in list_snapshots(log.files):
                return None
            state = log.state(version, page_bytes=page_bytes)
            end = log.find(version).end
            extra = stored_extra(log, version)
            written = write_snapshot(log.files, state, time.time_ns(), end, extra=extra)
        except Exception as error:
            self.snapshot_fault = f"the snapshot of version {version} was not made: {error}"
            raise
        self.snapshot_fault = None
        if sealed is not None:
            sealed.index = None  # it is on disk; kept, the memory would grow with the log
        return written

    def close(self) -> None:
        """Sync, leave a mark that says so, and give every handle back.

        In a forked child it gives the handles back and does nothing else.
        """
        if os.getpid() != self._pid:
            self._close_files()
            return
        self._durability.stop()
        self.finish_background()
        self._background.shutdown()
        try:
            if self._poison is None:
                self.sync()
                self._leave_mark()
        except Exception:
            self._give_back()
            raise
        self._give_back()  # behind an interrupt the next call does all of it

    def _give_back(self) -> None:
        self._poison = self._poison or "it was closed"
        self._close_files()

    def _close_files(self) -> None:
        for file in (*self._unsynced, self._file):
            file.close()

    def _leave_mark(self) -> None:
        """Without a mark, damage to the last commits would pass for a torn tail."""
        log = self.log
        with contextlib.suppress(CorruptionError):
            if log.durable_version >= log.version and not self._has_tagged:
                return  # as far as the marks tell
        with self._append_lock:
            self._append_mark()

    def _append_mark(self) -> None:
        """Say in the log up to where it is durable, durably; where that fails, it is not said."""
        scan = self.log.scan
        header, buffers = build_frame(Kind.MARK, self.log.position, self._synced)
        self.is_at_work = True
        try:
            self._file.append(buffers)
            self._file.sync()
        except OSError:
            self._take_back(scan.offset)
            return
        scan.offset, scan.synced = scan.offset + header.frame_bytes, header.synced
        self.is_at_work = False


def disk_error(error: OSError, place: str) -> LocationError:
    """What an error of the file system means for the log, and what to do."""
    if isinstance(error, LocationError):  # it says so itself
        return error
    reasons = {
        errno.ENOSPC: "the disk is full. Make room",
        errno.EDQUOT: "the disk quota is used up. Make room",
        errno.EACCES: "permission is denied. Change the permissions",
        errno.EROFS: "the file system is read-only. Use another place",
    }
    code = error.errno or 0
    answer = os.strerror(code) if code else str(error)
    reason = reasons.get(code, f"the disk answers: {answer}. See to the disk")
    return LocationError(
        code,
        f"nothing was written to {place}: {reason} and try again; the log and the state are as "
        f"they were",
    )
