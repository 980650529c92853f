"""Makes files that say anything fit together again: positions, chains, hashes of frames, digests.

What remains wrong is what was meant to be: a log of lies whose every seal is whole.
"""

import struct

import xxhash

from mmsb_jax._store.encoding.digest import digest_words
from mmsb_jax._store.format.chain import frames_hash
from mmsb_jax._store.format.data import chunk_data
from mmsb_jax._store.format.frame import BadFrameError, Kind
from mmsb_jax._store.format.record import EXTRA_ID, PAGE_VERSIONS, CommitRecord
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.state.state import StoredState
from tests.store._logs import PLACE
from tests.torture._bundle import STREAM, Frame, place
from tests.torture._forged_record import ForgedRecord
from tests.torture._seeds import SINCE, files_of, receiver

Files = dict[str, list[Frame]]

_FIXED_BYTES = 136
_VERSION = slice(64, 72)
_CHAIN, _DIGEST, _FRAMES = slice(16, 32), slice(32, 48), slice(48, 64)


def seal(files: Files, with_digests: bool) -> None:
    """Make the frames of a log, or of a stream, fit together.

    Args:
        files: the frames of each file, changed in place.
        with_digests: whether the digests of arrays and states are made right as well.
    """
    if files.get(STREAM):
        _seal_stream(files[STREAM], with_digests)
        return
    chains = _seal_segments(files, StoredState(b"") if with_digests else None)
    for name, frames in files.items():
        if name.startswith("snapshots/") or name.endswith(".arc"):
            place(frames, 0)
        if name.startswith("snapshots/") and frames and len(frames[-1].meta) >= _FIXED_BYTES:
            _seal_snapshot(frames, chains, with_digests)


def _seal_stream(frames: list[Frame], with_digests: bool) -> None:
    head, *rest = frames
    since, chain = int.from_bytes(head.meta[24:32], "little"), head.meta[32:48]
    kinds = [frame.kind for frame in rest]
    if Kind.SNAPSHOT not in kinds:
        _seal_commits(rest, chain, _state_at(since) if with_digests else None, {})
        return
    middle = kinds.index(Kind.SNAPSHOT) + 1
    snapshot, rest, kinds = rest[:middle], rest[middle:], kinds[middle:]
    size = sum(frame.nbytes for frame in snapshot).to_bytes(8, "little")
    head.meta = _put(head.meta, slice(56, 64), size)
    place(snapshot, 0)
    # The first commit is that of the snapshot's version, and what is before it is not known.
    end = kinds.index(Kind.COMMIT) + 1 if Kind.COMMIT in kinds else 0
    chains = dict[int, bytes]()
    chain = _seal_commits(rest[:end], chain, None, chains)
    if len(snapshot[-1].meta) >= _FIXED_BYTES:
        state = _seal_snapshot(snapshot, chains, with_digests)
        _seal_commits(rest[end:], chain, state, chains)


def _state_at(version: int) -> StoredState | None:
    """The state that a stream of the seeds continues; None where there is none."""
    if version == 0:
        return StoredState(b"")
    return Log(files_of(receiver()), PLACE).state(SINCE) if version == SINCE else None


def _seal_segments(files: Files, state: StoredState | None) -> dict[int, bytes]:
    """Chain the segments; returns the chain after each version."""
    chain, end, chains = bytes(16), 0, dict[int, bytes]()
    for name in sorted(name for name in files if name.endswith((".seg", ".cut"))):
        frames = files[name]
        if not frames or len(frames[0].meta) != 56:
            continue
        first, *rest = frames
        previous = int.from_bytes(first.meta[24:32], "little")
        if previous and end:
            first.position, first.meta = end, first.meta[:40] + chain
        place(frames, first.position)
        chain = _seal_commits(rest, first.meta[40:56], state, chains)
        end = first.position + sum(frame.nbytes for frame in frames)
        index = files.get(f"{name[:-4]}.idx")
        if index and len(index[0].meta) >= 48:
            size = struct.pack("<Q", end - first.position)
            index[0].meta = chain + index[0].meta[16:40] + size + index[0].meta[48:]
    return chains


def _seal_commits(
    frames: list[Frame], chain: bytes, state: StoredState | None, chains: dict[int, bytes]
) -> bytes:
    """Chain the commits; returns the chain after them."""
    pending: list[Frame] = []
    for frame in frames:
        if frame.kind == Kind.DATA:
            pending.append(frame)
        elif frame.kind == Kind.COMMIT and len(frame.meta) >= _FIXED_BYTES:
            frame.meta = _put(frame.meta, _CHAIN, chain)
            _seal_frames(frame, pending)
            if state is not None:
                state = _seal_digests(frame, pending, state)
            hashed = struct.pack("<Q", frame.data_hash)
            chain = xxhash.xxh3_128_digest(chain + frame.meta + hashed)
            chains[int.from_bytes(frame.meta[_VERSION], "little")] = chain
            pending = []
    return chain


def _put(meta: bytes, where: slice, what: bytes) -> bytes:
    return meta[: where.start] + what + meta[where.stop :]


def _seal_frames(frame: Frame, pending: list[Frame]) -> None:
    sizes = [(len(data.data), data.data_hash) for data in pending]
    frame.meta = _put(frame.meta, _FRAMES, frames_hash(sizes))
    if int.from_bytes(frame.meta[108:112], "little") == len(sizes):
        listed = b"".join(struct.pack("<Q", size) for size, _ in sizes)
        frame.meta = _put(frame.meta, slice(_FIXED_BYTES, _FIXED_BYTES + len(listed)), listed)


def _seal_digests(frame: Frame, pending: list[Frame], state: StoredState) -> StoredState | None:
    """Enter the digests of what the commit leads to; None once nothing can be led to any more."""
    try:
        record = ForgedRecord.decode(frame.meta)
        parts = [memoryview(data.data) for data in pending] or [memoryview(frame.data)]
        state.apply(record, state.table.chain, lambda: chunk_data(record, parts))
        _enter(frame, record, state)
    except (BadFrameError, ArithmeticError, LookupError, ValueError, MemoryError):
        return None
    return state


def _seal_snapshot(
    frames: list[Frame], chains: dict[int, bytes], with_digests: bool
) -> StoredState | None:
    """Make a snapshot fit its commit; returns its state where that can be had."""
    *pending, frame = frames
    version = int.from_bytes(frame.meta[_VERSION], "little")
    frame.meta = _put(frame.meta, _CHAIN, chains.get(version, frame.meta[_CHAIN]))
    _seal_frames(frame, pending)
    if not with_digests:
        return None
    try:
        record = ForgedRecord.decode(frame.meta)
        state, parts = StoredState(b""), [memoryview(data.data) for data in pending]
        state.load(record, chunk_data(record, parts))
        _enter(frame, record, state)
    except (BadFrameError, ArithmeticError, LookupError, ValueError, MemoryError):
        return None
    return state


def _enter(frame: Frame, record: CommitRecord, state: StoredState) -> None:
    """Put the lanes of the arrays, and the digest of the state, into the meta."""
    rows = record.records.copy()
    for row in rows:
        array_id = int(row["id"])
        if array_id != EXTRA_ID and not row["flags"] & PAGE_VERSIONS:
            lanes = digest_words(state.words[array_id])
            row["lane0"], row["lane1"] = lanes
            state.table.lanes[array_id] = lanes
    start = _FIXED_BYTES + 8 * len(record.frame_sizes)
    frame.meta = _put(frame.meta, slice(start, start + rows.nbytes), rows.tobytes())
    digest = state.table.digest().to_bytes(16, "little")
    frame.meta = _put(frame.meta, _DIGEST, digest)
