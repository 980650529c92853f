"""The manifest: what the log is, in one small file that is replaced as a whole."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import CorruptionError, LocationError, StructureError
from mmsb_jax._store.files.protocol import Buffer, Files
from mmsb_jax._store.format.chain import ANCESTOR_BYTES, LogIds
from mmsb_jax._store.format.frame import (
    HEADER_BYTES,
    MAX_META_BYTES,
    MAX_NUMBER,
    BadFrameError,
    Kind,
    build_frame,
    read_header,
    read_meta,
)
from mmsb_jax._store.format.names import LOG_FOLDER, MANIFEST_NAME, segment_name
from mmsb_jax._store.format.tags import decode_tags, encode_tags

MAX_PAGE_BYTES = 1 << 30
_FIXED = struct.Struct("<16sQQI")
_COMPACTION = struct.Struct("<QQIIII")
_ARCHIVE = struct.Struct("<QQQ16s")
_KEPT = struct.Struct("<Q")
_CUT = 1


def check_page_bytes(page_bytes: int) -> None:
    """Refuse pages of a size that none can have."""
    if not 0 < page_bytes <= MAX_PAGE_BYTES or page_bytes % 4:
        raise BadFrameError(f"it claims pages of {page_bytes} bytes")


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """Commits whose data a compaction dropped; what they say of themselves is in an archive.

    Attributes:
        first_version, last_version: which commits.
        end: position in the log where the last one ended.
        chain: the chain after the last one.
    """

    first_version: int
    last_version: int
    end: int
    chain: bytes

    @property
    def name(self) -> str:
        """Name of the archive's file."""
        return f"{LOG_FOLDER}/{self.first_version:020d}-{self.last_version:020d}.arc"


@dataclass(frozen=True, slots=True)
class Compaction:
    """What the compactions of a log have left.

    Attributes:
        number: the oldest segment of the log.
        first_version: its first version; older commits have no data any more.
        is_cut: whether it is what is left of a longer segment of that number.
        archives: where the commits before are, oldest first.
        kept: versions before it whose state is there, as a snapshot; ascending.
        tags: the tags when it was made.
    """

    number: int
    first_version: int
    is_cut: bool
    archives: tuple[ArchiveEntry, ...]
    kept: tuple[int, ...]
    tags: Mapping[str, int] = field(default_factory=dict)

    @property
    def segment_name(self) -> str:
        """Name of the oldest segment's file."""
        return segment_name(self.number, self.first_version, self.is_cut)

    def encode(self) -> bytes:
        """Its part of the manifest."""
        tags = encode_tags(self.tags) if self.tags else b""
        head = _COMPACTION.pack(
            self.number,
            self.first_version,
            _CUT if self.is_cut else 0,
            len(self.archives),
            len(self.kept),
            len(tags),
        )
        archives = (
            _ARCHIVE.pack(entry.first_version, entry.last_version, entry.end, entry.chain)
            for entry in self.archives
        )
        return b"".join((head, *archives, *map(_KEPT.pack, self.kept), tags))

    @classmethod
    def decode(cls, raw: bytes) -> "Compaction":
        """The compaction in the end of a manifest."""
        number, first_version, flags, archives, kept, tags_bytes = _COMPACTION.unpack_from(raw)
        sizes = (archives * _ARCHIVE.size, kept * _KEPT.size, tags_bytes)
        if flags & ~_CUT or _COMPACTION.size + sum(sizes) != len(raw):
            raise BadFrameError("its parts do not fill it")
        parts, start = [], _COMPACTION.size
        for size in sizes:
            parts.append(raw[start : start + size])
            start += size
        compaction = cls(
            number=number,
            first_version=first_version,
            is_cut=bool(flags),
            archives=tuple(ArchiveEntry(*row) for row in _ARCHIVE.iter_unpack(parts[0])),
            kept=tuple(version for (version,) in _KEPT.iter_unpack(parts[1])),
            tags={n: v for n, v in decode_tags(parts[2] or b"{}").items() if v is not None},
        )
        compaction._check()
        return compaction

    def _check(self) -> None:
        following = self.archives[0].first_version if self.archives else self.first_version
        for entry in self.archives:
            if entry.first_version != following or entry.last_version < following:
                raise BadFrameError("its archives do not follow each other")
            following = entry.last_version + 1
        kept = list(self.kept)
        if following != self.first_version or kept != sorted(set(kept)) or self.number == 0:
            raise BadFrameError("its compaction contradicts itself")
        if not 0 < self.first_version <= MAX_NUMBER:
            raise BadFrameError("its compaction contradicts itself")
        if kept and kept[-1] >= self.first_version:
            raise BadFrameError("its compaction contradicts itself")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a log is.

    Attributes:
        ids: its own id, and those of the logs that it was forked from.
        page_bytes: bytes of a page.
        created_ns: when it was made, in nanoseconds since 1970.
        compaction: what compactions have left; None where there was none.
    """

    ids: LogIds
    page_bytes: int
    created_ns: int
    compaction: Compaction | None = None

    def publish(self, files: Files) -> None:
        """Write it in place of the one before."""
        files.publish(MANIFEST_NAME, self.frame())

    def frame(self) -> list[Buffer]:
        """Its file. That of a compacted log is of a kind of its own: it must be understood."""
        try:
            meta = self._encode()
            is_read_back = self._decode_meta(meta, self.compaction is not None) == self
        except (BadFrameError, struct.error) as error:
            raise StructureError(f"{show(self, 400)} cannot be recorded: {error}") from error
        if not is_read_back:
            raise StructureError(f"{show(self, 400)} cannot be recorded: it reads back as another")
        kind = Kind.MANIFEST if self.compaction is None else Kind.COMPACTED
        return build_frame(kind, 0, 0, meta)[1]

    def _encode(self) -> bytes:
        lineage = self.ids.lineage
        meta = _FIXED.pack(self.ids.own, self.page_bytes, self.created_ns, len(lineage))
        meta += self.ids.encode_lineage()
        return meta if self.compaction is None else meta + self.compaction.encode()

    @classmethod
    def read(cls, files: Files, place: str) -> "Manifest":
        """The manifest of the log at ``place``."""
        try:
            # At once: it may be replaced between two calls.
            return cls._decode(files.read(MANIFEST_NAME, 0, HEADER_BYTES + MAX_META_BYTES))
        except FileNotFoundError:
            raise LocationError(
                f"{place} is not a log: it has no manifest. Expected a directory that "
                f"mmsb.open made, or a path where nothing is yet."
            ) from None
        except (BadFrameError, struct.error) as error:
            raise CorruptionError(
                f"{place}/{MANIFEST_NAME} is damaged at byte 0: {error}. The log itself may be "
                f"whole: restore the manifest from a copy, or make a new log with `mmsb repair`."
            ) from error

    @classmethod
    def _decode(cls, raw: bytes) -> "Manifest":
        def read(offset: int, size: int) -> bytes:
            return raw[offset : offset + size]

        header = read_header(read, 0, 0)
        header.check_kind()
        meta = read_meta(read, 0, header)
        if header.data_bytes or header.kind not in (Kind.MANIFEST, Kind.COMPACTED):
            raise BadFrameError("its parts do not fill it")
        return cls._decode_meta(meta, header.kind == Kind.COMPACTED)

    @classmethod
    def _decode_meta(cls, meta: bytes, is_compacted: bool) -> "Manifest":
        own, page_bytes, created_ns, ancestors = _FIXED.unpack_from(meta)
        end = _FIXED.size + ancestors * ANCESTOR_BYTES
        if len(meta) < end:
            raise BadFrameError("its parts do not fill it")
        if not is_compacted and len(meta) != end:
            raise BadFrameError("its parts do not fill it")
        check_page_bytes(page_bytes)
        lineage = LogIds.decode_lineage(meta[_FIXED.size : end])
        compaction = Compaction.decode(meta[end:]) if is_compacted else None
        return cls(LogIds(lineage, own), page_bytes, created_ns, compaction)
