"""Limits on what is read: what is beyond one is refused, however right its hashes are."""

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
import zstandard

from mmsb_jax._base import memory_limit
from mmsb_jax._base.errors import (
    CorruptionError,
    DeviceMemoryError,
    LocationError,
    StructureError,
    VersionError,
)
from mmsb_jax._base.strict_json import MAX_JSON_DEPTH
from mmsb_jax._store.encoding.decode import decode_all
from mmsb_jax._store.encoding.digest import constant_term, state_sum
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format import frame as _format
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.chunk import CHUNK_BYTES, SPARSE_ITEMS, Chunk, Coding, pack_chunks
from mmsb_jax._store.format.data import NewCommit
from mmsb_jax._store.format.frame import BadFrameError, Kind, build_frame
from mmsb_jax._store.format.manifest import MAX_PAGE_BYTES, ArchiveEntry, Manifest
from mmsb_jax._store.format.record import (
    FULL,
    MAX_NOTE_BYTES,
    ArrayInfo,
    CommitRecord,
    Op,
    OpCode,
    records_of,
)
from mmsb_jax._store.format.tags import MAX_TAG_BYTES
from mmsb_jax._store.log import segment as _segment
from mmsb_jax._store.log.archive import Archive, Unpacked, index_frame
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import Segment
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.query.commit import encode_json, read_commit
from mmsb_jax._store.transfer.import_ import take_in
from mmsb_jax._store.transfer.stream import open_stream, write_joining_stream, write_stream
from mmsb_jax._store.writer.writer import LogWriter
from tests.store._compacted import write_story
from tests.store._forged import (
    MACHINE_BYTES,
    append_forged,
    append_forged_tags,
    forge,
    publish_forged,
)
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, check_state, names_of
from tests.torture._bundle import frames_of, place
from tests.torture._forged_record import ForgedRecord


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(memory_limit, "_machine_bytes", lambda: MACHINE_BYTES)


@pytest.fixture
def scribe() -> Scribe:
    """A log of one commit, of an array of 100 floats."""
    scribe = Scribe()
    scribe.create("w", (100,)).patch("w", {0: 1}).commit()
    return scribe


def is_damaged(scribe: Scribe) -> bool:
    """Whether what was written last, and durably, does not parse."""
    try:
        Log(scribe.close().files, PLACE)
    except CorruptionError:
        return True
    return False


# What a commit says of itself


@pytest.mark.parametrize("size", [MAX_NOTE_BYTES, MAX_NOTE_BYTES + 1])
def test_note_beyond_the_limit_does_not_parse(scribe: Scribe, size: int):
    append_forged(scribe, note=json.dumps("x" * (size - 2)))
    assert is_damaged(scribe) == (size > MAX_NOTE_BYTES)


@pytest.mark.parametrize("levels", [MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1])
def test_json_nested_too_deep_is_neither_written_nor_read(scribe: Scribe, levels: int):
    value = []
    for _ in range(levels - 1):
        value = {"a": value} if levels % 2 else [value]
    text = json.dumps(value)
    append_forged(scribe, note=text)
    log = Log(scribe.files, PLACE)
    if levels <= MAX_JSON_DEPTH:
        assert read_commit(log, 2, lambda: 0).note == value
        assert json.loads(encode_json(value, "note")) == value
        return
    with pytest.raises(CorruptionError, match="nested deeper than 128"):
        read_commit(log, 2, lambda: 0)
    with pytest.raises(ValueError, match=r"note: .* nested deeper than 128"):
        encode_json(value, "note")


def test_version_beyond_the_limit_does_not_parse():
    meta = ForgedRecord(b"", b"", 0, 2**63 - 1, 0).encode()
    assert CommitRecord.decode(meta).version == 2**63 - 1
    with pytest.raises(BadFrameError, match="version 9223372036854775808"):
        CommitRecord.decode(ForgedRecord(b"", b"", 0, 2**63, 0).encode())


NO_TEXTS = {
    "half of a character": b'{"a":"\\ud800"}',
    "half of one in a name": b'{"\\udfff":"s:x"}',
    "deep lists": b"[" * 5_000,
    "deep objects": b'{"a":' * 5_000,
    "byte order mark": '\ufeff{"a":"n:"}'.encode(),
    "UTF-16": '{"a":"n:"}'.encode("utf-16"),
}


@pytest.mark.parametrize("raw", NO_TEXTS.values(), ids=NO_TEXTS)
def test_constants_that_are_no_table_of_texts_do_not_parse(raw: bytes):
    meta = bytearray(ForgedRecord(b"", b"", 0, 1, 0).encode())
    struct.pack_into("<I", meta, 128, len(raw))
    with pytest.raises(BadFrameError, match="does not parse"):
        CommitRecord.decode(bytes(meta) + raw)


@pytest.mark.parametrize("name", ["x" * MAX_TAG_BYTES, "x" * (MAX_TAG_BYTES + 1), "\ud800"])
def test_tag_beyond_the_limit_does_not_parse(scribe: Scribe, name: str):
    append_forged_tags(scribe, {name: 1})
    assert is_damaged(scribe) == (len(name) != MAX_TAG_BYTES)


def test_commit_of_more_arrays_than_there_is_room_for_is_refused(scribe: Scribe, monkeypatch):
    infos = [ArrayInfo(i, f"{i}", "jax", "int8", (), True) for i in range(2, 90_000)]
    ops = [Op(OpCode.CREATE, info) for info in infos]
    with monkeypatch.context() as patch:
        patch.setattr(memory_limit, "_machine_bytes", lambda: MACHINE_BYTES)
        with pytest.raises(DeviceMemoryError, match="the arrays and constants of a commit"):
            scribe.writer.append(NewCommit(CommitRecord(b"", b"", 0, 0, 1, ops=ops), ()))
    assert Log(scribe.files, PLACE).version == 1
    append_forged(scribe, ops=ops)
    monkeypatch.setattr(memory_limit, "_machine_bytes", lambda: MACHINE_BYTES)
    with pytest.raises(DeviceMemoryError, match="the arrays and constants of a commit"):
        Log(scribe.files, PLACE)


def test_versions_of_pages_take_room(small_machine):
    scribe = Scribe()
    scribe.commit()
    info = ArrayInfo(1, "w", "jax", "uint8", (MACHINE_BYTES // 2,), True)
    append_forged(scribe, ops=[Op(OpCode.CREATE, info)])
    log = Log(scribe.files, PLACE)
    log.state(2, check=False)
    with pytest.raises(DeviceMemoryError, match="array 'w'"):
        log.state(2, page_bytes=4)


# Chunks


def sparse(offset: int, raw: int, items: int, payload: bytes, unit: int = 1) -> Chunk:
    """A sparse chunk that says anything, compressed."""
    data = zstandard.ZstdCompressor().compress(payload)
    return Chunk(offset, raw, items, Coding.SPARSE_ZSTD, unit, data)


def decoded(size: int, chunks: list[Chunk]) -> None:
    rows = pack_chunks(chunks)
    parts = [memoryview(chunk.data) for chunk in chunks]
    decode_all(np.zeros(size, np.uint8), list(zip(rows, parts, strict=True)))


def test_chunk_with_more_elements_than_bytes_is_refused_before_it_is_decompressed():
    with pytest.raises(BadFrameError, match="a sparse chunk of 262144 elements of 8 bytes in 8"):
        decoded(64, [sparse(0, 8, SPARSE_ITEMS, bytes(9 * SPARSE_ITEMS), unit=8)])


@pytest.mark.parametrize("copies", [1, 2])
def test_gap_that_goes_on_sets_no_element(copies: int):
    chunks = [sparse(0, 256, 1, bytes([255, 7]))] * copies
    with pytest.raises(BadFrameError, match="another number of elements"):
        decoded(256, chunks)


@pytest.mark.parametrize("is_full", [False, True])
def test_record_whose_chunks_cover_more_than_the_array_is_damage(scribe: Scribe, is_full: bool):
    row = (1, 1, 0, 0, 0, 2, FULL * is_full)
    chunks = [Chunk(0, 400, 0, Coding.FULL, 1, bytes(400))] * 2
    append_forged(scribe, chunks, records=records_of([row]))
    log = Log(scribe.files, PLACE)
    with pytest.raises(CorruptionError, match=r"cover more than the 400|does not give all"):
        log.state(2)
    with pytest.raises(CorruptionError, match="cover more than the 400"):
        list(read_commit(log, 2, lambda: 0).patches())


def test_many_bombs_are_decoded_in_bounded_memory(scribe: Scribe):
    size = 1 << 20
    bomb = sparse(0, size, 1, bytes([255] * (size // 255)) + bytes([size % 255 - 1]) + b"\1")
    tracemalloc.start()
    try:
        decoded(size, [bomb] * 20_000)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("offset", [2**63, 2**64 - 4])
def test_patches_of_a_chunk_at_no_place_are_damage(scribe: Scribe, offset: int):
    chunk = Chunk(offset, 4, 1, Coding.SPARSE, 4, b"\0abcd")
    append_forged(scribe, [chunk], records=records_of([(1, 1, 0, 0, 1, 1, 0)]))
    with pytest.raises(CorruptionError, match=f"4 bytes at {offset} of 400"):
        list(read_commit(Log(scribe.files, PLACE), 2, lambda: 0).patches())


def test_patches_of_an_array_without_bytes_are_none(scribe: Scribe):
    info = ArrayInfo(2, "nothing", "numpy", "|S0", (3,), True)
    append_forged(scribe, ops=[Op(OpCode.CREATE, info)])
    forge(scribe.files, scribe.log.pieces[-1].segment.name, lambda _: None)
    assert list(read_commit(Log(scribe.files, PLACE), 2, lambda: 0).patches()) == []


def test_record_of_an_array_that_is_made_later_is_damage(scribe: Scribe):
    info = ArrayInfo(2, "late", "jax", "uint8", (4,), True)
    append_forged(scribe, records=records_of([(2, 0, 0, 0, 0, 0, 0)]), next_id=2)
    row, chunk = (2, 0, 0, 0, 4, 1, FULL), Chunk(0, 4, 0, Coding.FULL, 1, b"abcd")
    append_forged(
        scribe, [chunk], ops=[Op(OpCode.CREATE, info)], records=records_of([row]), next_id=3
    )
    with pytest.raises(CorruptionError, match="a record of array 2, which is not there"):
        Log(scribe.files, PLACE).state(3, check=False)


def test_extra_that_the_machine_has_no_room_for_is_refused(small_machine, scribe: Scribe):
    chunks = [Chunk(i * CHUNK_BYTES, CHUNK_BYTES, 0, Coding.FULL_ZSTD, 1, b"x") for i in range(65)]
    append_forged(scribe, chunks, records=records_of([(0, 0, 0, 0, 0, 65, FULL)]))
    with pytest.raises(DeviceMemoryError, match="the extra of a commit"):
        Log(scribe.files, PLACE).extra(2)


# Files


@pytest.mark.parametrize(
    "place",
    [
        {"number": 2**63},
        {"first_version": 2**63},
        {"first_version": 0},
        {"base": 2**63},
        {"number": 0},
    ],
    ids=str,
)
def test_segment_that_begins_where_none_can_is_damage(place: dict[str, int], monkeypatch):
    files = Scribe().files
    (name,) = files.names("log")
    files.remove(name)
    own = Manifest.read(files, PLACE).ids.own
    fields = {"number": 1, "first_version": 1, "base": 0} | place
    segment = Segment(own, previous=0, chain=bytes(16), synced=0, **fields)
    with pytest.raises(StructureError, match="cannot be recorded: expected a whole number"):
        segment.frame()
    monkeypatch.setattr(_segment, "check_number", lambda *_: None)
    files.publish(segment.name, segment.frame())
    with pytest.raises(CorruptionError, match=r"begins where none can|segment 1 .* is missing"):
        Log(files, PLACE)


@pytest.mark.parametrize("page_bytes", [0, 6, MAX_PAGE_BYTES + 4, 2**64 - 4])
def test_manifest_with_pages_of_no_size_is_damage(scribe: Scribe, page_bytes: int):
    ids = scribe.log.manifest.ids
    publish_forged(scribe.files, Manifest(ids, page_bytes, 0))
    with pytest.raises(CorruptionError, match=f"it claims pages of {page_bytes} bytes"):
        Log(scribe.files, PLACE)


def test_manifest_whose_ancestors_do_not_ascend_is_damage(scribe: Scribe):
    lineage = ((b"a" * 16, 7), (b"b" * 16, 6))
    publish_forged(scribe.files, Manifest(LogIds(lineage, b"c" * 16), PAGE_BYTES, 0))
    with pytest.raises(CorruptionError, match="do not stand in order"):
        Log(scribe.files, PLACE)


def test_version_of_many_ancestors_has_the_id_of_the_first_that_reaches_it():
    lineage = tuple((bytes([i]) * 16, last) for i, last in enumerate([3, 3, 5, 9]))
    ids = LogIds(lineage, b"own")
    for version in range(1, 12):
        found = next((log_id for log_id, last in lineage if version <= last), b"own")
        assert ids.of(version) == found


def test_archives_that_have_no_room_together_are_refused(small_machine):
    files, unpacked, archives = MemoryFiles(), Unpacked(), []
    size = MACHINE_BYTES // 3 + 64
    for number in range(1, 4):
        entry = ArchiveEntry(number, number, 1, bytes(16))
        meta = struct.pack("<16sQIIQQ", bytes(16), number, 0, 0, 0, 1)
        tags = b"{}".ljust(size - len(meta))
        files.publish(entry.name, index_frame(0, meta + tags))
        archives.append(Archive(files, PLACE, entry, unpacked))
    for archive in archives[:2]:
        with pytest.raises(CorruptionError, match="other versions than the manifest says"):
            _ = archive.index
    assert unpacked.index_bytes == 2 * size
    with pytest.raises(DeviceMemoryError, match="a part of an archive with those before it"):
        _ = archives[2].index


def test_archives_hold_one_block_between_them():
    story = write_story()
    compact(story.writer, 9)
    story.commit()
    compact(story.writer, 13)
    log = Log(story.files, PLACE)
    first, second = log.view.archives
    for version in (2, 9, 3):
        log.record(version)
    unpacked = first._unpacked
    assert unpacked is second._unpacked
    assert unpacked.block is not None
    assert unpacked.block[0] is first


def test_frame_larger_than_any_can_be_is_not_written(scribe: Scribe, monkeypatch):
    monkeypatch.setattr(_format, "MAX_META_BYTES", 1000)
    scribe.constant("c", "s:" + "x" * 1000)
    with pytest.raises(StructureError, match="at most 1,000 and"):
        scribe.commit()
    monkeypatch.undo()
    scribe.patch("w", {8: 1}).commit()
    log = Log(scribe.close().files, PLACE)
    assert (log.version, log.recovered) == (2, [])


@pytest.mark.parametrize(
    ("offset", "value"),
    [(16, 2**64 - 4), (24, 2**63), (48, 2**63), (48, 2**64 - 1), (56, 2**63), (56, 2**64 - 1)],
)
def test_head_of_a_stream_that_claims_too_much_is_refused(
    scribe: Scribe, offset: int, value: int, tmp_path
):
    raw = b"".join(write_stream(scribe.log, 0, 1))
    meta = bytearray(raw[64 : 64 + 68])
    struct.pack_into("<Q", meta, offset, value)
    forged = b"".join(build_frame(Kind.STREAM, 0, 0, bytes(meta))[1]) + raw[192:]
    (tmp_path / "stream").write_bytes(forged)
    for source in (forged, tmp_path / "stream"):
        with pytest.raises(CorruptionError, match="is no whole stream"), open_stream(source) as s:
            _ = offset == 56 and s.chains()


def taken(scribe: Scribe, version: int) -> list[int]:
    """What an empty log takes of the commits of another."""
    with open_stream(b"".join(write_stream(scribe.log, 0, version))) as stream:
        return take_in(Scribe().head, stream)


@pytest.mark.parametrize("next_id", [1, 3, 2**64 - 1])
def test_stream_that_uses_up_ids_is_refused(scribe: Scribe, next_id: int):
    append_forged(scribe, next_id=next_id)
    forge(scribe.files, scribe.log.pieces[-1].segment.name, lambda _: None)
    scribe.log = Log(scribe.files, PLACE)
    assert taken(scribe, 1) == [1]
    with pytest.raises(CorruptionError, match="it is not the commit of a log"):
        taken(scribe, 2)


def test_stream_with_chunks_that_cover_more_than_the_array_is_refused(scribe: Scribe):
    chunks = [Chunk(0, 400, 0, Coding.FULL, 1, bytes(400))] * 2
    append_forged(scribe, chunks, records=records_of([(1, 1, 0, 0, 0, 2, 0)]), next_id=2)
    with pytest.raises(CorruptionError, match="cover more than the 400"):
        taken(scribe, 2)


# The directory


@pytest.mark.parametrize("folder", ["log", "snapshots"])
def test_folder_that_is_a_link_is_refused(tmp_path, folder: str):
    scribe = Scribe(DiskFiles(tmp_path / "run"))
    scribe.create("w", (3,)).patch("w", {0: 1}).commit()
    scribe.snapshot()
    scribe.close()
    (tmp_path / "run" / folder).rename(tmp_path / "elsewhere")
    (tmp_path / "run" / folder).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocationError, match=f"{folder} is a link, or no folder"):
        Log(DiskFiles(tmp_path / "run"), PLACE)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "run" / folder).unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "run" / folder)
    assert Log(DiskFiles(tmp_path / "link"), PLACE).version == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_manifest_that_is_no_file_is_refused(tmp_path, kind: str):
    Scribe(DiskFiles(tmp_path / "run")).close()
    manifest = tmp_path / "run" / "manifest"
    manifest.rename(tmp_path / "manifest")
    if kind == "link":
        manifest.symlink_to(tmp_path / "manifest")
    elif kind == "pipe":
        os.mkfifo(manifest)
    else:
        manifest.mkdir()
    with pytest.raises(LocationError, match=r"/run/manifest (could not|is a (pipe|folder))"):
        Log(DiskFiles(tmp_path / "run"), PLACE)


# What is missing, or of another history


def test_snapshot_that_says_another_digest_than_its_commit_is_passed_over(scribe: Scribe):
    scribe.snapshot(rotate=False)
    (name,) = scribe.files.names("snapshots")

    def change(frames):
        record = ForgedRecord.decode(frames[-1].meta)
        record.values["c"] = "s:forged"
        frames[-1].meta = record.encode()

    forge(scribe.files, name, change)
    check_state(Log(scribe.files, PLACE).state(1, page_bytes=PAGE_BYTES), scribe.history[1])


def test_stream_whose_snapshot_says_another_digest_than_its_commit_is_refused(scribe: Scribe):
    scribe.snapshot(rotate=False)
    head, *snapshot, commit = frames_of(b"".join(write_joining_stream(scribe.log, 1, 0)))[0]
    record = ForgedRecord.decode(snapshot[-1].meta)
    record.values["c"] = "s:forged"
    record.state_digest = state_sum(record.state_digest, constant_term("c", "s:forged"))
    snapshot[-1].meta = record.encode()
    place(snapshot, 0)
    size = sum(frame.nbytes for frame in snapshot)
    head.meta = head.meta[:56] + struct.pack("<Q", size) + head.meta[64:]
    raw = b"".join(frame.encode() for frame in (head, *snapshot, commit))
    with open_stream(raw) as stream:
        for ask in (stream.chains, stream.state):
            with pytest.raises(CorruptionError, match="of another history than its commit"):
                ask()


def test_reader_goes_on_in_no_segment_of_another_history(scribe: Scribe):
    scribe.writer.rotate()
    scribe.patch("w", {0: 2}).commit()
    log = Log(scribe.files, PLACE)
    scribe.writer.rotate()
    newest = scribe.log.pieces[-1].segment
    strange = Segment(
        newest.log_id, newest.number, newest.previous, 9, newest.base, newest.chain, newest.synced
    )
    scribe.files.remove(newest.name)
    scribe.files.publish(strange.name, strange.frame())
    log.refresh()
    assert log.version == 2
    assert log.pieces[-1].segment.number < newest.number


def compacted(**missing: str) -> Files:
    """A compacted log without the files whose names have those ends."""
    story = write_story()
    compact(story.writer, 7)
    story.close()
    for name in names_of(story.files):
        if name.endswith(tuple(missing.values())):
            story.files.remove(name)
    return story.files


def test_writer_of_a_log_whose_cut_segment_is_its_last_goes_on():
    files = compacted(segments=".seg", indexes=".idx", marks=".snap")
    log = Log(files, PLACE)
    assert log.pieces[-1].segment.is_cut
    version, writer = log.version, LogWriter(log)
    for _ in range(2):
        writer.append(NewCommit(CommitRecord(b"", b"", 0, 0, 1, next_id=9), ()))
        writer.rotate()
    writer.close()
    opened = Log(files, PLACE)
    assert (opened.version, opened.recovered) == (version + 2, [])
    assert [opened.record(v).version for v in (version + 1, version + 2)] == [
        version + 1,
        version + 2,
    ]


def test_fork_of_a_log_with_an_archive_missing_is_refused():
    with pytest.raises(CorruptionError, match=r"\.arc is missing"):
        fork_log(Log(compacted(archives=".arc"), PLACE), 9, MemoryFiles())


def test_extra_whose_snapshot_is_missing_is_damage():
    log = Log(compacted(missing=".snap"), PLACE)
    kept = next(v for v in log.kept if log.record(v).extra_span() is not None)
    with pytest.raises(CorruptionError, match="nothing else has the extra"):
        log.extra(kept)


def test_name_of_an_array_that_nothing_names_is_damage():
    log = Log(compacted(snapshots=".snap"), PLACE)
    assert log.name_of(1) == "w"
    with pytest.raises(CorruptionError, match="which no commit ever made"):
        log.name_of(99)


def test_log_without_a_commit_has_none_of_a_time():
    files = compacted(segments=".seg", indexes=".idx")
    manifest = Manifest.read(files, PLACE)
    compaction = manifest.compaction
    assert compaction is not None
    Manifest(
        manifest.ids, manifest.page_bytes, 0,
        type(compaction)(1, 1, False, (), ()),
    ).publish(files)  # fmt: skip
    for name in names_of(files):
        if name != "manifest":
            files.remove(name)
    segment = Segment(manifest.ids.own, 1, 0, 1, 0, bytes(16), 0)
    files.publish(segment.name, segment.frame())
    with pytest.raises(VersionError, match="the log is empty"):
        Log(files, PLACE).last_with(time_ns=0)
