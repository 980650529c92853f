"""Sections 4 and 5 of docs/format.md: the manifest, what compactions have left, and tags."""

import json
import struct
from dataclasses import dataclass

from tools.format_reader.frames import BadError, DamagedError, check, read_frame

MANIFEST = struct.Struct("<16sQQI")
ANCESTOR = struct.Struct("<16sQ")
COMPACTION = struct.Struct("<QQIIII")
ARCHIVE_ENTRY = struct.Struct("<QQQ16s")


@dataclass
class Compaction:
    """What compactions have left; archives as (first version, last version, end, chain)."""

    number: int
    first_version: int
    is_cut: bool
    archives: list[tuple[int, int, int, bytes]]
    kept: list[int]
    tags: dict[str, int | None]

    @property
    def segment_name(self) -> str:
        """The file of the oldest segment."""
        ending = "cut" if self.is_cut else "seg"
        return f"{self.number:08d}-{self.first_version:020d}.{ending}"


@dataclass
class Manifest:
    """What the log is."""

    log_id: bytes
    page_bytes: int
    created_ns: int
    ancestors: list[tuple[bytes, int]]
    compaction: Compaction | None = None

    def log_id_of(self, version: int) -> bytes:
        """The id of the log that wrote ``version``."""
        for log_id, last_version in self.ancestors:
            if version <= last_version:
                return log_id
        return self.log_id

    def may_have_made(self, log_id: bytes, version: int) -> bool:
        """Whether the log of that id may have made a segment that begins with ``version``."""
        known = [known for known, last in self.ancestors if version <= last]
        return log_id in (self.log_id, *known)


def read_manifest(raw: bytes) -> Manifest:
    """The manifest in the file's bytes."""
    try:
        frame = read_frame(raw, 0, 0)
        check(frame.kind in ("MANIFEST", "COMPACTED") and not frame.data, "not a manifest")
        check(len(frame.meta) >= 36, "not a manifest")
        log_id, page_bytes, created_ns, count = MANIFEST.unpack_from(frame.meta)
        end = 36 + 24 * count
        check(len(frame.meta) >= end, "its ancestors do not fill it")
        check(0 < page_bytes <= 2**30 and page_bytes % 4 == 0, f"pages of {page_bytes} bytes")
        compaction = None
        if frame.kind == "COMPACTED":
            compaction = read_compaction(frame.meta[end:])
        else:
            check(len(frame.meta) == end, "its ancestors do not fill it")
        ancestors = read_ancestors(frame.meta[36:end])
    except BadError as error:
        raise DamagedError(f"manifest: {error}") from error
    return Manifest(log_id, page_bytes, created_ns, ancestors, compaction)


def read_ancestors(raw: bytes) -> list[tuple[bytes, int]]:
    """The ancestors of a manifest or a stream."""
    ancestors = list(ANCESTOR.iter_unpack(raw))
    versions = [last_version for _, last_version in ancestors]
    check(versions == sorted(versions), "the ancestors do not stand in order")
    return ancestors


def read_compaction(raw: bytes) -> Compaction:
    """The part of the manifest behind the ancestors."""
    check(len(raw) >= 32, "a compaction cut short")
    number, first_version, flags, archives, kept, tags_bytes = COMPACTION.unpack_from(raw)
    kept_at = 32 + 40 * archives
    tags_at = kept_at + 8 * kept
    check(flags <= 1 and len(raw) == tags_at + tags_bytes, "a compaction does not fill the rest")
    check(0 < first_version < 2**63, "a compaction of a version that none can have")
    entries = list(ARCHIVE_ENTRY.iter_unpack(raw[32:kept_at]))
    check(
        [entry[0] for entry in entries[1:]] + [first_version] == [e[1] + 1 for e in entries]
        or not entries,
        "the archives do not follow each other",
    )
    return Compaction(
        number=number,
        first_version=first_version,
        is_cut=bool(flags),
        archives=entries,
        kept=[version for (version,) in struct.iter_unpack("<Q", raw[kept_at:tags_at])],
        tags=read_tags(raw[tags_at:] or b"{}"),
    )


def read_tags(raw: bytes) -> dict[str, int | None]:
    """What a frame says of tags."""
    try:
        tags = json.loads(raw.decode())
        check(isinstance(tags, dict), "the tags are no table")
        sizes = [len(name.encode()) for name in tags]
    except (ValueError, RecursionError) as error:
        raise BadError(str(error)) from error
    check(
        all(v is None or (type(v) is int and 0 < v < 2**63) for v in tags.values()),
        "the tags are no table of versions",
    )
    check(max(sizes, default=0) <= 255, "a tag too long")
    return tags
