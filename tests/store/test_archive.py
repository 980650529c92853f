import struct
from dataclasses import replace

import numpy as np
import pytest
import zstandard

from mmsb_jax._base.errors import CorruptionError, StructureError
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.frame import Kind, build_frame
from mmsb_jax._store.format.manifest import ArchiveEntry, Compaction, Manifest
from mmsb_jax._store.format.names import MANIFEST_NAME
from mmsb_jax._store.log import archive as _archive
from mmsb_jax._store.log.archive import Archive, Archived, archive_frames, index_frame
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.verify import verify
from tests.store._compacted import check_compacted, write_story
from tests.store._forged import publish_forged
from tests.store._logs import PLACE, Scribe


@pytest.fixture(params=[1, 600, 5000])
def block_bytes(request, monkeypatch) -> int:
    monkeypatch.setattr(_archive, "BLOCK_BYTES", request.param)
    return request.param


def archived(scribe: Scribe, versions: range) -> list[Archived]:
    log = scribe.log
    return [
        Archived(found.meta, found.data_hash, found.piece.segment.base + found.offset, 1000 + v)
        for v, found in ((v, log.find(v)) for v in versions)
    ]


def publish(scribe: Scribe, commits: list[Archived], first: int) -> Archive:
    """An archive of commits that begin with ``first``, written as a compaction writes it."""
    last = first + len(commits) - 1
    log = scribe.log
    entry = ArchiveEntry(first, last, log.end_of(last), log.chain_after(last))
    frames = archive_frames(first, commits)
    scribe.files.publish(entry.name, [buffer for frame in frames for buffer in frame])
    return Archive(scribe.files, PLACE, entry)


def test_archive_of_any_blocks_gives_back_every_commit(block_bytes: int):
    scribe = write_story()
    commits = archived(scribe, range(3, 15))
    archive = publish(scribe, commits, 3)
    for version in (3, 14, 8, *range(3, 15)):
        assert archive.commit(version) == commits[version - 3]
        record, chain, end = archive.record(version)
        found = scribe.log.find(version)
        assert record.encode() == found.record.encode()
        assert (chain, end) == (found.chain, found.end)
        row = archive.row(version)
        assert (row.step, row.source) == (found.record.step, found.record.source)
        assert row.logged_bytes == 1000 + version
    archive.check(scribe.log.chain_after(2), scribe.log.manifest.ids)
    with pytest.raises(CorruptionError, match="does not continue what is before it"):
        archive.check(scribe.log.chain_after(1), scribe.log.manifest.ids)
    with pytest.raises(CorruptionError, match="of another log"):
        archive.check(None, LogIds((), b"x" * 16))


def test_log_with_archives_of_many_blocks_is_read(block_bytes: int):
    scribe = write_story()
    for keep_since in (4, 12):
        compact(scribe.writer, keep_since)
    check_compacted(Log(scribe.files, PLACE), scribe.history, 12, (2, 5, 11))
    assert verify(Log(scribe.files, PLACE))


def test_archive_of_large_metas_is_small():
    scribe = Scribe()
    for i in range(200):
        scribe.create(f"params/layers/{i}/weight", (4,))
    scribe.commit()
    for number in range(60):
        for i in range(200):
            scribe.write(f"params/layers/{i}/weight", np.full(4, number + i, np.float32))
        scribe.commit()
    metas = sum(len(commit.meta) for commit in archived(scribe, range(1, 62)))
    compact(scribe.writer, 61)
    (name,) = [name for name in scribe.files.names("log") if name.endswith(".arc")]
    assert scribe.files.size(name) < 0.6 * metas


def test_archive_whose_commits_are_swapped_is_damaged():
    scribe = write_story()
    commits = archived(scribe, range(1, 6))
    swapped = [
        commit._replace(position=place.position)
        for commit, place in zip([commits[i] for i in (0, 2, 1, 3, 4)], commits, strict=True)
    ]
    with pytest.raises(ValueError, match=r"version 3 at offset \d+ does not go into the index"):
        publish(scribe, swapped, 1)
    archive = publish(scribe, commits, 1)
    header, buffers = _archive._block_frame(0, 1, swapped)
    index = archive.index.encode(archive.entry.chain, archive.entry.end)
    scribe.files.publish(archive.entry.name, [*buffers, *index_frame(header.frame_bytes, index)])
    archive = Archive(scribe.files, PLACE, archive.entry)
    with pytest.raises(CorruptionError, match=r"version 3 in the place of 2"):
        archive.record(2)
    with pytest.raises(CorruptionError, match=r"is damaged"):
        archive.check(None, scribe.log.manifest.ids)


def block(raw: bytes, claimed: int, commits: int, first: int = 1) -> list:
    data = zstandard.ZstdCompressor().compress(raw)
    meta = _archive._BLOCK.pack(first, claimed, commits, 0)
    return build_frame(Kind.ARCHIVED, 0, 0, meta, [data])[1]


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        (block(bytes(1 << 26), 100, 3), "claim 67108864 bytes; 100 expected"),
        (block(bytes(48), 48, 3), "in the place|shorter|parse|fixed part"),
        (block(struct.pack("<QII", 1, 2**32 - 1, 0) * 3, 48, 3), "do not fill the block"),
        (block(b"", 0, 3), "do not fill the block"),
        (block(b"x" * 16, 16, 2**32 - 1), "do not fill|other versions"),
        (block(b"", 0, 0), "do not follow each other"),
        (block(b"", 0, 3, first=2), "do not follow each other"),
        (build_frame(Kind.ARCHIVED, 0, 0, b"short")[1], "requires a buffer"),
        (build_frame(Kind.COMMIT, 0, 0, b"")[1], "does not end with its index"),
    ],
)
def test_archive_made_to_hurt_is_an_error(frames: list, fault: str):
    scribe = write_story()
    commits = archived(scribe, range(1, 4))
    archive = publish(scribe, commits, 1)
    position = sum(map(len, frames))
    end = index_frame(position, archive.index.encode(archive.entry.chain, archive.entry.end))
    scribe.files.publish(archive.entry.name, [*frames, *end])
    with pytest.raises(CorruptionError, match=fault):
        Archive(scribe.files, PLACE, archive.entry).record(1)


# What the manifest says of them

COMPACTION = Compaction(
    number=3,
    first_version=10,
    is_cut=True,
    archives=(ArchiveEntry(1, 4, 640, b"a" * 16), ArchiveEntry(5, 9, 1280, b"b" * 16)),
    kept=(2, 9),
    tags={"best": 2, "ü": 12},
)
MANIFEST = Manifest(LogIds(((b"p" * 16, 3),), b"c" * 16), 4096, 123, COMPACTION)


def test_manifest_of_a_compacted_log_read_back_is_equal():
    files = MemoryFiles()
    MANIFEST.publish(files)
    assert Manifest.read(files, PLACE) == MANIFEST


def test_manifest_of_a_compacted_log_cut_short_anywhere_is_refused():
    whole = b"".join(bytes(buffer) for buffer in MANIFEST.frame())
    meta = whole[64 : 64 + struct.unpack_from("<I", whole, 24)[0]]
    files = MemoryFiles()
    for size in range(len(whole)):
        files.publish(MANIFEST_NAME, [whole[:size]])
        with pytest.raises(CorruptionError, match="manifest is damaged"):
            Manifest.read(files, PLACE)
    for size in range(len(meta)):
        files.publish(MANIFEST_NAME, build_frame(Kind.COMPACTED, 0, 0, meta[:size])[1])
        with pytest.raises(CorruptionError, match="manifest is damaged"):
            Manifest.read(files, PLACE)


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 0},
        {"first_version": 11},
        {"archives": COMPACTION.archives[:1]},
        {"archives": COMPACTION.archives[::-1]},
        {"archives": (ArchiveEntry(1, 0, 0, bytes(16)), *COMPACTION.archives)},
        {"kept": (9, 2)},
        {"kept": (2, 2)},
        {"kept": (2, 10)},
    ],
)
def test_manifest_whose_compaction_contradicts_itself_is_refused(changes: dict):
    files = MemoryFiles()
    manifest = replace(MANIFEST, compaction=replace(COMPACTION, **changes))
    with pytest.raises(StructureError, match=r"contradicts itself|do not follow each other"):
        manifest.publish(files)
    publish_forged(files, manifest)
    with pytest.raises(CorruptionError, match=r"contradicts itself|do not follow each other"):
        Manifest.read(files, PLACE)
