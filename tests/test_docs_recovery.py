"""docs/format.md on recovery, and on the room that it leaves for what comes later.

The independent reader and the library come to the same verdicts.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from mmsb_jax._base.errors import CorruptionError, FormatError, VersionError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format.chain import LogIds, frames_hash
from mmsb_jax._store.format.chunk import CHUNK, Chunk, Coding
from mmsb_jax._store.format.data import NewCommit
from mmsb_jax._store.format.frame import Kind, build_frame
from mmsb_jax._store.format.record import DIGEST_ONLY, CommitRecord, records_of
from mmsb_jax._store.log.log import Log
from tests.golden.compare import check_library, check_reader
from tests.golden.make import describe
from tests.store._forged import append_forged_tags, publish_forged
from tests.store._logs import Scribe
from tests.torture._forged_record import ForgedRecord
from tools import format_reader as reader


def verdict_of_reader(root: Path) -> str:
    """``version`` and whether a tail was left out, or what is wrong."""
    try:
        log = reader.ReadLog(root)
        list(log.states())
    except reader.DamagedError:
        return "damaged"
    except reader.NewerFormatError:
        return "newer"
    return f"{len(log.commits)}{' and a tail' * bool(log.left_out)}"


def verdict_of_library(root: Path) -> str:
    """The same, of the library."""
    try:
        log = Log(DiskFiles(root), root.name)
        state = log.state(0)
        for version in range(1, log.version + 1):
            log.advance(state, version)
            state.check_digest()
    except CorruptionError:
        return "damaged"
    except FormatError:
        return "newer"
    return f"{log.version}{' and a tail' * bool(log.recovered)}"


@pytest.fixture
def damageable(tmp_path: Path) -> Path:
    """A log of two segments, four commits in the newest, two of them synced; not closed."""
    scribe = Scribe(DiskFiles(tmp_path))
    for name in "xy":
        scribe.create(name, (64,), np.uint32).write(name, np.arange(64, dtype=np.uint32)).commit()
    scribe.snapshot(rotate=True)
    for value in range(2):
        scribe.write("x", np.full(64, value, np.uint32)).commit(extra=b"extra")
    scribe.writer.sync()
    for name in "xy":
        scribe.write(name, np.full(64, 7, np.uint32)).commit()
    return tmp_path


def _truncations(raw: bytes) -> Iterator[bytes]:
    for size in range(0, len(raw), 16):
        yield raw[:size]


def _damages(raw: bytes) -> Iterator[bytes]:
    for place in range(0, len(raw), 5):
        yield raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :]
    for place in range(0, len(raw), 64):
        if any(raw[place : place + 64]):
            yield raw[:place] + bytes(64) + raw[place + 64 :]


@pytest.mark.parametrize("pattern", ["log/00000001*.seg", "log/00000002*.seg", "manifest"])
def test_reader_of_a_damaged_file_comes_to_the_verdict_of_the_library(
    pattern: str, damageable: Path
):
    (path,) = damageable.glob(pattern)
    raw = path.read_bytes()
    assert verdict_of_reader(damageable) == "6"
    verdicts = []
    for damaged in (_truncations(raw), _damages(raw)):
        verdicts.append(set())
        for damage in damaged:
            path.write_bytes(damage)
            verdict = verdict_of_reader(damageable)
            assert verdict == verdict_of_library(damageable)
            verdicts[-1].add(verdict)
    truncated, changed = verdicts
    if pattern == "log/00000002*.seg":
        # Versions 3 and 4 were synced, as the frames of 5 and 6 say while they are there.
        assert changed == {"damaged", "4 and a tail", "5 and a tail"}
        # Cut off clean, nothing is left that knows of what was behind.
        tails = {f"{v}{tail}" for v in range(2, 6) for tail in ("", " and a tail")}
        assert truncated - {"damaged"} == tails
    else:
        assert truncated == changed == {"damaged"}


def _unsynced_rotation(root: Path) -> Path:
    """A log that was rotated before its first segment was synced; returns that one's file."""
    scribe = Scribe(DiskFiles(root))
    scribe.create("x", (64,), np.uint32).write("x", np.arange(64, dtype=np.uint32)).commit()
    scribe.writer.sync()
    for value in range(2):
        scribe.write("x", np.full(64, value, np.uint32)).commit()
    path = root / scribe.log.pieces[-1].segment.name
    scribe.writer.rotate()
    scribe.write("x", np.full(64, 7, np.uint32)).commit()
    return path


def test_reader_of_a_segment_lost_before_its_sync_leaves_out_what_continues_it(tmp_path: Path):
    path = _unsynced_rotation(tmp_path)
    raw = path.read_bytes()
    seen = set()
    for damage in (*_truncations(raw), *_damages(raw)):
        path.write_bytes(damage)
        verdict = verdict_of_reader(tmp_path)
        assert verdict == verdict_of_library(tmp_path)
        seen.add(verdict)
    assert seen == {"damaged", "1 and a tail", "2 and a tail"}


# Room for what comes later


def _insert(scribe: Scribe, root: Path, kind: int, flags: int, version: int = 1) -> None:
    """Append a frame of any kind and format where the next commit would be."""
    scan, segment = scribe.log.scan, scribe.log.pieces[-1].segment
    hashes = xxhash.xxh3_64_intdigest(bytes(64)), xxhash.xxh3_64_intdigest(b"")
    fields = (b"MMSB", version, flags, kind, segment.base + scan.offset, 0, 5, 0, 0)
    body = struct.pack("<4sBBHQQIIQQQ", *fields, *hashes)
    frame = body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body)) + bytes(64)
    with (root / segment.name).open("ab") as file:
        file.write(frame)
    scan.offset += len(frame)


@pytest.mark.parametrize("is_last", [False, True])
def test_reader_of_an_unknown_kind_to_pass_over_passes_over_it(is_last: bool, tmp_path: Path):
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("x", (9,)).write("x", np.ones(9, np.float32)).commit()
    _insert(scribe, tmp_path, 99, flags=0)
    if not is_last:
        scribe.write("x", np.zeros(9, np.float32)).commit()
        scribe.close()
    assert not check_reader(tmp_path, describe(scribe)).left_out
    check_library(tmp_path, describe(scribe))


@pytest.mark.parametrize(("kind", "flags", "version"), [(99, 1, 1), (3, 1, 2), (99, 0, 2)])
def test_reader_of_a_newer_frame_refuses_as_the_library_does(
    kind: int, flags: int, version: int, tmp_path: Path
):
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("x", (9,)).commit()
    _insert(scribe, tmp_path, kind, flags, version)
    assert verdict_of_reader(tmp_path) == "newer"
    assert verdict_of_library(tmp_path) == "newer"


def _put_in_meta(root: Path, offset: int, value: bytes) -> None:
    """Change the meta of the only commit of a log, and mend its hashes."""
    (path,) = root.glob("log/*.seg")
    raw = bytearray(path.read_bytes())
    (meta_bytes,) = struct.unpack_from("<I", raw, 128 + 24)
    raw[192 + offset : 192 + offset + len(value)] = value
    meta = bytes(raw[192 : 192 + reader.ceil64(meta_bytes)])
    struct.pack_into("<Q", raw, 128 + 40, xxhash.xxh3_64_intdigest(meta))
    struct.pack_into("<Q", raw, 128 + 56, xxhash.xxh3_64_intdigest(bytes(raw[128:184])))
    path.write_bytes(raw)


_OPERATION = 136 + 40 + 24  # behind the fixed part, a record and a chunk


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        pytest.param(104, b"\x40", id="commit flag"),
        pytest.param(136 + 36, b"\x08", id="record flag"),
        pytest.param(136 + 40 + 20, b"\x08", id="coding"),
        pytest.param(_OPERATION, b"\x04", id="operation"),
    ],
)
def test_reader_of_what_a_later_version_adds_refuses_as_the_library_does(
    offset: int, value: bytes, tmp_path: Path
):
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("x", (9,)).write("x", np.ones(9, np.float32)).commit()
    _put_in_meta(tmp_path, offset, value)
    assert verdict_of_reader(tmp_path) == "newer"
    assert verdict_of_library(tmp_path) == "newer"


def test_reader_of_a_later_operation_does_not_ask_what_its_texts_are(tmp_path: Path):
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("x", (9,)).write("x", np.ones(9, np.float32)).commit()
    _put_in_meta(tmp_path, _OPERATION, b"\x04")
    _put_in_meta(tmp_path, _OPERATION + 16 + 8 + len("jax"), b"no type")
    assert verdict_of_reader(tmp_path) == "newer"
    assert verdict_of_library(tmp_path) == "newer"


def test_reader_of_a_commit_that_holds_only_its_digest_goes_on_behind_it(tmp_path: Path):
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("x", (900,)).write("x", np.ones(900, np.float32)).commit()
    record = CommitRecord(b"", b"", 1234, 0, time_ns=5, flags=DIGEST_ONLY, next_id=2)
    scribe.writer.append(NewCommit(record, []))
    scribe.patch("x", {0: 7, 9: 8})
    scribe.head.commit(scribe._draft)
    expected = np.ones(900, np.float32)
    expected.view(np.uint8)[[0, 9]] = 7, 8
    first, digest_only, third = reader.ReadLog(tmp_path).states()
    assert first is not None
    assert digest_only is None
    assert third is not None
    assert third.by_name() == {"x": expected.tobytes()}
    log = Log(DiskFiles(tmp_path), "log")
    assert log.state(3).words[1].tobytes() == expected.tobytes()
    with pytest.raises(VersionError, match="version 2 holds a digest only"):
        log.state(2)


def test_reader_of_frames_of_two_streams_puts_their_parts_together(tmp_path: Path):
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("x", (64,), np.uint8).create("y", (64,), np.uint8).commit()
    scribe.write("x", np.arange(64, dtype=np.uint8)).write("y", np.full(64, 3, np.uint8)).commit()
    path = tmp_path / scribe.log.pieces[-1].segment.name
    last = scribe.log.record(2)
    offset = scribe.log.row(2).offset
    # The same commit, as two devices would have written it: each has a half of either array.
    parts = [bytes(range(32)) + bytes([3] * 32), bytes(range(32, 64)) + bytes([3] * 32)]
    raw, sizes = path.read_bytes()[:offset], []
    for stream, part in enumerate(parts):
        header, buffers = build_frame(Kind.DATA, len(raw), 0, data=[part])
        sizes.append((header.data_bytes, header.data_hash))
        raw += header._replace(stream=stream).encode() + b"".join(buffers)[64:]
    lanes = {int(row["id"]): (row["lane0"], row["lane1"]) for row in last.records}
    rows = [(i, 0, *lanes[i], 32, 1, 0) for _ in range(2) for i in (1, 2)]
    chunks = [(half, 32, 32, 0, 3, 1, 0) for half in (0, 0, 32, 32)]
    record = replace(
        last,
        records=records_of(rows),
        chunks=np.array(chunks, CHUNK),
        frame_sizes=[size for size, _ in sizes],
        frames_hash=frames_hash(sizes),
    )
    path.write_bytes(raw + b"".join(build_frame(Kind.COMMIT, len(raw), 0, record.encode())[1]))
    expected = {"x": bytes(range(64)), "y": bytes([3] * 64)}
    *_, state = reader.ReadLog(tmp_path).states()
    assert state is not None
    assert state.by_name() == expected
    found = Log(DiskFiles(tmp_path), "log").state(2)
    assert {name: found.bytes_of(i).tobytes() for name, i in found.table.ids.items()} == expected


# Limits


def _commit_with(**said: Any) -> Callable[[Scribe], None]:
    def append(scribe: Scribe) -> None:
        chunks = said.pop("data", ())
        record = ForgedRecord(b"", b"", 0, 0, 1, next_id=2, **said)
        scribe.writer.append(NewCommit(record, chunks))

    return append


def _manifest_with(**said: Any) -> Callable[[Scribe], None]:
    def publish(scribe: Scribe) -> None:
        publish_forged(scribe.files, replace(scribe.log.manifest, **said))

    return publish


def _sparse(raw: int, items: int, payload: bytes) -> dict[str, Any]:
    chunks = [Chunk(0, raw, items, Coding.SPARSE, 1, payload)]
    return {"data": chunks, "records": records_of([(1, 1, 0, 0, items, 1, 0)])}


def _twice() -> dict[str, Any]:
    chunks = [Chunk(0, 36, 0, Coding.FULL, 1, bytes(36))] * 2
    return {"data": chunks, "records": records_of([(1, 1, 0, 0, 36, 2, 0)])}


BEYOND = {
    "note": _commit_with(note="x" * 65_537),
    "constant": _commit_with(values={"c": "s:\ud800"}),
    "tag": lambda scribe: append_forged_tags(scribe, {"x" * 256: 1}),
    "half of a character in a tag": lambda scribe: append_forged_tags(scribe, {"\udfff": 1}),
    "elements": _commit_with(**_sparse(8, 9, bytes(18))),
    "gap": _commit_with(**_sparse(256, 1, b"\xff\1")),
    "chunks": _commit_with(**_twice()),
    "page": _manifest_with(page_bytes=2**30 + 4),
    "ancestors": _manifest_with(ids=LogIds(((b"a" * 16, 7), (b"b" * 16, 6)), b"c" * 16)),
}


@pytest.mark.parametrize("beyond", BEYOND)
def test_reader_of_what_is_beyond_a_limit_refuses_as_the_library_does(beyond: str, tmp_path: Path):
    scribe = Scribe(DiskFiles(tmp_path))
    scribe.create("x", (9,)).write("x", np.ones(9, np.float32)).commit()
    BEYOND[beyond](scribe)
    with contextlib.suppress(CorruptionError):  # of the manifest, at which the writer looks
        scribe.writer.close()
    assert verdict_of_reader(tmp_path) == "damaged"
    assert verdict_of_library(tmp_path) == "damaged"
