"""Logs made to do harm: every hash fits, and what the frames say is anything.

Such a log may give data that nobody wrote: hashes are no signatures. But it ends in an error of
the library or in a state, within the memory of the machine, and nothing in it names a file.
"""

import dataclasses
import struct
import tracemalloc

import numpy as np
import pytest
import xxhash

from mmsb_jax._base import memory_limit
from mmsb_jax._base.errors import CorruptionError, DeviceMemoryError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format.chunk import Chunk, Coding
from mmsb_jax._store.format.frame import build_frame
from mmsb_jax._store.format.record import FULL, ArrayInfo, Op, OpCode, records_of
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.query.commit import read_commit
from mmsb_jax._store.state.snapshot import write_snapshot
from tests.store._forged import MACHINE_BYTES, append_forged
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, check_log


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(memory_limit, "_machine_bytes", lambda: MACHINE_BYTES)


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


def test_patches_behind_a_kept_state_that_was_forged_give_all_elements():
    """The name of an array is another one in the snapshot that the oldest commit builds on."""
    scribe = Scribe()
    scribe.create("w", (90,)).commit()
    scribe.write("w", np.arange(90, dtype=np.float32)).commit()
    scribe.snapshot()
    compact(scribe.writer, 2)
    log = Log(scribe.close().files, PLACE)
    state = log.state(1, page_bytes=PAGE_BYTES)
    info = state.table.arrays[1]
    state.table.arrays[1] = dataclasses.replace(info, name="other")
    state.table.state_digest = state.table.digest()
    write_snapshot(scribe.files, state, 0, 0)
    (patch,) = read_commit(Log(scribe.files, PLACE), 2, lambda: 0).patches()
    assert patch.indices.tolist() == list(range(90))


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
