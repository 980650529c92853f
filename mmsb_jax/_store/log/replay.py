"""Replay: the state at a version, from the nearest snapshot and the commits behind it."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor

from mmsb_jax._base.errors import CorruptionError, LocationError
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import FULL, PAGE_VERSIONS, CommitRecord
from mmsb_jax._store.log.contents import LogContents
from mmsb_jax._store.log.segment import StoredCommit
from mmsb_jax._store.state.snapshot import read_snapshot
from mmsb_jax._store.state.state import Later, StoredState


def replay(
    log: LogContents,
    version: int,
    wanted: Callable[[str], bool] | None,
    page_bytes: int | None,
    with_data: bool = True,
    executor: Executor | None = None,
) -> tuple[StoredState, StoredCommit | None]:
    """The state at ``version``, and its commit where that is there with its data.

    The arguments are those of `Log.state`.
    The newest snapshot is taken that is whole and of this history: the commit behind it says so.
    A snapshot saves time; one that is passed over costs it, and `verify` reports it. Only what a
    compaction has folded into one is nowhere else.

    Raises:
        LocationError: a file could not be read, and no other way leads to the state.
    """
    log.check_kept(version)
    oldest = min(version, log.kept_since - 1)
    newest = log.find(version) if version > oldest else None
    unread: LocationError | None = None
    for candidate in reversed(log.snapshots()):
        if not oldest <= candidate <= version:
            continue
        try:
            state, _ = read_snapshot(
                log.files, candidate, log.manifest.ids, wanted, page_bytes, with_data, executor
            )
        except LocationError as error:
            unread = unread or error
        except (BadFrameError, FileNotFoundError):
            pass
        else:
            commits = _commits(log, candidate, newest)
            if state.table.chain == _chain_at(log, candidate, commits, newest) and (
                _leads_to(state, newest)
            ):
                _apply(log, state, commits, executor)
                return state, newest
    if newest is None or log.kept_since != 1:
        if unread is not None:
            raise unread
        raise CorruptionError(
            f"{log.place}: version {version} needs a snapshot, and none at or before it is whole. "
            f"Restore the folder snapshots from a copy, or make a new log of what is whole with "
            f"`mmsb repair`."
        )
    state = StoredState(log.manifest.ids.of(1), wanted, page_bytes)
    _apply(log, state, _commits(log, 0, newest), executor)
    return state, newest


def _leads_to(state: StoredState, newest: StoredCommit | None) -> bool:
    """Whether a snapshot of the very version that is wanted says what its commit does."""
    if newest is None or newest.record.version != state.table.version:
        return True
    return newest.record.state_digest == state.table.state_digest


def _chain_at(
    log: LogContents, version: int, commits: list[StoredCommit], newest: StoredCommit | None
) -> bytes:
    """The chain after ``version``, behind which are ``commits``."""
    if commits:
        return commits[0].record.previous_chain
    if newest is not None:
        return newest.chain
    oldest = log.pieces[0].segment
    return oldest.chain if version == oldest.first_version - 1 else log.chain_after(version)


def advance(log: LogContents, state: StoredState, version: int) -> None:
    """Bring ``state`` forward to ``version``; its bytes are spent where this raises."""
    if version > state.table.version:
        _apply(log, state, _commits(log, state.table.version, log.find(version)), None)


def _commits(log: LogContents, after: int, newest: StoredCommit | None) -> list[StoredCommit]:
    """The commits behind ``after``, up to and with ``newest``."""
    if newest is None or after == newest.record.version:
        return []
    return [*map(log.find, range(after + 1, newest.record.version)), newest]


def _apply(
    log: LogContents, state: StoredState, commits: list[StoredCommit], executor: Executor | None
) -> None:
    """Apply commits; what they hold is decoded in the end, the commits of an array together."""
    skips = _replaced_later([found.record for found in commits])
    later, newest = Later(executor), None
    for found, skip in zip(commits, skips, strict=True):
        if newest is not None and found.record.ops:
            _decode(log, state, later, newest)
        newest = found
        with _named(log, found):
            if found.record.previous_chain != state.table.chain:
                raise BadFrameError(
                    f"version {found.record.version} does not continue what is before it"
                )
            state.apply(
                found.record,
                found.chain,
                lambda found=found: log.chunks_of(found),
                () if state.keeps_page_versions else skip,
                later,
            )
    if newest is not None:
        _decode(log, state, later, newest)


def _decode(log: LogContents, state: StoredState, later: Later, newest: StoredCommit) -> None:
    """Their frames are whole: what does not decode was written so, at or before ``newest``."""
    with _named(log, newest):
        state.decode_later(later)


@contextlib.contextmanager
def _named(log: LogContents, found: StoredCommit) -> Iterator[None]:
    """Turn a bad frame into the error that names its place."""
    try:
        yield
    except BadFrameError as error:
        raise log.damaged(found.piece.segment, found.offset, str(error)) from error


def _replaced_later(records: list[CommitRecord]) -> list[set[int]]:
    """For each commit, the arrays whose bytes a later full record gives anyway."""
    skips: list[set[int]] = []
    replaced: set[int] = set()
    for record in reversed(records):
        skips.append(set(replaced))
        rows = record.records
        full = (rows["flags"] & (FULL | PAGE_VERSIONS)) == FULL
        replaced |= set(rows["id"][full].tolist())
    return skips[::-1]
