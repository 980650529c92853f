"""Streams: commits on their way to another log, in a file or over a wire.

A stream is a head frame, then a snapshot where the receiver has nothing yet, then commits, in the
very frames that they have in the log. So what arrives has the hashes, the chain and the digests
that were sent, and can be checked as a chain before anything is done with it.
"""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmsb_jax._base.arguments import path_text, show
from mmsb_jax._base.errors import CorruptionError, LocationError, StructureError
from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._store.files.descriptor import Descriptor
from mmsb_jax._store.files.disk import sync_folder
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.files.unreadable import unreadable
from mmsb_jax._store.format.chain import ANCESTOR_BYTES, LogIds
from mmsb_jax._store.format.data import CommitFrames, commit_start, read_commit_frames
from mmsb_jax._store.format.frame import (
    MAX_NUMBER,
    BadFrameError,
    Kind,
    Reader,
    build_frame,
    read_header,
    read_meta,
    reader_of,
)
from mmsb_jax._store.format.manifest import check_page_bytes
from mmsb_jax._store.format.names import snapshot_name
from mmsb_jax._store.log.in_force import carries_extra, stored_extra
from mmsb_jax._store.query.follow import check_there
from mmsb_jax._store.state.snapshot import read_snapshot, read_snapshot_with_extra, write_snapshot
from mmsb_jax._store.state.state import StoredState

if TYPE_CHECKING:
    from mmsb_jax._store.log.log import Log

_HEAD = struct.Struct("<16sQQ16sQQI")


@dataclass(frozen=True, slots=True)
class StreamHead:
    """What a stream says of itself.

    Attributes:
        ids: which log wrote which version.
        page_bytes: bytes of a page in the log that it came from.
        since: the version that its first commit follows.
        chain: the chain after that version.
        last: its newest version; ``since`` where it holds no commit.
        snapshot_bytes: bytes of the snapshot of version ``since + 1``; 0 for none.
    """

    ids: LogIds
    page_bytes: int
    since: int
    chain: bytes
    last: int
    snapshot_bytes: int

    def frame(self) -> list[Buffer]:
        """Its frame."""
        try:
            meta = self._encode()
            is_read_back = self.decode(meta) == self
        except (BadFrameError, struct.error) as error:
            raise StructureError(f"{self!r:.400} cannot be recorded: {error}") from error
        if not is_read_back:
            raise StructureError(f"{self!r:.400} cannot be recorded: it reads back as another")
        return build_frame(Kind.STREAM, 0, 0, meta)[1]

    def _encode(self) -> bytes:
        meta = _HEAD.pack(
            self.ids.own,
            self.page_bytes,
            self.since,
            self.chain,
            self.last,
            self.snapshot_bytes,
            len(self.ids.lineage),
        )
        return meta + self.ids.encode_lineage()

    @classmethod
    def decode(cls, meta: bytes) -> "StreamHead":
        """The head in ``meta``."""
        if len(meta) < _HEAD.size:
            raise BadFrameError("the head of the stream is cut short")
        own, page_bytes, since, chain, last, snapshot_bytes, ancestors = _HEAD.unpack_from(meta)
        if len(meta) != _HEAD.size + ancestors * ANCESTOR_BYTES:
            raise BadFrameError("the parts of the stream's head do not fill it")
        lineage = LogIds.decode_lineage(meta[_HEAD.size :])
        if not since <= last <= MAX_NUMBER or (snapshot_bytes and last == since):
            raise BadFrameError("the head of the stream contradicts itself")
        check_page_bytes(page_bytes)
        return cls(LogIds(lineage, own), page_bytes, since, chain, last, snapshot_bytes)


def write_stream(log: "Log", since: int, until: int) -> Iterator[Buffer]:
    """The commits behind ``since``, up to and with ``until``.

    Cost: the frames of these commits, read once.
    """
    check_there(log, since, until)
    yield from _head(log, since, until, 0).frame()
    yield from _commits(log, since, until)


def write_joining_stream(log: "Log", until: int, time_ns: int) -> Iterator[Buffer]:
    """A snapshot, its commit, and the commits behind it up to ``until``: for an empty receiver.

    It is the newest snapshot of the log; where there is none, one is made of ``until``, or of the
    newest version before it that has bytes.

    Cost: the state, read once; where there is no snapshot, a checkout.
    """
    if until == 0:
        yield from write_stream(log, 0, 0)
        return
    version, snapshot = _newest_snapshot(log, until, time_ns)
    yield from _head(log, version - 1, until, len(snapshot)).frame()
    yield snapshot
    yield from _commits(log, version - 1, until)


def _newest_snapshot(log: "Log", until: int, time_ns: int) -> tuple[int, bytes]:
    ids = log.manifest.ids
    for version in reversed(log.snapshots()):
        if log.kept_since <= version <= until:
            try:
                raw = log.files.read(snapshot_name(version))
                state, extra = read_snapshot_with_extra(_held(raw, version), version, ids, None)
            except (BadFrameError, OSError):
                continue  # it saves time and nothing else
            if state.table.chain == log.chain_after(version) and (
                carries_extra(log, version, extra) or log.record(version).says_extra
            ):
                return version, raw
    files, version = MemoryFiles(), log.last_saved(until)
    state = log.state(version, page_bytes=log.manifest.page_bytes)
    write_snapshot(files, state, time_ns, log.find(version).end, extra=stored_extra(log, version))
    return version, files.read(snapshot_name(version))


def _head(log: "Log", since: int, last: int, snapshot_bytes: int) -> StreamHead:
    manifest = log.manifest
    return StreamHead(
        ids=manifest.ids,
        page_bytes=manifest.page_bytes,
        since=since,
        chain=log.chain_at(since),
        last=last,
        snapshot_bytes=snapshot_bytes,
    )


def _commits(log: "Log", since: int, until: int) -> Iterator[Buffer]:
    for version in range(since + 1, until + 1):
        for header, body in shipped(log, version).frames:
            yield from (header.encode(), body)


def shipped(log: "Log", version: int) -> CommitFrames:
    """A commit of a log with its frames."""
    return log.retry_if_compacted(lambda: _shipped(log, version))


def _shipped(log: "Log", version: int) -> CommitFrames:
    found = log.find(version)
    segment = found.piece.segment
    try:
        start = commit_start(found.offset, found.record)
        read = reader_of(log.files, segment.name)
        chain, ids = found.record.previous_chain, log.manifest.ids
        return read_commit_frames(read, start, version, chain, ids)[0]
    except FileNotFoundError as error:
        raise log.missing(error) from error
    except BadFrameError as error:
        raise log.damaged(segment, found.offset, str(error)) from error


def _state_in(
    raw: bytes,
    version: int,
    ids: LogIds,
    wanted: Callable[[str], bool] | None = None,
    page_bytes: int | None = None,
) -> tuple[StoredState, int]:
    return read_snapshot(_held(raw, version), version, ids, wanted, page_bytes)


def _held(raw: bytes, version: int) -> MemoryFiles:
    """A folder in memory with the file of one snapshot."""
    files = MemoryFiles()
    files.publish(snapshot_name(version), [raw])
    return files


class Stream:
    """A stream, to be read.

    Args:
        read: reads its bytes.
        place: what to call it in messages.

    Attributes:
        head: what it says of itself.

    Raises:
        CorruptionError: it does not begin with the head of a stream.
        FormatError: a newer format wrote it.
    """

    def __init__(self, read: Reader, place: str) -> None:
        self.place = place
        self._read = read
        try:
            header = read_header(read, 0, 0)
            header.check_kind()
            if header.kind != Kind.STREAM:
                raise BadFrameError(f"it begins with a frame of kind {header.kind}")
            self.head = StreamHead.decode(read_meta(read, 0, header))
        except BadFrameError as error:
            raise self._damaged(0, error) from error
        self._start = header.frame_bytes

    def _damaged(self, offset: int, error: BadFrameError) -> CorruptionError:
        return CorruptionError(
            f"{self.place} is no whole stream: byte {offset}: {error}. Nothing of it was taken. "
            f"Send it again."
        )

    def snapshot(self) -> bytes:
        """The file of the snapshot of version ``head.since + 1``; empty for none."""
        return self._read(self._start, self.head.snapshot_bytes)

    def state(
        self, wanted: Callable[[str], bool] | None = None, page_bytes: int | None = None
    ) -> tuple[StoredState, int]:
        """The state in the snapshot, and the position in the sender's log that it covers.

        Args:
            wanted: which arrays to hold, by name; None for all.
            page_bytes: to keep the versions of pages; None to leave them.
        """
        try:
            raw, version, ids = self.snapshot(), self.head.since + 1, self.head.ids
            state, position = _state_in(raw, version, ids, wanted, page_bytes)
            commit, table = next(self.commits()), state.table
            if (table.chain, table.state_digest) != (commit.chain, commit.record.state_digest):
                raise BadFrameError("the snapshot is of another history than its commit")
        except BadFrameError as error:
            raise self._damaged(self._start, error) from error
        return state, position

    def commits(self) -> Iterator[CommitFrames]:
        """Its commits, each checked against its hashes and the chain."""
        head = self.head
        offset, chain = self._start + head.snapshot_bytes, head.chain
        for version in range(head.since + 1, head.last + 1):
            try:
                commit, end = read_commit_frames(self._read, offset, version, chain, head.ids)
            except BadFrameError as error:
                raise self._damaged(offset, error) from error
            yield commit
            offset, chain = end, commit.chain
        if self._read(offset, 1):
            fault = BadFrameError("something stands behind its last commit")
            raise self._damaged(offset, fault)

    def chains(self) -> list[bytes]:
        """The chain after each of its commits; reads and checks all of it."""
        found = [commit.chain for commit in self.commits()]
        if self.head.snapshot_bytes:
            state, _ = self.state()
            try:
                state.check_digest()
            except BadFrameError as error:
                raise self._damaged(self._start, error) from error
        return found


@contextlib.contextmanager
def open_stream(source: Buffer | str | os.PathLike[str]) -> Iterator[Stream]:
    """The stream in ``source``, bytes or the path of a file; closed at the end."""
    if isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        yield Stream(lambda offset, size: bytes(view[offset : offset + size]), "the stream")
        return
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"source={show(source)}: expected what export made, bytes, or the path of a file of it"
        )
    place = path_text("source", source)
    try:
        # O_NONBLOCK: a pipe in its place would let its reader wait for ever.
        file = Descriptor(os, Path(place), os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _no_stream(place, error) from error
    try:
        if not stat.S_ISREG(os.fstat(file.number).st_mode):
            raise _no_stream(place, OSError(errno.EINVAL, "it is no regular file"))
        yield Stream(lambda offset, size: _read_at(file.number, place, offset, size), place)
    finally:
        file.close()


def _no_stream(place: str, error: OSError | ValueError) -> LocationError:
    code, answer = (error.errno, error.strerror) if isinstance(error, OSError) else (0, error)
    return LocationError(
        code,
        f"{place} cannot be read: {answer}. Expected a file that export made, or its bytes.",
    )


def _read_at(descriptor: int, place: str, offset: int, size: int) -> bytes:
    """Up to ``size`` bytes of a file: never more is asked for than it has."""
    parts = []
    try:
        size = min(size, max(0, os.fstat(descriptor).st_size - offset))
        with room_for(f"{size:,} bytes of {place}"):
            while size > 0 and (part := os.pread(descriptor, min(size, 1 << 30), offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
    except OSError as error:
        raise unreadable(error, place) from error


def write_file(path: Path, buffers: Iterable[Buffer]) -> Path:
    """Put a stream in place as a whole, durably."""
    draft = path.with_name(path.name + ".draft")
    try:
        draft.unlink(missing_ok=True)  # whatever it is: nothing is written through a link or a pipe
        try:
            with draft.open("xb") as file:
                for buffer in buffers:
                    file.write(buffer)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        sync_folder(os, path.absolute().parent)
    except LocationError:  # of what was to be written, which could not be read
        raise
    except OSError as error:
        raise LocationError(
            error.errno,
            f"{path} cannot be written: {error.strerror or error}. See to the disk, and again.",
        ) from error
    return path
