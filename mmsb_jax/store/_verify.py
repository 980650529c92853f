"""Verification: read everything, replay everything, compare every hash, chain and digest."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from mmsb_jax._errors import CorruptionError, FormatError
from mmsb_jax.store._format import BadFrameError
from mmsb_jax.store._log import Log
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
) -> VerifyReport:
    """Check every frame's hashes, the chain, every commit's digest, every snapshot.

    The bytes of all arrays are digested from scratch at each snapshot and at the newest version;
    between, the digests follow from what each commit recorded.

    Args:
        log: the log.
        progress: called with (versions done, versions in all).
        executor: where to digest side by side.

    Cost: one read of the whole log, one replay from its beginning.
    """
    report = VerifyReport(notes=list(log.recovered))
    _check_frames(log, report)
    if report:
        _replay(log, report, progress, executor)
    return report


def _check_frames(log: Log, report: VerifyReport) -> None:
    """Every frame of every segment against its hashes, and each commit against the chain."""
    for piece in log.pieces:
        scan, _ = log.scan_piece(piece)
        report.checked_bytes += scan.offset
        if scan.fault is not None:
            report.faults.append(f"{piece.segment.name}, byte {scan.offset}: {scan.fault}")


def _replay(
    log: Log,
    report: VerifyReport,
    progress: Callable[[int, int], None] | None,
    executor: Executor | None,
) -> None:
    snapshots = set(log.snapshots())
    if log.first_version == 1:
        state = StoredState(log.manifest.ids.of(1))
    else:
        state = log.state(min(snapshots), executor=executor)
    for version in range(state.table.version + 1, log.version + 1):
        try:
            log.advance(state, version)
            if state.table.digest() != state.table.state_digest:
                raise BadFrameError("the digest recorded does not follow from its arrays")
            if version in snapshots or version == log.version:
                state.check_digest(executor)
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
