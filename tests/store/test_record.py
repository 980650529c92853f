import dataclasses
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsb_jax._base.errors import FormatError
from mmsb_jax._store.format.chunk import CHUNK, Coding
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import (
    EXTRA_ID,
    FULL,
    HAS_STEP,
    MAX_DIMENSIONS,
    MAX_NAME_BYTES,
    PAGE_VERSIONS,
    RECORD,
    VALUES_REPLACE,
    ArrayInfo,
    CommitRecord,
    Op,
    OpCode,
    records_of,
)
from tests.torture._forged_record import ForgedRecord

U32, U64 = (st.integers(0, 2**bits - 1) for bits in (32, 64))
IDS, VERSIONS = st.integers(1, 2**64 - 1), st.integers(1, 2**63 - 1)
NOTES = st.just("") | st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
).map(json.dumps)
I64 = st.integers(-(2**63), 2**63 - 1)
HASHES = st.binary(min_size=16, max_size=16)
TEXTS = st.text(max_size=30)
HOSTILE_NAMES = st.sampled_from(["../../etc/passwd", "a\0b", "", "/", "..", "\n", "ä" * 100, "💾"])
DTYPES = st.sampled_from(["float32", "bfloat16", "int4", "bool", ">f4", "|S3", "<U5", "<M8[ns]"])
FIXED_BYTES = 136

INFOS = st.builds(
    ArrayInfo,
    id=IDS,
    name=(TEXTS | HOSTILE_NAMES).filter(lambda name: name and name[0] != "\0"),
    kind=st.sampled_from(["jax", "numpy", "key:threefry2x32"]),
    dtype=DTYPES,
    shape=st.lists(st.integers(0, 2**7), max_size=5).map(tuple) | st.just((2**36,)),
    member=st.booleans(),
)
RECORDS = st.builds(
    CommitRecord,
    log_id=HASHES,
    previous_chain=HASHES,
    state_digest=st.integers(0, 2**128 - 1),
    version=VERSIONS,
    time_ns=I64,
    step=st.none() | I64,
    source=TEXTS,
    note=NOTES,
    values=st.dictionaries(TEXTS | HOSTILE_NAMES, st.none() | TEXTS, max_size=4),
    flags=st.sampled_from([0, VALUES_REPLACE]),
    changed_bytes=U64,
    next_id=IDS,
    frame_sizes=st.lists(st.integers(0, 2**32), max_size=4),
    frames_hash=HASHES,
    records=st.lists(U32, max_size=4).map(
        lambda lanes: records_of([(i, i, lane, 0, 9, 0, FULL) for i, lane in enumerate(lanes)])
    ),
    ops=st.lists(st.builds(Op, code=st.sampled_from(OpCode), info=INFOS), max_size=4),
)


def make(**fields) -> CommitRecord:
    return _made(CommitRecord, fields)


def forge(**fields) -> CommitRecord:
    """A record that may be beyond a limit."""
    return _made(ForgedRecord, fields)


def _made(kind: type[CommitRecord], fields: dict) -> CommitRecord:
    given_fields = {
        "log_id": b"L" * 16,
        "previous_chain": b"C" * 16,
        "state_digest": 5,
        "version": 7,
        "time_ns": 11,
        "step": 3,
        "source": "train",
        "note": '{"loss":1}',
        "values": {"act": "f:relu"},
        "frame_sizes": [100],
        "records": records_of([(1, 0, 2, 3, 4, 1, FULL), (EXTRA_ID, 0, 0, 0, 0, 1, FULL)]),
        "chunks": np.zeros(2, CHUNK),
        "ops": [Op(OpCode.CREATE, ArrayInfo(1, "w", "jax", "float32", (2, 3), True))],
    } | fields
    record = kind(**given_fields)
    record.chunks = record.chunks.copy()
    record.chunks["coding"] = Coding.FULL
    return record


def fields_of(record: CommitRecord) -> dict:
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    return fields | {"records": record.records.tolist(), "chunks": record.chunks.tolist()}


@given(RECORDS)
def test_record_encoded_and_decoded_is_equal(record):
    assert fields_of(CommitRecord.decode(record.encode())) == fields_of(record)


def test_record_cut_short_at_any_byte_is_refused():
    raw = make().encode()
    for size in range(len(raw)):
        with pytest.raises(BadFrameError):
            CommitRecord.decode(raw[:size])
    with pytest.raises(BadFrameError):
        CommitRecord.decode(raw + b"\0")


@pytest.mark.parametrize("offset", range(108, 134, 4))
@pytest.mark.parametrize("value", [2**31, 2**32 - 1])
def test_record_that_claims_parts_of_any_size_is_refused(offset, value):
    raw = bytearray(make().encode())
    size = 2 if offset == 132 else 4
    raw[offset : offset + size] = (value & (2 ** (8 * size) - 1)).to_bytes(size, "little")
    with pytest.raises(BadFrameError):
        CommitRecord.decode(bytes(raw))


def test_record_whose_records_do_not_share_out_the_chunks_is_refused():
    record = forge(records=records_of([(1, 0, 2, 3, 4, 2**32 - 1, FULL)] * 3))
    with pytest.raises(BadFrameError, match="share out"):
        CommitRecord.decode(record.encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda record: setattr(record, "flags", 1 << 6),
        lambda record: record.records["flags"].__setitem__(0, 1 << 3),
        lambda record: record.chunks["coding"].__setitem__(0, 8),
        lambda record: record.chunks["coding"].__setitem__(0, 0),
    ],
    ids=["commit flag", "record flag", "coding", "coding 0"],
)
def test_record_with_what_a_later_version_may_add_is_refused_as_newer(change):
    record = forge()
    change(record)
    with pytest.raises(FormatError, match=r"does not know\. Upgrade"):
        CommitRecord.decode(record.encode())


def test_record_with_an_unknown_operation_is_refused_as_newer():
    raw = bytearray(make().encode())
    start = FIXED_BYTES + 8 + 2 * RECORD.itemsize + 2 * CHUNK.itemsize
    assert raw[start] == OpCode.CREATE
    raw[start] = 4
    with pytest.raises(FormatError, match="operation 4"):
        CommitRecord.decode(bytes(raw))


@pytest.mark.parametrize(
    "dtype",
    ["finfo", "O", "object", "f4", "=f4", "(2,)f4", "(,)f4", ",", "f4,f4", "V8", "", "int3", "💾"],
)
def test_record_with_a_dtype_that_the_library_does_not_write_is_refused(dtype):
    info = ArrayInfo(1, "w", "jax", dtype, (2,), True)
    with pytest.raises(BadFrameError, match="does not parse"):
        CommitRecord.decode(forge(ops=[Op(OpCode.CREATE, info)]).encode())


def test_record_with_too_many_dimensions_is_refused():
    info = ArrayInfo(1, "w", "jax", "float32", (1,) * (MAX_DIMENSIONS + 1), True)
    with pytest.raises(BadFrameError, match="cut short"):
        CommitRecord.decode(forge(ops=[Op(OpCode.CREATE, info)]).encode())


def test_record_with_a_name_of_the_greatest_length_comes_back():
    info = ArrayInfo(1, "n" * MAX_NAME_BYTES, "jax", "float32", (), True)
    assert CommitRecord.decode(make(ops=[Op(OpCode.CREATE, info)]).encode()).ops[0].info == info


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"a":1}', b"[]", b"{", b"\xff", b'{"a":' + b"9" * 5000 + b"}"]
)
def test_record_whose_constants_are_no_table_of_texts_is_refused(text):
    raw = make(values={}).encode()
    raw = raw[:128] + struct.pack("<I", len(text)) + raw[132:] + text
    with pytest.raises(BadFrameError, match="does not parse"):
        CommitRecord.decode(raw)


@settings(max_examples=500)
@given(data=st.data())
def test_record_mutated_anywhere_parses_or_is_refused(data):
    raw = bytearray(make().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
    try:
        record = CommitRecord.decode(bytes(raw))
    except (BadFrameError, FormatError):
        return
    assert len(record.records) == 2


@given(st.binary(max_size=600))
def test_record_of_any_bytes_is_refused(raw):
    with pytest.raises((BadFrameError, FormatError)):
        CommitRecord.decode(b"\xff" * FIXED_BYTES + raw)


def test_touched_names_every_array_and_not_the_extra():
    assert make().touched() == [1]


def test_schema_differs_for_another_name_kind_dtype_or_shape():
    info = ArrayInfo(1, "w", "jax", "float32", (2, 3), True)
    others = [{"name": "v"}, {"kind": "numpy"}, {"dtype": "int32"}, {"shape": (3, 2)}]
    schemas = {dataclasses.replace(info, **other).schema() for other in others}
    assert len(schemas | {info.schema()}) == 5
    assert dataclasses.replace(info, member=False).schema() == info.schema()


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes", "spanned"),
    [
        ("float32", (2, 3), 24, 24),
        ("bfloat16", (), 2, 2),
        ("int4", (5,), 5, 5),
        ("float64", (0, 2**40), 0, 2**43),
        ("<U3", (2,), 24, 24),
        ("float32", (2**63, 2), 2**66, 2**66),
    ],
)
def test_array_bytes_follow_from_dtype_and_shape(dtype, shape, nbytes, spanned):
    info = ArrayInfo(1, "w", "jax", dtype, shape, True)
    assert (info.nbytes, info.spanned_bytes) == (nbytes, spanned)


def test_tables_have_the_layout_of_the_format():
    assert (RECORD.itemsize, CHUNK.itemsize) == (40, 24)
    assert (HAS_STEP, FULL, PAGE_VERSIONS, EXTRA_ID) == (1, 1, 2, 0)
