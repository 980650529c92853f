"""What is written can be read: beyond a limit it is refused, by whatever way it comes.

One table, of each field with values at its limits and over them.
"""

import dataclasses
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsb_jax._base.errors import MMSBError, StructureError
from mmsb_jax._base.strict_json import MAX_JSON_DEPTH
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.chunk import Chunk, Coding, pack_chunks
from mmsb_jax._store.format.data import NewCommit
from mmsb_jax._store.format.frame import (
    MAX_DATA_BYTES,
    MAX_NUMBER,
    BadFrameError,
    Kind,
    build_frame,
)
from mmsb_jax._store.format.manifest import MAX_PAGE_BYTES, ArchiveEntry, Compaction, Manifest
from mmsb_jax._store.format.record import (
    ASIDE,
    DIGEST,
    DIGEST_ONLY,
    DIGESTS,
    EXTRA_ID,
    FULL,
    HAS_STEP,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    MAX_NOTE_BYTES,
    MAX_TEXT_BYTES,
    VALUES_REPLACE,
    ArrayInfo,
    CommitRecord,
    Op,
    OpCode,
    records_of,
)
from mmsb_jax._store.format.tags import MAX_TAG_BYTES, decode_tags, encode_tags
from mmsb_jax._store.log import archive as _archive
from mmsb_jax._store.log.archive import index_frame
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import Segment, read_segment
from mmsb_jax._store.transfer.stream import StreamHead
from tests.store._logs import PLACE, Scribe, check_log

I64, U64 = 2**63 - 1, 2**64 - 1
OVER_I64 = [I64 + 1, -I64 - 2, U64, 2**200, 0.5, "3"]
NO_TEXTS = [None, 7, b"bytes", "\ud800", "caf\udce9"]
NO_HASHES = [b"", b"x" * 15, b"x" * 17, "x" * 16, None]
INFO = ArrayInfo(1, "w", "jax", "float32", (2, 3), True)
EXTRA_ROW = (EXTRA_ID, 0, 0, 0, 0, 1, FULL)


def at_depth(levels: int) -> str:
    return "[" * levels + "]" * levels


def one_chunk(**fields: int) -> np.ndarray:
    chunks = pack_chunks([Chunk(0, 4, 0, Coding.FULL, 1, b"abcd")]).copy()
    for name, value in fields.items():
        chunks[name] = value
    return chunks


def rows(*found: tuple[int, int, int, int, int, int, int]) -> np.ndarray:
    return records_of(found)


def digests(*found: tuple[int, int, int, int]) -> np.ndarray:
    return np.array(list(found), DIGEST)


# Field → (values that are written and read back, values that are refused)
FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "log_id": ([bytes(16), b"\xff" * 16], NO_HASHES),
    "previous_chain": ([bytes(16)], NO_HASHES),
    "frames_hash": ([bytes(16)], NO_HASHES),
    "state_digest": ([0, 2**128 - 1], [-1, 2**128, None]),
    "version": ([1, MAX_NUMBER], [0, -1, MAX_NUMBER + 1, U64, None]),
    "time_ns": ([0, I64, -I64 - 1], [*OVER_I64, None]),
    "step": ([None, 0, I64, -I64 - 1], OVER_I64),
    "source": (["", "ä" * (MAX_TEXT_BYTES // 2), "\0"], ["x" * (MAX_TEXT_BYTES + 1), *NO_TEXTS]),
    "note": (
        ["", '"' + "x" * (MAX_NOTE_BYTES - 2) + '"', at_depth(MAX_JSON_DEPTH), '"\\ud800"'],
        ['"' + "x" * (MAX_NOTE_BYTES - 1) + '"', at_depth(MAX_JSON_DEPTH + 1), "{", *NO_TEXTS],
    ),
    "values": (
        [{}, {"": ""}, {"\0graph": None}, {"x" * 10**5: "y" * 10**5}],
        [{"c": 3}, {"c": "\udcff"}, {"\ud800": "s:"}, {3: "s:"}, {None: None}, {"c": b"s:"}],
    ),
    "flags": ([0, DIGEST_ONLY, VALUES_REPLACE, 62], [HAS_STEP, 64, 1 << 31, 1 << 40, -1]),
    "changed_bytes": ([0, U64], [-1, U64 + 1, None]),
    "next_id": ([1, U64], [0, -1, U64 + 1, None]),
    "frame_sizes": ([[], [0, MAX_DATA_BYTES]], [[MAX_DATA_BYTES + 1], [-1], [4, U64], [None]]),
    "records": (
        [rows(), rows((U64, U64, 2**32 - 1, 2**32 - 1, U64, 0, 3)), rows((1, 0, 0, 0, 0, 0, 1))],
        [
            rows((1, 0, 0, 0, 0, 0, 4)),
            rows((1, 0, 0, 0, 0, 0, 1 << 31)),
            rows((1, 0, 0, 0, 0, 1, FULL)),
            rows((1, 0, 0, 0, 0, 2**32 - 1, 0), (2, 0, 0, 0, 0, 1, 0)),
        ],
    ),
    "digests": ([digests()], [digests((1, 2, 3, 4))]),  # a flag says that there are some
    "aside": ([rows()], [rows((1, 0, 0, 0, 0, 0, ASIDE))]),  # so does one
    "ops": ([[], [Op(OpCode.DELETE, INFO), Op(OpCode.CREATE, INFO)]], [[Op(4, INFO)]]),  # type: ignore[arg-type]
}
# The same of an array that is made.
INFO_FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "id": ([1, U64], [0, -1, U64 + 1, None]),
    "name": (
        ["~", "a\0b", "ä" * (MAX_NAME_BYTES // 2), "n" * MAX_NAME_BYTES],
        ["", "\0", "\0graph", "n" * (MAX_NAME_BYTES + 1), "n" * 2**16, "ä" * 2**14, *NO_TEXTS],
    ),
    "kind": (["", "k" * MAX_TEXT_BYTES], ["k" * (MAX_TEXT_BYTES + 1), *NO_TEXTS]),
    "dtype": (
        ["float32", "bfloat16", "|S0", "<U5", "<M8[ns]"],
        ["f4", "O", "finfo", "", "V8", "(2,)f4", "|S" + "9" * 20, "d" * 2**16, *NO_TEXTS],
    ),
    "shape": (
        [(), (0,), (1,) * MAX_DIMENSIONS, (2**42,), (2**42, 0)],
        [(1,) * (MAX_DIMENSIONS + 1), (2**42 + 1,), (2**43, 0), (-1,), (U64 + 1,), (None,), (0.5,)],
    ),
    "member": ([True, False], []),
}


def record_with(field: str, value: Any) -> CommitRecord:
    fields: dict[str, Any] = {
        "log_id": b"L" * 16,
        "previous_chain": b"C" * 16,
        "state_digest": 5,
        "version": 7,
        "time_ns": 11,
        field: value,
    }
    return CommitRecord(**fields)


def encoded_unchecked(record: CommitRecord) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CommitRecord, "check", lambda record: None)
        return record.encode()


def record_making(field: str, value: Any) -> CommitRecord:
    return record_with("ops", [Op(OpCode.CREATE, replace(INFO, **{field: value}))])


def fields_of(record: CommitRecord) -> dict[str, Any]:
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    tables = ("records", "aside", "chunks", "digests")
    return fields | {name: getattr(record, name).tolist() for name in tables}


def cases(table: dict[str, tuple[list[Any], list[Any]]], side: int) -> list[Any]:
    return [
        pytest.param(field, value, id=f"{field}-{i}")
        for field, values in table.items()
        for i, value in enumerate(values[side])
    ]


def test_table_has_every_field():
    names = {field.name for field in dataclasses.fields(CommitRecord)}
    assert names - {"chunks"} == FIELDS.keys()
    assert {
        field.name for field in dataclasses.fields(ArrayInfo) if field.init
    } == INFO_FIELDS.keys()


@pytest.mark.parametrize(("field", "value"), cases(FIELDS, 0))
def test_field_at_its_limit_is_read_back(field: str, value: Any):
    record = record_with(field, value)
    assert fields_of(CommitRecord.decode(record.encode())) == fields_of(record)


@pytest.mark.parametrize(("field", "value"), cases(FIELDS, 1))
def test_field_over_its_limit_is_not_encoded(field: str, value: Any):
    with pytest.raises(StructureError, match=r"record|expected|share out|follows from"):
        record_with(field, value).encode()


@pytest.mark.parametrize("flags", [DIGESTS, DIGEST_ONLY | DIGESTS])
@pytest.mark.parametrize("rows", [(), ((1, 0, 0, 0),), ((1, 2, 3, 4), (U64, 2**32 - 1, 5, U64))])
def test_digests_are_read_back(flags, rows):
    record = record_with("digests", digests(*rows))
    record.flags = flags
    assert fields_of(CommitRecord.decode(record.encode())) == fields_of(record)


@pytest.mark.parametrize(
    "rows", [((0, 0, 0, 0),), ((2, 0, 0, 0), (1, 0, 0, 0)), ((1, 0, 0, 0),) * 2]
)
def test_digests_out_of_order_are_refused(rows):
    record = record_with("digests", digests(*rows))
    record.flags = DIGESTS
    with pytest.raises(StructureError, match="order of their arrays"):
        record.encode()
    raw = encoded_unchecked(record)
    with pytest.raises(BadFrameError, match="order of their arrays"):
        CommitRecord.decode(raw)


@pytest.mark.parametrize("cut", [1, 8, 24, 31])
def test_digests_that_are_cut_short_do_not_parse(cut):
    record = record_with("digests", digests((1, 2, 3, 4)))
    record.flags = DIGESTS
    with pytest.raises(BadFrameError, match="digests of the commit"):
        CommitRecord.decode(record.encode()[:-cut])


@pytest.mark.parametrize("field", ["ops", "records"])
def test_a_commit_without_bytes_has_neither_records_nor_operations(field):
    value = [Op(OpCode.DELETE, INFO)] if field == "ops" else rows((1, 0, 0, 0, 0, 0, FULL))
    record = record_with(field, value)
    record.flags = DIGEST_ONLY | DIGESTS
    with pytest.raises(StructureError, match="without bytes"):
        record.encode()
    raw = encoded_unchecked(record)
    with pytest.raises(BadFrameError, match="without bytes"):
        CommitRecord.decode(raw)


@pytest.mark.parametrize(("field", "value"), cases(INFO_FIELDS, 0))
def test_array_at_a_limit_is_read_back(field: str, value: Any):
    record = record_making(field, value)
    assert CommitRecord.decode(record.encode()).ops == record.ops


@pytest.mark.parametrize(("field", "value"), cases(INFO_FIELDS, 1))
def test_array_over_a_limit_is_not_encoded(field: str, value: Any):
    with pytest.raises(StructureError, match=r"record|expected|dtype"):
        record_making(field, value).encode()


@pytest.mark.parametrize("name", ["", "\0old"])
def test_name_that_an_older_log_gave_an_array_is_kept_by_its_snapshots(name: str):
    record = record_making("name", name)
    record.flags = VALUES_REPLACE
    assert CommitRecord.decode(record.encode()).ops == record.ops
    record = record_with("ops", [Op(OpCode.DELETE, replace(INFO, name=name))])
    assert CommitRecord.decode(record.encode()).ops == record.ops


def test_chunks_that_no_reader_knows_are_not_encoded():
    record = record_with("records", rows((1, 0, 0, 0, 4, 1, FULL)))
    for coding in (0, 8, 255):
        record.chunks = one_chunk(coding=coding)
        with pytest.raises(StructureError, match=f"coding {coding}"):
            record.encode()
    record.chunks = one_chunk()
    assert fields_of(CommitRecord.decode(record.encode())) == fields_of(record)


def test_extra_of_more_than_any_can_have_is_not_encoded(monkeypatch):
    monkeypatch.setattr("mmsb_jax._store.format.record.MAX_EXTRA_BYTES", 4)
    record = record_with("records", rows(EXTRA_ROW))
    record.chunks = one_chunk(raw=4)
    record.encode()
    record.chunks = one_chunk(raw=5)
    with pytest.raises(StructureError, match="the bytes of extra 5"):
        record.encode()


@settings(max_examples=400)
@given(st.data())
def test_record_of_any_fields_is_read_back_or_refused(data):
    record = record_with("version", 7)
    for field in data.draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=4)):
        setattr(record, field, data.draw(st.sampled_from([v for s in FIELDS[field] for v in s])))
    for field in data.draw(st.sets(st.sampled_from(sorted(INFO_FIELDS)), max_size=2)):
        value = data.draw(st.sampled_from([v for s in INFO_FIELDS[field] for v in s]))
        code = data.draw(st.sampled_from(OpCode))
        record.ops = [*record.ops, Op(code, replace(INFO, **{field: value}))]
    try:
        raw = record.encode()
    except StructureError:
        return
    assert fields_of(CommitRecord.decode(raw)) == fields_of(record)


# By the writer: nothing of what is refused is left in the log


@pytest.mark.parametrize(
    ("field", "value"),
    [case for case in cases(FIELDS, 1) if case.values[0] in ("step", "source", "note", "time_ns")],
)
@pytest.mark.parametrize("data", [b"", b"x" * 2**19], ids=["inline", "frames"])
def test_commit_over_a_limit_leaves_the_log_as_it_was(field: str, value: Any, data: bytes):
    scribe = Scribe()
    scribe.create("w", (100,)).patch("w", {0: 1}).commit()
    size = scribe.files.size(scribe.log.pieces[-1].segment.name)
    chunks = [Chunk(0, len(data), 0, Coding.FULL, 1, data)]
    said = {"time_ns": 1, field: value}
    with pytest.raises(StructureError):
        scribe.writer.append(NewCommit(CommitRecord(b"", b"", 0, 0, **said), chunks))
    assert scribe.files.size(scribe.log.pieces[-1].segment.name) == size
    scribe.patch("w", {1: 1}).commit()
    check_log(Log(scribe.close().files, PLACE), scribe.history)


# The other frames


@pytest.mark.parametrize("changes", [{}, {"x" * MAX_TAG_BYTES: 1}, {"ü": None, "a": I64}])
def test_tags_at_their_limits_are_read_back(changes: dict):
    assert decode_tags(encode_tags(changes)) == changes


@pytest.mark.parametrize("name", ["x" * (MAX_TAG_BYTES + 1), "ü" * 128, *NO_TEXTS])
def test_tag_that_could_not_be_read_back_is_not_encoded(name: Any):
    with pytest.raises(StructureError, match=r"the name of a tag .* cannot be recorded"):
        encode_tags({name: 1})


@pytest.mark.parametrize("version", [0, -1, I64 + 1, True, 1.0, "1"])
def test_tag_of_no_version_is_not_encoded(version: Any):
    with pytest.raises(StructureError, match="expected a version, or None"):
        encode_tags({"a": version})


SEGMENT = Segment(b"L" * 16, 2, 1, 5, 640, b"C" * 16, 640)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("log_id", [bytes(16)], NO_HASHES),
        ("number", [1, MAX_NUMBER], [0, -1, MAX_NUMBER + 1, None]),
        ("previous", [0, MAX_NUMBER], [-1, MAX_NUMBER + 1, None]),
        ("first_version", [1, MAX_NUMBER], [0, -1, MAX_NUMBER + 1, None]),
        ("base", [0, MAX_NUMBER], [-1, MAX_NUMBER + 1, None]),
        ("chain", [bytes(16)], NO_HASHES),
        ("synced", [0, U64], [-1, U64 + 1, None]),
    ],
)
def test_segment_is_read_back_or_not_encoded(field: str, good: list, bad: list):
    files = MemoryFiles()
    for value in good:
        segment = replace(SEGMENT, **{field: value})
        files.publish(segment.name, segment.frame())
        assert read_segment(files, segment.name) == segment
    for value in bad:
        with pytest.raises(StructureError, match="cannot be recorded"):
            replace(SEGMENT, **{field: value}).frame()


ANCESTORS = ((b"a" * 16, 3), (b"b" * 16, U64))
COMPACTION = Compaction(
    3, 10, True, (ArchiveEntry(1, 9, 640, b"c" * 16),), (2, 9), {"best": 2}
)  # fmt: skip
NO_IDS = [LogIds((), raw) for raw in NO_HASHES]
NO_LINEAGES = [
    LogIds(((b"a" * 16, 4), (b"b" * 16, 3)), b"c" * 16),
    LogIds(((b"a", 4),), b"c" * 16),
    LogIds(((b"a" * 16, U64 + 1),), b"c" * 16),
]
MANIFESTS = {
    "ids": ([LogIds((), bytes(16)), LogIds(ANCESTORS, b"c" * 16)], [*NO_IDS, *NO_LINEAGES]),
    "page_bytes": ([4, MAX_PAGE_BYTES], [0, 6, -4, MAX_PAGE_BYTES + 4, U64 + 1, None]),
    "created_ns": ([0, U64], [-1, U64 + 1, None]),
    "compaction": (
        [None, COMPACTION, replace(COMPACTION, archives=(), first_version=1, kept=())],
        [
            replace(COMPACTION, number=0),
            replace(COMPACTION, number=U64 + 1),
            replace(COMPACTION, first_version=MAX_NUMBER + 1, archives=()),
            replace(COMPACTION, kept=(9, 2)),
            replace(COMPACTION, kept=(10,)),
            replace(COMPACTION, archives=(ArchiveEntry(1, 8, 640, b"c" * 16),)),
            replace(COMPACTION, archives=(ArchiveEntry(1, 9, U64 + 1, b"c" * 16),)),
            replace(COMPACTION, archives=(ArchiveEntry(1, 9, 640, b"c"),)),
            replace(COMPACTION, tags={"x" * 256: 2}),
            replace(COMPACTION, tags={"x": 0}),
        ],
    ),
}


@pytest.mark.parametrize(("field", "values"), MANIFESTS.items())
def test_manifest_is_read_back_or_not_published(field: str, values: tuple[list, list]):
    files, manifest = MemoryFiles(), Manifest(LogIds((), b"L" * 16), 4096, 123)
    for value in values[0]:
        changed = replace(manifest, **{field: value})
        changed.publish(files)
        assert Manifest.read(files, PLACE) == changed
    before = files.read("manifest")
    for value in values[1]:
        with pytest.raises(StructureError):
            replace(manifest, **{field: value}).publish(files)
        assert files.read("manifest") == before


HEAD = StreamHead(LogIds((), b"L" * 16), 4096, 3, b"C" * 16, 5, 640)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("ids", MANIFESTS["ids"][0], MANIFESTS["ids"][1]),
        ("page_bytes", [4, MAX_PAGE_BYTES], [0, 6, MAX_PAGE_BYTES + 4, None]),
        ("since", [0, 4], [5, 6, -1, U64 + 1, None]),
        ("chain", [bytes(16)], NO_HASHES),
        ("last", [4, MAX_NUMBER], [3, 2, MAX_NUMBER + 1, None]),
        ("snapshot_bytes", [0, U64], [-1, U64 + 1, None]),
    ],
)
def test_head_of_a_stream_is_read_back_or_not_encoded(field: str, good: list, bad: list):
    for value in good:
        head = replace(HEAD, **{field: value})
        raw = b"".join(head.frame())
        (meta_bytes,) = struct.unpack_from("<I", raw, 24)
        assert StreamHead.decode(raw[64 : 64 + meta_bytes]) == head
    for value in bad:
        with pytest.raises(StructureError, match="cannot be recorded"):
            replace(HEAD, **{field: value}).frame()


def test_index_of_an_archive_that_could_not_be_read_back_is_not_encoded(monkeypatch):
    monkeypatch.setattr(_archive, "_MAX_BLOCK_BYTES", 100)
    index_frame(0, bytes(100))
    with pytest.raises(StructureError, match="the bytes of an archive's index 101"):
        index_frame(0, bytes(101))


@pytest.mark.parametrize("place", [-1, U64 + 1])
def test_frame_at_no_place_is_not_built(place: int):
    for position, synced in ((place, 0), (0, place)):
        with pytest.raises(MMSBError, match="cannot be recorded"):
            build_frame(Kind.MARK, position, synced)
