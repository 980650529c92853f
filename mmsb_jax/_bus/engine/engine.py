"""The engine of a bus that writes: the head, its log, the queue, the lock. It knows no trees."""

import contextlib
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmsb_jax._base.errors import (
    ClosedError,
    DeviceMemoryError,
    MMSBError,
    RecomputeError,
    StructureError,
    VersionError,
)
from mmsb_jax._base.memory_limit import room_for
from mmsb_jax._bus.derive.quiet import QuietWave
from mmsb_jax._bus.derive.registry import Derivations
from mmsb_jax._bus.derive.transaction import DerivationTransaction, GraphEdit, prepare
from mmsb_jax._bus.engine.queue import CommitQueue
from mmsb_jax._bus.engine.stats import Meter
from mmsb_jax._bus.events.events import Events, is_held
from mmsb_jax._bus.events.kinds import CommitOutcome
from mmsb_jax._bus.saving.copier import Copier
from mmsb_jax._bus.saving.keep import KeepPolicy
from mmsb_jax._bus.saving.keeper import Keeper
from mmsb_jax._bus.trees.tree import TreeShape
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.head import Head, Landed
from mmsb_jax._store.commit.plain import SmallArray
from mmsb_jax._store.commit.plan import Plan
from mmsb_jax._store.files.lock import WriterLock
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.files.threads import Threads
from mmsb_jax._store.format.data import CommitFrames
from mmsb_jax._store.format.record import DIGEST
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit, read_extra
from mmsb_jax._store.query.patches import patches_of
from mmsb_jax._store.transfer.import_ import Intake, join, take
from mmsb_jax._store.writer.durability.base import Durability
from mmsb_jax._store.writer.writer import LogWriter, disk_error

_STATES_KEPT_APART = 2
"""States in a segment, where old ones are to go, or new ones to be copied: whole segments are."""
_LEAST_SEALED = 1 << 20
"""Bytes of a segment that are copied to a fork rather than sealed for it."""


@dataclass(slots=True)
class _Landing:
    """A commit under way: who comes next after an interrupt finishes it, or drops it.

    Attributes:
        draft: what it is asked to do.
        landed: called with the commit, once; sets what its caller knows.
        audience: who listened when it began.
        before: the version that it begins at.
        begun_ns: when that was.
        thread: which thread is at it.
        step: what it does to derived arrays; None for nothing.
        result: what became of it; None as long as the log may not have it.
        is_counted: whether the counters have it.
        commit: the commit, once all is done.
    """

    draft: Draft
    landed: Callable[[Commit], object]
    audience: tuple[Any, ...]
    before: int
    begun_ns: int
    thread: int
    step: DerivationTransaction | QuietWave | None = None
    result: Landed | None = None
    is_counted: bool = False
    commit: Commit | None = None


def of_the_parent(pid: int) -> ClosedError:
    """The error for a bus that a fork has brought into a child."""
    return ClosedError(
        f"this bus belongs to process {pid}, which forked this one. Open it with mode='r' here, or "
        f"pass what is to be written to the parent."
    )


def _nothing(commit: Commit) -> None:
    """Nobody needs to know of the commit."""


class Engine:
    """What stands behind a bus that writes.

    Args:
        files: the log's directory.
        log: the log in it, opened.
        lock: the right to write it; None in memory.
        durability: when a commit counts as done.
        snapshots: whether snapshots are made by themselves, by logged bytes.
    """

    def __init__(
        self,
        files: Files,
        log: Log,
        lock: WriterLock | None,
        durability: Durability,
        snapshots: bool,
    ) -> None:
        self.files = files
        self.log = log
        self.meter = Meter()
        self._events: weakref.ref[Events] | None = None
        self.queue = CommitQueue(self.settle_landing)
        self.lock = threading.RLock()
        self._turn = threading.Condition(self.lock)  # only to see whether this thread has it
        self.threads = Threads()
        self.closed: str | None = None
        self.is_released = False
        self._landing: _Landing | None = None
        self._is_look_due = False
        self._shape_then: TreeShape | None = None
        self._deriving: int | None = None  # the thread that computes derived arrays now
        self.durability = durability
        self._writer_lock = lock
        self._makes_snapshots = snapshots
        self._pid = os.getpid()
        page_bytes = log.manifest.page_bytes
        self.page_bytes = page_bytes
        has_lock = (lambda: True) if lock is None else lock.is_in_place
        self.writer = LogWriter(log, durability, has_lock)
        state = log.head(page_bytes, self.threads)
        self.head = Head(state, self.writer, page_bytes, lambda: self.threads)
        self.derivations = Derivations(state.table)
        self.keeper: Keeper | None = None
        self.copier: Copier | None = None
        self._has_upkeep = False

    def copy_to(self, target: Files, place: str) -> None:
        """Keep a copy of the log in the directory ``target``, called ``place``, from now on."""
        self.copier = Copier(self.writer, target, place)
        self._begin_upkeep()

    def _begin_upkeep(self) -> None:
        self._has_upkeep = self._makes_snapshots = True
        self.head.segment_states = _STATES_KEPT_APART

    def keep(self, policy: KeepPolicy) -> None:
        """Give up, from now on, the bytes of versions that ``policy`` does not keep."""
        self.keeper = Keeper(policy, self.writer, self.head, self.threads)
        self._begin_upkeep()

    def tell(self, events: Events) -> None:
        """Post what commits do to ``events``. Not held: its handlers may hold the bus."""
        self._events = weakref.ref(events)

    @property
    def events(self) -> Events | None:
        """Where to post what commits do; None where nobody can listen any more."""
        return None if self._events is None else self._events()

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens to what commits do."""
        events = self.events
        return events is not None and bool(events.audience)

    @property
    def is_open(self) -> bool:
        """Whether it may be used, here and now."""
        return self.closed is None and os.getpid() == self._pid

    def check_open(self) -> None:
        """Refuse what comes after `close`, or in a forked child."""
        if self._deriving == threading.get_ident() and is_held(self._turn):
            raise RecomputeError(
                "the function of a derived array uses the bus. What it reads must be its "
                "arguments, so that a change of it is seen: name the arrays in inputs=."
            )
        if self.closed is not None:
            raise ClosedError(f"this bus is closed: {self.closed}. Open the log again.")
        if os.getpid() != self._pid:
            raise of_the_parent(self._pid)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is queued, untold or cut short."""
        is_done = self._landing is None and not self._is_look_due and not self.writer.is_at_work
        return is_done and self.queue.is_settled

    def settle(self) -> None:
        """Wait for what is queued, and finish or drop what an interrupt cut short."""
        self.queue.drain()
        if self._landing is not None or self.writer.is_at_work:
            self.settle_landing()
        if self._is_look_due:
            with self.lock:
                self._look_if_due()

    def settle_own(self) -> None:
        """Finish or drop what an interrupt cut short in this very thread; waits for nothing."""
        landing = self._landing
        if landing is not None and landing.thread == threading.get_ident():
            self.settle_landing()

    def settle_landing(self) -> None:
        """Finish or drop a landing that an interrupt cut short, by whether the log has it."""
        with self.lock:
            if self._landing is not None or self.writer.is_at_work:
                with room_for("what follows from a commit that has landed"):
                    self._settle_landing()

    def _settle_landing(self) -> None:
        with contextlib.suppress(ClosedError):  # nothing is written any more; reading goes on
            self.writer.settle()
        landing = self._landing
        if landing is None:
            return
        self.head.settle()
        landed = self.head.landed
        if landed is not None and landed.version > landing.before:
            landing.result = landed
            self._finish(landing)
        else:
            self.derivations.revert()
            self._landing = None

    def land(
        self,
        draft: Draft,
        shape: TreeShape | None = None,
        change: GraphEdit | None = None,
        landed: Callable[[Commit], object] = _nothing,
        is_whole: bool = False,
    ) -> Commit:
        """Commit ``draft`` now; the queue must be empty or this its thread.

        Args:
            draft: what to commit.
            shape: structure of the committed tree after it; None where it is not known.
            change: what to do to the graph in the same commit.
            landed: called with the commit before anything else is done; where an interrupt comes
                between, by the next call. It only sets, so that it may be called twice.
            is_whole: whether it holds the whole tree, so that it needs no bytes before it.
        """
        with self.lock:
            self.settle_landing()
            if not is_whole:
                self.check_saved()
            landing = self._begin(draft, landed)
            try:
                head, table = self.head, self.head.state.table
                draft, step = prepare(self.derivations, table, draft, change, shape)
                landing.draft, landing.step = draft, step
                plan = Plan(head.state, draft)
                changes, values = head.compare(plan), draft.values
                if step is not None:
                    derived = step.run(plan, changes)
                    changes += head.compare_derived(plan, derived.contents)
                    values = values | derived.entries
                landing.result = head.land(plan, changes, draft, values)
            except BaseException as error:
                self._end_early(landing, error)
            return self._end(landing)

    def land_as_is(self, draft: Draft, landed: Callable[[Commit], object]) -> Commit:
        """`land` of a whole state, that of derived arrays with it: no function runs."""
        with self.lock:
            landing = self._begin(draft, landed)
            try:
                landing.result = self.head.commit(draft)
            except BaseException as error:
                self._end_early(landing, error)
            return self._end(landing)

    def check_saved(self) -> None:
        """Refuse what would build on the bytes of a version that were not logged."""
        if not self.head.is_saved:
            raise VersionError(
                f"the newest version, {self.head.state.table.version}, holds digests only: its "
                f"bytes were not logged, and only a whole tree can follow. Commit the tree with "
                f"save=True first."
            )

    def land_digests(
        self,
        rows: Mapping[int, tuple[int, int, int]],
        draft: Draft,
        landed: Callable[[Commit], object],
    ) -> Commit:
        """`land` of digests: the bytes, and what is derived from them, stay as they are.

        Args:
            rows: array → both lanes, and how many of its numbers are not finite.
            draft: what the caller says of the commit, and the arrays whose bytes stand aside.
            landed: as in `land`.
        """
        with self.lock:
            landing = self._begin(draft, landed)
            try:
                table = self.head.state.table
                changed = sorted(
                    (array_id, *row)
                    for array_id, row in rows.items()
                    if table.lanes_now(array_id) != row[:2]
                )
                landing.result = self.head.land_digests(np.array(changed, DIGEST), draft)
            except BaseException as error:
                self._end_early(landing, error)
            return self._end(landing)

    def say(self, values: dict[str, str | None]) -> Commit:
        """Land entries among the constants, which need no bytes before them."""
        with self.lock:
            self.settle_landing()
            if self.head.is_saved:
                return self.land(Draft(values=values))
            return self.land_digests({}, Draft(values=values), _nothing)

    def land_small(
        self, array: SmallArray, new: np.ndarray, wave: QuietWave | None, draft: Draft
    ) -> Commit:
        """`land` of new words of one small array, while nobody listens.

        Args:
            array: the array.
            new: all of its words after (uint32[n]).
            wave: what follows from a change of it.
            draft: what the caller says of the commit.
        """
        with self.lock:
            landing = self._begin(draft, _nothing)
            landing.audience = ()  # whoever came since
            try:
                written, behind = array.becoming(new), []
                if wave is not None and written.places.size:
                    landing.step, behind = wave, wave.run(new)
                landing.result = self.head.land_small(written, behind, draft)
            except BaseException as error:
                self._end_early(landing, error)
            return self._end(landing)

    def take(self, shipped: CommitFrames, place: str, landed: Callable[[Commit], object]) -> Commit:
        """Land a commit that another log wrote, as it is: no function runs.

        Args:
            shipped: the commit; the queue must be empty.
            place: what to call where it comes from.
            landed: as in `land`.
        """
        record = shipped.record
        said = Draft(ops=record.ops, step=record.step, source=record.source, note=record.note)
        with self.lock:
            landing = self._begin(said, landed)
            try:
                landing.result = take(self.head, shipped, place)
            except BaseException as error:
                self._end_early(landing, error)
            return self._end(landing)

    def join(self, intake: Intake, landed: Callable[[Commit], object]) -> None:
        """Begin the empty log with the state that a stream begins with; nobody is told."""
        with self.lock:
            landing = self._begin(Draft(), landed, is_told=False)
            try:
                landing.result = join(self.head, intake)
            except BaseException as error:
                self._end_early(landing, error)
            self._end(landing)

    def _begin(
        self, draft: Draft, landed: Callable[[Commit], object], is_told: bool = True
    ) -> _Landing:
        """Say that a commit is under way; what was cut short before it is finished first."""
        self.settle_landing()
        self._look_if_due()
        events, me, before = self.events, threading.get_ident(), self.head.state.table.version
        audience = () if events is None or not is_told else events.audience
        landing = _Landing(draft, landed, audience, before, time.perf_counter_ns(), me)
        landing.is_counted = not is_told
        self._landing = landing
        self._deriving = me
        return landing

    def _end_early(self, landing: _Landing, error: BaseException) -> None:
        """Drop a landing that failed, and raise; but finish one that the log has all the same."""
        self._deriving = None
        self.settle_landing()
        if landing.commit is not None and isinstance(error, Exception):
            return
        if isinstance(error, MemoryError) and not isinstance(error, MMSBError):
            raise DeviceMemoryError(
                f"the machine has no memory left for this commit ({error}). Nothing has changed: "
                f"free some, and commit again."
            ) from error
        raise error

    def _end(self, landing: _Landing) -> Commit:
        """Do what follows from a commit that has landed."""
        self._deriving = None
        commit = landing.commit or self._finish(landing)
        if self._makes_snapshots and self.head.snapshot_is_due:
            self._begin_snapshot()
        return commit

    @property
    def whole_is_due(self) -> bool:
        """Whether a snapshot waits for a commit with all bytes."""
        return self._makes_snapshots and self.head.whole_is_due

    def _finish(self, landing: _Landing) -> Commit:
        """Do what is left once log and head have a commit; done again, it is the same."""
        try:
            return self._announce(landing)
        except MemoryError as error:
            raise DeviceMemoryError(
                f"the machine has no memory left for what follows from a commit that has landed "
                f"({error}). Free some: the next call goes on."
            ) from error
        except Exception as error:
            self.closed = f"what follows from a commit could not be finished ({error!r})"
            self._landing = None
            raise

    def _announce(self, landing: _Landing) -> Commit:
        landed, step, events = landing.result, landing.step, self.events
        assert landed is not None
        if step is not None:
            step.done()
        commit = self._commit_of(landing.draft, landed)
        landing.landed(commit)
        if not landing.is_counted:
            landing.is_counted = True
            self.meter.count_commit(landed, time.perf_counter_ns() - landing.begun_ns)
            if step is not None and step.wave.ran:
                self.meter.count_wave(len(step.wave.ran), step.wave_ns)
        if events is not None and landing.audience:
            assert not isinstance(step, QuietWave)
            events.post(CommitOutcome(landing.draft, step, commit), landing.audience)
        landing.commit, self._landing = commit, None
        return commit

    def look_anew(self, shape: TreeShape | None = None) -> None:
        """Take up from the table what is derived, by the next call: it came as it is.

        Args:
            shape: structure of the committed tree by then; None where it is not known.
        """
        self._shape_then, self._is_look_due = shape, True

    def _look_if_due(self) -> None:
        if not self._is_look_due:
            return
        before, self.derivations = self.derivations, Derivations(self.head.state.table)
        self.derivations.is_deferred = before.is_deferred
        self.derivations.attach_from(before, self.head.state.table, self._shape_then)
        self._shape_then, self._is_look_due = None, False

    def _commit_of(self, draft: Draft, landed: Landed) -> Commit:
        log, writer, version = self.log, self.writer, landed.version
        return Commit(
            version=version,
            step=draft.step,
            time_ns=landed.time_ns,
            source=draft.source,
            note=json.loads(draft.note) if draft.note else None,
            changed=landed.changed,
            changed_bytes=landed.changed_bytes,
            logged_bytes=landed.logged_bytes,
            saved=landed.is_saved,
            saved_arrays=landed.changed if landed.is_saved else landed.aside,
            _extra=lambda: read_extra(log, version),
            _patches=lambda: patches_of(log, version),
            _durable_version=lambda: writer.durable_version,
        )

    def _begin_snapshot(self) -> None:
        # A snapshot saves time later. That it cannot be made now is no reason to fail a commit
        # that has landed: `stats` tells, and the next commit tries again.
        try:
            sealed = self.writer.rotate()
            self.head.begin_segment()
            if self._makes_snapshots:
                self.writer.schedule_snapshot(self.page_bytes, sealed)
            if self._has_upkeep:
                self.writer.schedule_upkeep(self._keep_up)
        except MMSBError as error:
            self.writer.snapshot_fault = str(error)

    def refuse_policy(self) -> None:
        """Refuse a policy of ``keep=`` that asks the bus, which may wait for it."""
        if self.keeper is not None and self.keeper.thread == threading.get_ident():
            raise StructureError(
                "the policy of keep= uses the bus. It is given the commits, and their notes: "
                "choose by these."
            )

    def _keep_up(self) -> None:
        """Copy what is new, and give up what is old; in the background, behind a snapshot."""
        copier = self.copier
        is_copied = copier is None or copier.run()
        if self.keeper is not None and is_copied:
            self.keeper.run(None if copier is None else copier.version)

    def copy_all(self) -> bool:
        """Bring the copy forward to the newest version, now; whether there is none, or it is."""
        if (copier := self.copier) is None:
            return True
        self.writer.finish_background()
        return copier.run(whole=True)

    def seal(self, version: int) -> int:
        """Prepare a fork behind ``version``: go on in a new segment, where there is much to share.

        A snapshot is made with it, as wherever a segment is begun.

        Returns:
            Up to which position the segments may be shared.
        """
        with self.lock:
            self.settle_landing()
            is_large = self.log.scan.offset > max(_LEAST_SEALED, self.head.state_bytes // 2)
            if is_large and version == self.log.version:
                self.writer.sync()
                self._begin_snapshot()
            return self.writer.mark_sealed()

    def snapshot(self) -> None:
        """Make a snapshot of the newest version that has bytes, and wait for it."""
        with self.lock:
            version = self.log.last_saved(self.log.version)
        while True:
            future = self.writer.schedule_snapshot(self.page_bytes)
            try:
                future.result()
            except OSError as error:
                raise disk_error(error, self.log.place) from error
            newest = self.log.last_saved(self.log.version)
            if version == 0 or version in self.log.snapshots() or newest != version:
                return

    def close(self, finish: Iterable[Callable[[], None]] = ()) -> None:
        """Let what is queued land, run ``finish``, sync, and let go of everything.

        An interrupt may cut it short: called again, it goes on.
        """
        if self.is_released:
            return
        if os.getpid() != self._pid:
            self.closed = "it belongs to the process that opened it"
            return
        failure: BaseException | None = None
        steps = [self.queue.drain, self.settle_landing]
        for step in steps if self.closed else [*steps, *finish]:
            try:
                step()
            except Exception as error:
                failure = failure or error
        self.queue.stop()
        with contextlib.suppress(Exception):  # what hinders a sync here is told of below
            self.copy_all()
        self.closed = "it was closed"
        try:
            self.writer.close()
        except Exception as error:
            failure = failure or error
        self.threads.shutdown()
        self.files.close()
        if self._writer_lock is not None:
            self._writer_lock.release()
        self.is_released = True
        if failure is not None:
            raise failure
