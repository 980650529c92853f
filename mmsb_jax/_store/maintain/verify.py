"""Verification: read everything, replay everything, compare every hash, chain and digest."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from mmsb_jax._base.errors import CorruptionError, FormatError
from mmsb_jax._store.format.frame import BadFrameError, Kind, read_header, read_meta, reader_of
from mmsb_jax._store.format.index import SegmentIndex
from mmsb_jax._store.format.names import LOG_FOLDER, list_snapshots, snapshot_name
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import LogSegment
from mmsb_jax._store.maintain.salvage.guarded import check_damage, guarded
from mmsb_jax._store.maintain.salvage.survey import commits_of_segment
from mmsb_jax._store.maintain.salvage.trial import Spans, Trial, span_text
from mmsb_jax._store.state.snapshot import read_snapshot
from mmsb_jax._store.state.state import StoredState


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

    A fault ends nothing: what does not build on it is checked, and every array is named with the
    versions at which it is wrong.

    Cost: one read of the whole log, one replay from its beginning; with ``deep``, a digest of each
    array that a commit touched, a commit. Where a digest is wrong, a second replay, a deep one, to
    find since when.
    """
    while True:
        view = log.view
        report = log.retry_if_compacted(lambda: _verify(log, progress, executor, deep))
        # What a compaction takes away meanwhile, here or in another process, is no damage.
        if report or (log.view is view and not log.reload()):
            return report


def _verify(
    log: Log, progress: Callable[[int, int], None] | None, executor: Executor | None, deep: bool
) -> VerifyReport:
    report = VerifyReport(notes=list(log.recovered))
    _check_archives(log, report)
    _check_kept(log, report, executor)
    faults = len(report.faults)
    _check_frames(log, report)
    is_whole = len(report.faults) == faults
    replay = _Replay(log, progress, executor, deep)
    replay.run()
    if replay.digests and not deep:
        replay = _Replay(log, progress, executor, deep=True)
        replay.run()
    replay.report(report, is_whole)
    _check_newer(log, report)
    return report


def _check_archives(log: Log, report: VerifyReport) -> None:
    """The chain from the first commit to the oldest segment, through what is left of each."""
    chain = bytes(16) if log.first_version == 1 else None
    archives = log.view.archives
    for archive in archives:
        try:
            archive.check(chain, log.manifest.ids)
            report.checked_bytes += log.files.size(archive.entry.name)
        except (CorruptionError, OSError) as error:
            check_damage(error, log.place)
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
            trial = Trial(read_snapshot(log.files, version, log.manifest.ids)[0], executor)
            report.faults += [f"{name}: {fault}" for fault in sorted(trial.faults())]
            table = trial.state.table
            said = (log.chain_after(version), log.record(version).state_digest)
            if (table.chain, table.state_digest) != said:
                raise BadFrameError(f"it does not hold the state that version {version} left")
            report.checked_bytes += log.files.size(name)
        except (BadFrameError, FormatError, OSError) as error:
            check_damage(error, log.place)
            report.faults.append(f"{name}: {error}")
        except CorruptionError as error:  # of the archive, which was reported
            check_damage(error, log.place)
            continue
        report.snapshots += 1


def _check_frames(log: Log, report: VerifyReport) -> None:
    """Every frame of every segment against its hashes, each commit against the chain."""
    names = log.files.names(LOG_FOLDER)
    for piece in log.pieces:
        try:
            scan, index = log.scan_piece(piece)
        except OSError as error:
            check_damage(error, log.place)
            report.faults.append(f"{piece.segment.name}: {error.strerror}")
            report.faults += _further(log, piece, piece.segment.first_version - 1)
            continue
        report.checked_bytes += scan.offset
        if scan.fault is not None:
            report.faults.append(f"{piece.segment.name}, byte {scan.offset}: {scan.fault}")
            report.faults += _further(log, piece, scan.version + 1)
        elif piece.end_offset is not None and piece.segment.index_name in names:
            _check_index(log, piece, index, scan.chain, report)


def _further(log: Log, piece: LogSegment, after: int) -> list[str]:
    """What else is not whole in a segment with a fault: commits behind version ``after``."""
    if piece not in log.pieces:
        return []  # a compaction took it away: all is looked at again
    place = log.pieces.index(piece) + 1
    is_last = place == len(log.pieces)
    last = log.version if is_last else log.pieces[place].segment.first_version - 1
    stop = log.position if is_last else piece.end
    found = commits_of_segment(guarded(log.files, log.place), piece.segment.name, stop, {})
    whole, spans = {met.version for met in found if met.is_whole}, Spans[None]()
    for version in range(after + 1, last + 1):
        spans.see(version, () if version in whole else {None})
    return [
        f"{piece.segment.name}: {span_text(first, end)} cannot be read either"
        for _, first, end in spans.end(last)
    ]


def _check_index(
    log: Log, piece: LogSegment, index: SegmentIndex, chain: bytes, report: VerifyReport
) -> None:
    """The index beside a segment, which is passed over where it is damaged, by what it must say."""
    name, first, end = piece.segment.index_name, piece.segment.first_version, piece.end_offset
    assert end is not None
    try:
        read = reader_of(log.files, name)
        header = read_header(read, 0, 0)
        if header.kind != Kind.INDEX:
            return  # of a later version
        meta = read_meta(read, 0, header)
        index.forget_extras(SegmentIndex.decode(meta, chain, first, end))  # of an older writer
        if meta != index.encode(chain, end) or header.frame_bytes != log.files.size(name):
            raise BadFrameError("it does not say what its segment holds")
        report.checked_bytes += header.frame_bytes
    except (FileNotFoundError, FormatError):
        return
    except (BadFrameError, OSError) as error:
        check_damage(error, log.place)
        report.faults.append(f"{name}: {error}")


class _Replay:
    """One replay of a log, which goes on behind what is wrong.

    Attributes:
        digests: whether a digest is wrong.
    """

    def __init__(
        self,
        log: Log,
        progress: Callable[[int, int], None] | None,
        executor: Executor | None,
        deep: bool,
    ) -> None:
        self.digests = False
        self._log = log
        self._progress = progress
        self._executor = executor
        self._deep = deep
        self._last = log.version
        self._snapshots = {v for v in log.snapshots() if v >= log.kept_since - 1}
        self._read = VerifyReport()
        self._wrong, self._missing = Spans[str](), Spans[str]()

    def run(self) -> None:
        """Go through all versions."""
        log, trial = self._log, None
        if log.kept_since == 1:
            trial = Trial(StoredState(log.manifest.ids.of(1)), self._executor)
        fault = "it needs a snapshot, and none is whole"
        for version in range(max(1, log.kept_since - 1), self._last + 1):
            if trial is not None:
                try:
                    self._advance(trial, version)
                    if version in self._snapshots:
                        self._compare(trial)
                except (CorruptionError, BadFrameError, OSError) as error:
                    check_damage(error, log.place)
                    trial, fault = None, str(error)
            if trial is None and version in self._snapshots:
                trial = self._begin(version)
            faults = set() if trial is None else trial.faults()
            self.digests = self.digests or bool(faults)
            self._wrong.see(version, faults)
            is_missing = trial is None and version >= log.kept_since
            self._missing.see(version, {fault} if is_missing else ())
            if self._progress is not None and version >= log.kept_since:
                self._progress(version, self._last)

    def report(self, report: VerifyReport, is_whole: bool) -> None:
        """Enter what was found; ``is_whole`` says that no frame is known to be bad."""
        last = self._last
        report.versions += self._read.versions
        report.snapshots += self._read.snapshots
        report.checked_bytes += self._read.checked_bytes
        report.faults += [f"{span_text(a, b)}: {fault}" for fault, a, b in self._wrong.end(last)]
        report.faults += self._read.faults
        for fault, first, end in self._missing.end(last):
            what = f"{span_text(first, end)} cannot be replayed"
            if is_whole:
                report.faults.append(f"{what}: {fault}")
            else:
                report.notes.append(f"{what}: what they build on is damaged")

    def _advance(self, trial: Trial, version: int) -> None:
        """Bring the trial to ``version``, and digest what is to be digested."""
        log, found = self._log, self._log.find(version)
        if found.record.previous_chain != trial.state.table.chain:
            raise BadFrameError(f"version {version} does not continue what is before it")
        trial.apply(
            found.record,
            found.chain,
            lambda: log.chunks_of(found),
            None if self._deep else (),
        )
        if version in self._snapshots or version == self._last:
            trial.check_all()
        self._read.versions += 1

    def _begin(self, version: int) -> Trial | None:
        """The state in a snapshot; None where it is not that of the log."""
        log = self._log
        try:
            state, _ = read_snapshot(log.files, version, log.manifest.ids)
            if state.table.chain != log.chain_after(version):
                raise BadFrameError("it does not hold the state that the log leads to")
        except CorruptionError as error:  # of the commit
            check_damage(error, log.place)
            return None
        except (BadFrameError, FormatError, OSError) as error:
            check_damage(error, log.place)
            if version not in log.kept:  # else it was reported
                self._read.faults.append(f"{snapshot_name(version)}: {error}")
            return None
        return Trial(state, self._executor)

    def _compare(self, trial: Trial) -> None:
        """Compare a snapshot with the replay."""
        log, version = self._log, trial.state.table.version
        name = snapshot_name(version)
        try:
            snapshot, _ = read_snapshot(log.files, version, log.manifest.ids)
            faults = sorted(Trial(snapshot, self._executor).faults() - trial.faults())
            if not faults and snapshot.table != trial.state.table:
                faults = ["it does not hold the state that the log leads to"]
            self._read.checked_bytes += log.files.size(name)
        except (BadFrameError, FormatError, OSError) as error:
            check_damage(error, log.place)
            faults = [str(error)]
        self._read.faults += [f"{name}: {fault}" for fault in faults]
        self._read.snapshots += 1


def _check_newer(log: Log, report: VerifyReport) -> None:
    """Snapshots of versions that the log does not have."""
    unknown = [version for version in list_snapshots(log.files) if version > log.version]
    if unknown:
        log.refresh()  # a writer may have gone on meanwhile
    fault = f"the log ends at version {log.version}, before it"
    if log.recovered:
        fault += "; `mmsb repair` makes a new log of it and of what is whole behind it"
    report.faults += [
        f"{snapshot_name(version)}: {fault}" for version in unknown if version > log.version
    ]
