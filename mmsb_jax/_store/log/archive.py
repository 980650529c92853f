"""Archives: what is left of commits whose data a compaction dropped.

An archive holds the metas of a range of commits and the hash of what data each had in its frame:
enough for all that they say of themselves, and for the chain from end to end. It is a file of
blocks, many commits compressed together, and a frame at its end with their index.
"""

import bisect
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import zstandard

from mmsb_jax._base.errors import CorruptionError
from mmsb_jax._base.memory_limit import check_room
from mmsb_jax._store.files.protocol import Buffer, Files
from mmsb_jax._store.format.chain import LogIds, chain_after
from mmsb_jax._store.format.frame import (
    HEADER_BYTES,
    MAX_META_BYTES,
    BadFrameError,
    Header,
    Kind,
    Reader,
    build_frame,
    check_number,
    padded,
    read_data,
    read_header,
    read_meta,
    reader_of,
    walk_frames,
)
from mmsb_jax._store.format.index import IndexRow, SegmentIndex
from mmsb_jax._store.format.manifest import ArchiveEntry
from mmsb_jax._store.format.record import CommitRecord

BLOCK_BYTES = 1 << 20
"""A block is ended once its metas are more than this."""

_BLOCK = struct.Struct("<QQII")
_ENTRY = struct.Struct("<QII")
_INDEX = struct.Struct("<Q")
_ZSTD_LEVEL = 3
_MAX_BLOCK_BYTES = MAX_META_BYTES + (1 << 24)


class Archived(NamedTuple):
    """A commit without its data.

    Attributes:
        meta: the meta of its frame.
        data_hash: hash of the data in its frame, as its header had it.
        position: where in the log its frame stood.
        logged_bytes: what all its frames took in the log.
    """

    meta: bytes
    data_hash: int
    position: int
    logged_bytes: int


def archive_frames(first_version: int, commits: Iterable[Archived]) -> Iterator[list[Buffer]]:
    """The frames of the archive of ``commits``, which begin with ``first_version``.

    Cost: one block in memory, and the index.
    """
    offset, block, size = 0, [], 0
    index, version = SegmentIndex(first_version), first_version
    chain, end = bytes(16), 0
    for version, commit in enumerate(commits, first_version):
        record = CommitRecord.decode(commit.meta)
        index.append(record, commit.position, commit.logged_bytes)
        chain = chain_after(record.previous_chain, commit.meta, commit.data_hash)
        end = end_of_commit(record, commit.meta, commit.position)
        block.append(commit)
        size += len(commit.meta)
        if size > BLOCK_BYTES:
            header, buffers = _block_frame(offset, version + 1 - len(block), block)
            yield buffers
            offset, block, size = offset + header.frame_bytes, [], 0
    if block:
        header, buffers = _block_frame(offset, version + 1 - len(block), block)
        yield buffers
        offset += header.frame_bytes
    yield index_frame(offset, index.encode(chain, end))


def index_frame(offset: int, index: bytes) -> list[Buffer]:
    """The frame at ``offset`` that ends an archive."""
    check_number("the bytes of an archive's index", len(index), 0, _MAX_BLOCK_BYTES)
    meta, data = _INDEX.pack(len(index)), _compress(index)
    return build_frame(Kind.ARCHIVE, offset, 0, meta, [data])[1]


def _block_frame(
    offset: int, first_version: int, block: list[Archived]
) -> tuple[Header, list[Buffer]]:
    entries = b"".join(_ENTRY.pack(commit.data_hash, len(commit.meta), 0) for commit in block)
    raw = b"".join((entries, *(commit.meta for commit in block)))
    meta = _BLOCK.pack(first_version, len(raw), len(block), 0)
    return build_frame(Kind.ARCHIVED, offset, 0, meta, [_compress(raw)])


def end_of_commit(record: CommitRecord, meta: bytes, position: int) -> int:
    """Position where the commit ends whose frame stands at ``position``."""
    inline = 0 if record.frame_sizes else int(record.chunks["stored"].sum(dtype="u8"))
    return position + HEADER_BYTES + padded(len(meta)) + padded(inline)


def read_block(read: Reader, offset: int) -> list[tuple[bytes, int]]:
    """The commits in the block whose frame stands at ``offset``: (meta, data hash) each."""
    header = read_header(read, offset, offset)
    try:
        _, raw_bytes, commits, _ = _BLOCK.unpack(read_meta(read, offset, header))
        raw = _decompress(read_data(read, offset, header), raw_bytes)
        start = commits * _ENTRY.size
        entries = list(_ENTRY.iter_unpack(raw[:start]))
    except struct.error as error:
        raise BadFrameError(f"a block does not parse: {error}") from error
    found = []
    for data_hash, meta_bytes, _ in entries:
        found.append((raw[start : start + meta_bytes], data_hash))
        start += meta_bytes
    if len(entries) != commits or start != len(raw):
        raise BadFrameError("its commits do not fill the block")
    return found


class _Block(NamedTuple):
    first_version: int
    commits: int
    offset: int


class Unpacked:
    """What the archives of a log hold decompressed: the indexes that were asked for, and a block.

    Shared among them, so that there is room for what they claim together.

    Attributes:
        index_bytes: of all indexes.
        block: the newest block that was read, whose it is, and its commits.
    """

    def __init__(self) -> None:
        self.index_bytes = 0
        self.block: tuple[Archive, _Block, list[tuple[bytes, int]]] | None = None


class Archive:
    """An archive, read as it is asked.

    Args:
        files: the log's directory.
        place: what to call it in messages.
        entry: what the manifest says of it.
        unpacked: what the archives of its log hold; its own for None.
    """

    def __init__(
        self, files: Files, place: str, entry: ArchiveEntry, unpacked: Unpacked | None = None
    ) -> None:
        self.entry = entry
        self.first_version, self.last_version = entry.first_version, entry.last_version
        self._files = files
        self._place = place
        self._loaded: tuple[list[_Block], SegmentIndex] | None = None
        self._unpacked = unpacked or Unpacked()

    @property
    def index(self) -> SegmentIndex:
        """The index of its commits; an offset in it is a position in the log."""
        return self._load()[1]

    def _load(self) -> tuple[list[_Block], SegmentIndex]:
        if self._loaded is None:
            try:
                self._loaded = self._read()
            except (BadFrameError, struct.error, FileNotFoundError) as error:
                raise self._damaged(_fault(error)) from error
        return self._loaded

    def _damaged(self, fault: str) -> CorruptionError:
        return CorruptionError(
            f"{self._place}/{self.entry.name} is damaged: {fault}. It says what versions "
            f"{self.first_version} to {self.last_version} were, whose data a compaction dropped; "
            f"the states that the log still has do not need it. Restore it from a copy, or make a "
            f"new log of what is whole with `mmsb repair`."
        )

    def _read(self) -> tuple[list[_Block], SegmentIndex]:
        read, size = reader_of(self._files, self.entry.name), self._files.size(self.entry.name)
        blocks, following = [], self.first_version
        for offset, header in walk_frames(read, 0):
            meta = read_meta(read, offset, header)
            if header.kind != Kind.ARCHIVED:
                break
            first, _, commits, _ = _BLOCK.unpack(meta)
            if first != following or not commits:
                raise BadFrameError("its blocks do not follow each other")
            blocks.append(_Block(first, commits, offset))
            following += commits
        else:
            raise BadFrameError("the file ends before its index")
        if header.kind != Kind.ARCHIVE or offset + header.frame_bytes != size:
            raise BadFrameError("the file does not end with its index")
        entry, (raw_bytes,) = self.entry, _INDEX.unpack(meta)
        raw = _decompress(read_data(read, offset, header), raw_bytes, self._unpacked.index_bytes)
        self._unpacked.index_bytes += raw_bytes
        index = SegmentIndex.decode(raw, entry.chain, entry.first_version, entry.end)
        if not index.last_version == following - 1 == entry.last_version:
            raise BadFrameError("it has other versions than the manifest says")
        return blocks, index

    def row(self, version: int) -> IndexRow:
        """What the index says of a version that is here."""
        return self.index.row(version)

    def commit(self, version: int) -> Archived:
        """The commit of a version that is here."""
        blocks, index = self._load()
        block = blocks[bisect.bisect_right([b.first_version for b in blocks], version) - 1]
        row = index.row(version)
        meta, data_hash = self._commits_in(block)[version - block.first_version]
        return Archived(meta, data_hash, row.offset, row.logged_bytes)

    def _commits_in(self, block: _Block) -> list[tuple[bytes, int]]:
        newest = self._unpacked.block
        if newest is None or newest[0] is not self or newest[1] is not block:
            try:
                commits = read_block(reader_of(self._files, self.entry.name), block.offset)
                if len(commits) != block.commits:
                    raise BadFrameError("a block has other commits than its archive says")
                newest = self._unpacked.block = (self, block, commits)
            except (BadFrameError, FileNotFoundError) as error:
                raise self._damaged(f"byte {block.offset}: {_fault(error)}") from error
        return newest[2]

    def record(self, version: int) -> tuple[CommitRecord, bytes, int]:
        """What the commit of ``version`` says, the chain after it, the position where it ended."""
        commit = self.commit(version)
        try:
            record = CommitRecord.decode(commit.meta)
            if record.version != version:
                raise BadFrameError(f"version {record.version} in the place of {version}")
        except BadFrameError as error:
            raise self._damaged(str(error)) from error
        chain = chain_after(record.previous_chain, commit.meta, commit.data_hash)
        return record, chain, end_of_commit(record, commit.meta, commit.position)

    def check(self, previous_chain: bytes | None, log_ids: LogIds) -> None:
        """Read every commit: chain and index must be what the manifest and the commits say.

        Args:
            previous_chain: the chain before its first commit; None where it is not known.
            log_ids: which ids the log's versions carry.
        """
        chain, index = previous_chain, SegmentIndex(self.first_version)
        for version in range(self.first_version, self.last_version + 1):
            record, following, _ = self.record(version)
            if chain not in (None, record.previous_chain):
                raise self._damaged(f"version {version} does not continue what is before it")
            if record.log_id != log_ids.of(version):
                raise self._damaged(f"version {version} is of another log")
            commit, chain = self.commit(version), following
            index.append(record, commit.position, commit.logged_bytes)
        if chain != self.entry.chain:
            raise self._damaged("its last commit is not the one that the manifest names")
        index.forget_extras(self.index)  # of an older writer
        if index.encode(self.entry.chain, 0) != self.index.encode(self.entry.chain, 0):
            raise self._damaged("its index does not say what its commits do")


def _fault(error: Exception) -> str:
    return "it is missing" if isinstance(error, FileNotFoundError) else str(error)


def _compress(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(raw)


def _decompress(data: memoryview, raw_bytes: int, held_bytes: int = 0) -> bytes:
    """What a part of an archive is, where there is room for it beside ``held_bytes``."""
    try:
        claimed = zstandard.frame_content_size(data)
        if claimed != raw_bytes or claimed > _MAX_BLOCK_BYTES:
            raise BadFrameError(f"compressed data claim {claimed} bytes; {raw_bytes} expected")
        check_room(held_bytes + raw_bytes, "a part of an archive with those before it")
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadFrameError(f"compressed data do not decompress: {error}") from error
