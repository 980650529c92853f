"""Verification: read everything, replay everything, compare every hash, chain and digest."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from mmsb_jax._errors import CorruptionError, FormatError, VersionError
from mmsb_jax.store._format import BadFrameError, Kind, read_header, read_meta
from mmsb_jax.store._log import Log
from mmsb_jax.store._segment import FOLDER, Piece, reader_of
from mmsb_jax.store._snapshot import list_snapshots, read_snapshot, snapshot_name
from mmsb_jax.store._state import StoredState


@dataclass(slots=True)
class VerifyReport:
    """What a verification found. True when all is well.

    Attributes:
        versions: commits that were replayed.
        snapshots: snapshots that were compared with the replay.
        checked_bytes: bytes of the log's files that were read.
        faults: what is wrong, each with its place; empty when all is well.
        notes: what is not damage, but worth knowing (an uncertain tail that was left out).
    """

    versions: int = 0
    snapshots: int = 0
    checked_bytes: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        verdict = "whole" if self else f"DAMAGED, {len(self.faults)} faults"
        lines = [
            f"{verdict}: {self.versions} versions replayed, {self.snapshots} snapshots compared, "
            f"{self.checked_bytes:,} bytes read"
        ]
        lines += [f"fault: {fault}" for fault in self.faults]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def verify(
    log: Log,
    progress: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
    deep: bool = False,
) -> VerifyReport:
    """Check every frame's hashes, the chain, every commit's digest, every snapshot and index.

    The bytes of all arrays are digested from scratch at each snapshot and at the newest version;
    between, the digests follow from what each commit recorded, or, with ``deep``, from the bytes.

    Of what a compaction has dropped, what the commits say of themselves and the chain through it
    are checked, and the states that were kept.

    Args:
        log: the log.
        progress: called with (versions done, versions in all).
        executor: where to digest side by side.
        deep: also digest, at every version, the arrays that it touched from scratch. That finds a
            commit whose bytes never were what it says, where a later one has covered them.

    Cost: one read of the whole log, one replay from its beginning; with ``deep``, a digest of each
    array that a commit touched, a commit.
    """
    while True:
        report = log.steadily(lambda: _verify(log, progress, executor, deep))
        if report or not log.reload():  # what a compaction takes away meanwhile is no damage
            return report


def _verify(
    log: Log, progress: Callable[[int, int], None] | None, executor: Executor | None, deep: bool
) -> VerifyReport:
    report = VerifyReport(notes=list(log.recovered))
    _check_archives(log, report)
    _check_kept(log, report, executor)
    faults = len(report.faults)
    _check_frames(log, report)
    if len(report.faults) == faults:
        _replay(log, report, progress, executor, deep)
    return report


def _check_archives(log: Log, report: VerifyReport) -> None:
    """The chain from the first commit to the oldest segment, through what is left of each."""
    chain = bytes(16) if log.first_version == 1 else None
    archives = log.view.archives
    for archive in archives:
        try:
            archive.check(chain, log.manifest.ids)
            report.checked_bytes += log.files.size(archive.entry.name)
        except CorruptionError as error:
            report.faults.append(str(error))
        chain = archive.entry.chain
    if archives and chain != log.pieces[0].segment.chain:
        report.faults.append(
            f"{log.pieces[0].segment.name}: it does not continue {archives[-1].entry.name}"
        )


def _check_kept(log: Log, report: VerifyReport, executor: Executor | None) -> None:
    """The states that are nowhere but in their snapshots."""
    for version in log.kept:
        name = snapshot_name(version)
        try:
            state, _ = read_snapshot(log.files, version, log.manifest.ids)
            state.check_digest(executor)
            said = (log.chain_after(version), log.record(version).state_digest)
            if (state.table.chain, state.table.state_digest) != said:
                raise BadFrameError(f"it does not hold the state that version {version} left")
            report.checked_bytes += log.files.size(name)
        except (BadFrameError, FormatError, OSError) as error:
            report.faults.append(f"{name}: {error}")
        except CorruptionError:  # of the archive, which was reported
            continue
        report.snapshots += 1


def _check_frames(log: Log, report: VerifyReport) -> None:
    """Every frame of every segment against its hashes, each commit against the chain."""
    names = log.files.names(FOLDER)
    for piece in log.pieces:
        scan, index = log.scan_piece(piece)
        report.checked_bytes += scan.offset
        if scan.fault is not None:
            report.faults.append(f"{piece.segment.name}, byte {scan.offset}: {scan.fault}")
        elif piece.end_offset is not None and piece.segment.index_name in names:
            _check_index(log, piece, index.encode(scan.chain, piece.end_offset), report)


def _check_index(log: Log, piece: Piece, expected: bytes, report: VerifyReport) -> None:
    """The index beside a segment, which is passed over where it is damaged, by what it must say."""
    name = piece.segment.index_name
    try:
        read = reader_of(log.files, name)
        header = read_header(read, 0, 0)
        if header.kind != Kind.INDEX:
            return  # of a later version
        if read_meta(read, 0, header) != expected or header.frame_bytes != log.files.size(name):
            raise BadFrameError("it does not say what its segment holds")
        report.checked_bytes += header.frame_bytes
    except (FileNotFoundError, FormatError):
        return
    except (BadFrameError, OSError) as error:
        report.faults.append(f"{name}: {error}")


def _replay(
    log: Log,
    report: VerifyReport,
    progress: Callable[[int, int], None] | None,
    executor: Executor | None,
    deep: bool,
) -> None:
    snapshots = {version for version in log.snapshots() if version >= log.kept_since - 1}
    if log.kept_since == 1:
        state = StoredState(log.manifest.ids.of(1))
    else:
        try:
            start = min(snapshots, default=log.kept_since - 1)
            state = log.state(start, executor=executor)
        except (CorruptionError, VersionError) as error:
            report.faults.append(f"version {log.kept_since} cannot be built on: {error}")
            return
    for version in range(state.table.version + 1, log.version + 1):
        try:
            log.advance(state, version)
            if state.table.digest() != state.table.state_digest:
                raise BadFrameError("the digest recorded does not follow from its arrays")
            if version in snapshots or version == log.version:
                state.check_digest(executor)
            elif deep:
                state.check_digest(executor, set(log.record(version).touched()))
        except (CorruptionError, BadFrameError) as error:
            report.faults.append(f"version {version}: {error}")
            return
        report.versions += 1
        if version in snapshots:
            _compare_snapshot(log, state, report, executor)
        if progress is not None:
            progress(version, log.version)
    unknown = [version for version in list_snapshots(log.files) if version > log.version]
    if unknown:
        log.refresh()  # a writer may have gone on meanwhile
    report.faults += [
        f"{snapshot_name(version)}: the log ends at version {log.version}, before it"
        for version in unknown
        if version > log.version
    ]


def _compare_snapshot(
    log: Log, state: StoredState, report: VerifyReport, executor: Executor | None
) -> None:
    version = state.table.version
    name = snapshot_name(version)
    try:
        snapshot, _ = read_snapshot(log.files, version, log.manifest.ids)
        snapshot.check_digest(executor)
        if snapshot.table != state.table:
            raise BadFrameError("it does not hold the state that the log leads to")
    except (BadFrameError, FormatError) as error:
        report.faults.append(f"{name}: {error}")
    report.checked_bytes += log.files.size(name)
    report.snapshots += 1
