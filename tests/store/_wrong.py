"""Logs whose commits name digests that are not those of their bytes; every frame is whole."""

from collections.abc import Callable, Collection

from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.frame import Kind
from mmsb_jax._store.format.record import CommitRecord
from mmsb_jax._store.state.state import Table
from tests.store._logs import copy_files, names_of
from tests.torture._bundle import Frame, frames_of
from tests.torture._seal import seal

Place = tuple[int, int]
"""A version, and the id of an array."""


def with_wrong_digests(
    files: Files,
    arrays: Collection[Place] = (),
    states: Collection[int] = (),
    *,
    in_snapshots: Collection[Place] = (),
    follows: bool = True,
) -> MemoryFiles:
    """A copy in which some digests are those of other bytes.

    Args:
        files: a log.
        arrays: records whose lanes are wrong.
        states: versions whose digest of the state is wrong.
        in_snapshots: the same of the records of snapshots.
        follows: whether the digests of states follow from the lanes that are recorded, as a faulty
            writer computes them; else they are those of the bytes.
    """
    forged = copy_files(files)
    parts = {name: frames_of(forged.read(name))[0] for name in names_of(forged)}
    digests = {}
    table = Table(b"")
    for name, frames in parts.items():
        for frame in frames if name.startswith("log/") else ():
            if frame.kind == Kind.COMMIT:
                record = _change(frame, arrays)
                if follows and record.version == table.version + 1:
                    table.apply_ops(record.ops)
                    table.apply_values(record)
                    table.apply_head(record, b"")
                    _set_digest(frame, table.digest())
                if record.version in states:
                    digest = CommitRecord.decode(frame.meta).state_digest
                    _set_digest(frame, (digest + 1) % 2**128)
                digests[record.version] = CommitRecord.decode(frame.meta).state_digest
    for name, frames in parts.items():
        if name.startswith("snapshots/"):
            record = _change(frames[-1], in_snapshots)
            if record.version in digests:
                _set_digest(frames[-1], digests[record.version])
    seal(parts, with_digests=False)
    for name, frames in parts.items():
        forged.publish(name, [frame.encode() for frame in frames])
    return forged


def with_commit(
    files: Files, version: int, change: Callable[[CommitRecord, Frame], object]
) -> MemoryFiles:
    """A copy in which a commit with its data in its own frame says something else."""
    forged = copy_files(files)
    parts = {name: frames_of(forged.read(name))[0] for name in names_of(forged)}
    for name, frames in parts.items():
        for frame in frames if name.startswith("log/") else ():
            if frame.kind == Kind.COMMIT:
                record = CommitRecord.decode(frame.meta)
                if record.version == version:
                    change(record, frame)
                    frame.meta = record.encode()
    seal(parts, with_digests=False)
    for name, frames in parts.items():
        forged.publish(name, [frame.encode() for frame in frames])
    return forged


def _change(frame: Frame, wrong: Collection[Place]) -> CommitRecord:
    record = CommitRecord.decode(frame.meta)
    rows = record.records.copy()
    for row in rows:
        if (record.version, int(row["id"])) in wrong:
            row["lane0"] += 1
    record.records = rows
    frame.meta = record.encode()
    return record


def _set_digest(frame: Frame, digest: int) -> None:
    frame.meta = frame.meta[:32] + digest.to_bytes(16, "little") + frame.meta[48:]
