"""Logs made to do harm: every hash fits, and what the frames say is anything.

Such a log may give data that nobody wrote: hashes are no signatures. But it ends in an error of
the library or in a state, within the memory of the machine, and nothing in it names a file.
"""

import contextlib
import struct
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsb_jax._errors import CorruptionError, DeviceMemoryError, MMSBError
from mmsb_jax.store import _room, _writer
from mmsb_jax.store._codec import Chunk, Coding
from mmsb_jax.store._commit import read_commit
from mmsb_jax.store._files import DiskFiles, MemoryFiles
from mmsb_jax.store._format import Header, build_frame, read_data, read_header, read_meta
from mmsb_jax.store._log import Log
from mmsb_jax.store._record import FULL, ArrayInfo, CommitRecord, Op, OpCode, records_of
from mmsb_jax.store._segment import reader_of
from mmsb_jax.store._verify import verify
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, check_log, copy_files, names_of

MACHINE_BYTES = 64 << 20


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(_room, "_machine_bytes", lambda: MACHINE_BYTES)


def with_everything() -> Scribe:
    """A log whose newest commit has operations, all sorts of records, constants and an extra."""
    rng = np.random.default_rng(0)
    scribe = Scribe()
    scribe.create("w", (300,)).create("b", (40,), "uint8").create("gone", (2,))
    scribe.write("w", rng.normal(size=300).astype("f4")).commit(step=1)
    scribe.snapshot()
    scribe.patch("w", {0: 1}).commit()
    near = np.frombuffer(scribe.history[-1].arrays["w"].content, np.uint8) ^ 1
    scribe.write("w", near).patch("b", {3: 3, 5: 5}).delete("gone").create("new", (3,))
    scribe.patch("new", {2: 1}).constant("c", "s:x")
    scribe.commit(step=7, source="train", note='{"a":1}', extra=b"extra" * 30)
    return scribe


def frames_of(files: MemoryFiles, name: str) -> list[tuple[int, Header, bytes, bytes]]:
    """(offset, header, meta, data) of every frame of a file."""
    read, found, offset = reader_of(files, name), [], 0
    while offset < files.size(name):
        header = read_header(read, offset, None)
        meta, data = read_meta(read, offset, header), read_data(read, offset, header)
        found.append((offset, header, meta, bytes(data)))
        offset += header.frame_bytes
    return found


NUMBERS = st.sampled_from(
    [0, 1, 2, 255, 256, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
)


@st.composite
def mutations(draw) -> tuple[str, float, int, int, bytes]:
    """(what to do, where as a share, size, number, bytes)."""
    what = draw(st.sampled_from(["set", "set", "set", "set", "cut", "insert", "repeat"]))
    size = draw(st.sampled_from([1, 2, 4, 8, 8, 24, 40]))
    return what, draw(st.floats(0, 1)), size, draw(NUMBERS), draw(st.binary(max_size=24))


def mutate(raw: bytes, mutation: tuple[str, float, int, int, bytes]) -> bytes:
    what, share, size, number, extra = mutation
    place = int(share * len(raw)) // min(size, 8) * min(size, 8)
    if what == "set":
        value = (number % 2 ** (8 * size)).to_bytes(size, "little")
        return raw[:place] + value[: max(0, len(raw) - place)] + raw[place + size :]
    if what == "cut":
        return raw[:place] + raw[place + size :]
    if what == "insert":
        return raw[:place] + extra + raw[place:]
    return raw[: place + size] + raw[place:]


@pytest.fixture(scope="module", params=[0, 1 << 18], ids=["data frames", "inline"])
def log_files(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_writer, "INLINE_BYTES", request.param)
        return with_everything().files


def read_all(files: MemoryFiles) -> None:
    """Everything that can be asked of a log."""
    log = Log(files, PLACE, salvage=True)
    asked = [
        lambda: list(log.select(array="w")),
        lambda: log.last_with(step=3),
        lambda: verify(log),
    ]
    for version in range(max(1, log.version - 5), log.version + 1):
        asked += [
            lambda version=version: log.state(version, page_bytes=PAGE_BYTES),
            lambda version=version: log.table(version),
            lambda version=version: read_commit(log, version, lambda: 0).extra,
        ]
    for ask in asked:
        with contextlib.suppress(MMSBError):
            ask()


ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=120, deadline=None, suppress_health_check=ALLOWED)
@given(data=st.data())
def test_log_with_frames_that_say_anything_ends_in_an_error_or_a_state(
    small_machine, log_files, data
):
    forge_and_read(log_files, data)


@pytest.mark.long
@settings(max_examples=5_000, deadline=None, suppress_health_check=ALLOWED)
@given(data=st.data())
def test_log_with_frames_that_say_anything_ends_in_an_error_or_a_state_long(
    small_machine, log_files, data
):
    forge_and_read(log_files, data)


def forge_and_read(log_files: MemoryFiles, data: st.DataObject) -> None:
    files = copy_files(log_files)
    name = data.draw(st.sampled_from(names_of(files)))
    frames = frames_of(files, name)
    chosen = data.draw(st.sampled_from(frames) | st.just(frames[-1]))
    metas, datas = (data.draw(st.lists(mutations(), max_size=2)) for _ in range(2))
    raw = b""
    for frame in frames:
        _, header, meta, content = frame
        if frame is chosen:
            for mutation in metas:
                meta = mutate(meta, mutation)
            for mutation in datas:
                content = mutate(content, mutation)
        position = header.position if name in ("manifest",) else frames[0][1].position + len(raw)
        raw += b"".join(
            build_frame(
                header.kind, position, header.synced, meta, [content], header.must_understand
            )[1]
        )
    files.publish(name, [raw])
    tracemalloc.start()
    try:
        with contextlib.suppress(MMSBError):
            read_all(files)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * MACHINE_BYTES


def append_forged(scribe: Scribe, chunks: Sequence[Chunk] = (), **fields) -> None:
    """A commit behind the newest that says ``fields``, with hashes and a chain that fit."""
    record = CommitRecord(b"", b"", 0, 0, 1, next_id=3, **fields)
    scribe.writer.append(chunks, lambda: record)
    scribe.writer.sync()


@pytest.mark.parametrize("shape", [(2**24,), (2**40,), (2**41 - 1,), (2**20, 2**20)])
def test_array_that_the_machine_has_no_room_for_is_refused(small_machine, shape):
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    info = ArrayInfo(2, "huge", "jax", "float64", shape, True)
    append_forged(scribe, ops=[Op(OpCode.CREATE, info)])
    log = Log(scribe.files, PLACE)
    with pytest.raises(DeviceMemoryError, match="array 'huge' with those before it"):
        log.state(2)
    assert log.table(2).arrays[2].shape == shape
    assert list(log.state(2, wanted=lambda name: name == "w", check=False).words) == [1]


@pytest.mark.parametrize(
    "shape", [(2**63,), (2**64 - 1,), (2**42 + 1,), (2**63, 2**63), (0, 2**63)]
)
def test_array_that_no_machine_has_room_for_is_damage(shape):
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    info = ArrayInfo(2, "huge", "jax", "float32", shape, True)
    append_forged(scribe, ops=[Op(OpCode.CREATE, info)])
    with pytest.raises(CorruptionError, match=r"is damaged at byte.*array 'huge' claims"):
        Log(scribe.files, PLACE).state(2)


def test_many_arrays_that_have_no_room_together_are_refused(small_machine):
    scribe = Scribe()
    ops = [
        Op(OpCode.CREATE, ArrayInfo(i, f"a{i}", "jax", "uint8", (MACHINE_BYTES // 3,), True))
        for i in range(1, 5)
    ]
    scribe.commit()
    append_forged(scribe, ops=ops)
    with pytest.raises(DeviceMemoryError, match="array 'a3' with those before it"):
        Log(scribe.files, PLACE).state(2)


def test_table_of_very_many_arrays_is_read():
    scribe = Scribe()
    for i in range(20_000):
        scribe._draft.ops.append(
            Op(OpCode.CREATE, ArrayInfo(i + 1, f"{i}", "jax", "uint8", (1,), True))
        )
    scribe.head.commit(scribe._draft)
    assert len(Log(scribe.files, PLACE).state(1).words) == 20_000


@pytest.mark.parametrize("code", [OpCode.DELETE, OpCode.UPDATE])
def test_operation_on_an_array_that_is_not_there_is_damage(code):
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    append_forged(scribe, ops=[Op(code, ArrayInfo(9, "none", "jax", "uint8", (), True))])
    with pytest.raises(CorruptionError, match="does not fit"):
        Log(scribe.files, PLACE).state(2)


@pytest.mark.parametrize("array_id", [1, 2, 2**64 - 1])
def test_record_of_an_array_that_is_not_there_is_damage(array_id):
    scribe = Scribe()
    scribe.create("w", (2,)).create("v", (2,)).commit()
    scribe.delete("w").delete("v").commit()
    append_forged(scribe, records=records_of([(array_id, 0, 0, 0, 0, 0, 0)]))
    with pytest.raises(CorruptionError, match=f"a record of array {array_id}, which is not there"):
        Log(scribe.files, PLACE).state(3)


def test_record_that_builds_on_another_version_is_damage():
    scribe = Scribe()
    scribe.create("w", (100,)).patch("w", {0: 1}).commit()
    append_forged(scribe, records=records_of([(1, 77, 0, 0, 0, 0, 0)]))
    with pytest.raises(CorruptionError, match="builds on version 77, its newest is 1"):
        Log(scribe.files, PLACE).state(2)


def test_full_record_that_does_not_give_all_bytes_is_damage():
    scribe = Scribe()
    scribe.create("w", (2,)).patch("w", {0: 1}).commit()
    append_forged(scribe, records=records_of([(1, 1, 0, 0, 0, 0, FULL)]))
    with pytest.raises(CorruptionError, match="does not give all its bytes"):
        Log(scribe.files, PLACE).state(2)


def test_chunks_that_reach_outside_their_array_are_damage():
    scribe = Scribe()
    scribe.create("w", (2,)).patch("w", {0: 1}).commit()
    records = records_of([(1, 1, 0, 0, 1, 1, 0)])
    append_forged(scribe, [Chunk(2**63, 4, 0, Coding.FULL, 1, b"abcd")], records=records)
    with pytest.raises(CorruptionError, match="at 9223372036854775808 of 8"):
        Log(scribe.files, PLACE).state(2, page_bytes=PAGE_BYTES)


def test_state_whose_digest_is_forged_is_refused():
    scribe = Scribe()
    scribe.create("w", (2,)).patch("w", {0: 1}).commit()
    append_forged(scribe, records=records_of([(1, 1, 5, 5, 0, 0, 0)]))
    with pytest.raises(CorruptionError, match="do not have the digest recorded"):
        Log(scribe.files, PLACE).state(2)


@pytest.mark.parametrize("synced", [2**63, 2**64 - 1])
def test_mark_beyond_the_log_is_damage(synced):
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    name, end = scribe.log.pieces[-1].segment.name, scribe.log.position
    scribe.files.reopen(name).append(build_frame(4, end, synced)[1])
    with pytest.raises(CorruptionError, match="ends before what was written durably"):
        Log(scribe.files, PLACE)


def test_names_of_arrays_name_no_files(tmp_path):
    names = ["../../evil", "/etc/passwd", "a\0b", "..", "log/x", "manifest", "💾\n"]
    scribe = Scribe(DiskFiles(tmp_path / "run"))
    for name in names:
        scribe.create(name, (2,)).patch(name, {0: 1})
    scribe.constant("../../value", "s:x").commit(source="../../source")
    scribe.snapshot()
    scribe.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "log",
        "manifest",
        "snapshots",
    ]
    check_log(Log(DiskFiles(tmp_path / "run"), PLACE), scribe.history)


@pytest.mark.parametrize(("offset", "size"), [(24, 4), (32, 8)])
@pytest.mark.parametrize("value", [2**31, 2**32 - 1, 2**63, 2**64 - 1])
def test_header_that_claims_sizes_without_end_is_refused(offset, size, value):
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    scribe.close()
    name = scribe.log.pieces[-1].segment.name
    raw = bytearray(scribe.files.read(name))
    raw[128 + offset : 128 + offset + size] = struct.pack("<Q", value)[:size]
    header = bytes(raw[128:184])
    raw[184:192] = struct.pack("<Q", xxhash.xxh3_64_intdigest(header))
    scribe.files.publish(name, [raw])
    tracemalloc.start()
    try:
        with pytest.raises(CorruptionError, match=f"{name} is damaged at byte 128"):
            Log(scribe.files, PLACE)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
