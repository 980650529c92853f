"""The bus: versioned state behind one object, composed of parts that do the work."""

import contextlib
import functools
import json
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import numpy as np

from mmsb_jax._base.arguments import (
    check_choice,
    check_flag,
    check_function,
    check_kind,
    check_number,
    check_text,
    path_text,
    show,
)
from mmsb_jax._base.errors import (
    ClosedError,
    DigestMismatchError,
    LocationError,
    VersionError,
)
from mmsb_jax._base.patterns import matcher
from mmsb_jax._bus.derive.derived import Derived, Mode
from mmsb_jax._bus.derive.rules import checked_name, checked_rule, known_name
from mmsb_jax._bus.derive.transaction import GraphEdit
from mmsb_jax._bus.device.policy import Shadowing, check_shadow
from mmsb_jax._bus.engine.commit_info import CommitInfo
from mmsb_jax._bus.engine.engine import Engine
from mmsb_jax._bus.engine.session import Lineage, Ref, Session, number_of
from mmsb_jax._bus.engine.stats import Stats
from mmsb_jax._bus.events.events import Events, Subscription
from mmsb_jax._bus.events.kinds import Event
from mmsb_jax._bus.opening import fork, log_to_read
from mmsb_jax._bus.orbax.write import to_orbax
from mmsb_jax._bus.query.bisection import Bisection, BisectionSearch
from mmsb_jax._bus.query.follow import follow
from mmsb_jax._bus.query.history import History
from mmsb_jax._bus.query.rerun import ReplayReport, Rerun, check_step, origin_of
from mmsb_jax._bus.reverting import revert
from mmsb_jax._bus.saving.keep import KeepPolicy, check_keep
from mmsb_jax._bus.saving.policy import SavePolicies, check_policy
from mmsb_jax._bus.saving.preemption import Preemption
from mmsb_jax._bus.stacked import StackedStates, infos_of
from mmsb_jax._bus.transfer import export, take_in
from mmsb_jax._bus.trees import checkout as checkouts
from mmsb_jax._bus.trees.abstract import abstract_of
from mmsb_jax._bus.trees.places import Places, check_place
from mmsb_jax._bus.trees.renamed import check_rename, renamed
from mmsb_jax._bus.weights.delta import Encoding
from mmsb_jax._bus.weights.directory import WeightDirectory
from mmsb_jax._bus.weights.publisher import Publisher, check_publishing
from mmsb_jax._bus.weights.save import to_safetensors
from mmsb_jax._bus.weights.tensors import Rename, Selection
from mmsb_jax._bus.write.array_specs import new_spec
from mmsb_jax._bus.write.array_writer import ArrayWriter
from mmsb_jax._bus.write.batch import BatchManager
from mmsb_jax._bus.write.derived_arrays import DerivedArrays
from mmsb_jax._bus.write.draft_builder import PendingArrays
from mmsb_jax._bus.write.going_back import Origin
from mmsb_jax._bus.write.tree_writer import TreeWriter, done
from mmsb_jax._compile.made import MadePrograms
from mmsb_jax._core.layout import Layout
from mmsb_jax._graph.dag.kinds import mask_of
from mmsb_jax._graph.run.node import COPY_NAME, Equal, Rule, When, copy
from mmsb_jax._graph.wave.function import DerivedGraph
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.protocol import Buffer, Files
from mmsb_jax._store.files.threads import Threads, start_thread
from mmsb_jax._store.format.tags import check_tag, no_tag
from mmsb_jax._store.log.in_force import step_in_force
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import CompactReport, compact
from mmsb_jax._store.maintain.fork import surely_durable
from mmsb_jax._store.maintain.verify import VerifyReport, verify
from mmsb_jax._store.query.annotations import annotated, entry_of
from mmsb_jax._store.query.commit import Commit, read_commit, read_extra_in_force
from mmsb_jax._store.query.commits import Commits
from mmsb_jax._store.query.diff import diff_logs, diff_versions
from mmsb_jax._store.query.finding import first_divergence, first_nonfinite
from mmsb_jax._store.query.follow import Follower
from mmsb_jax._store.query.notes import Series, notes_of
from mmsb_jax._store.query.superseded import is_in, superseded_in
from mmsb_jax._store.state.state import StoredState

if TYPE_CHECKING:
    from mmsb_jax._bus.query.diff import VersionDiff
    from mmsb_jax._core.delta import Delta
    from mmsb_jax._core.tlog import TLog

State = TypeVar("State")
Extra = TypeVar("Extra")

_RESUMED = (
    "; missing='keep' takes from `state` what is not recorded, rename= moves paths, cast=True "
    "changes dtypes"
)
_PARTS = "; arrays=[…] selects a part, missing='keep' takes from `like` what is not recorded"


class Bus:
    """Versioned state: commit pytrees, check any version out, write single arrays.

    `mmsb_jax.open` makes one. Thread-safe. What it returns is the caller's own: it may be donated
    or changed.

    Attributes:
        path: directory of the log; None in memory.
        page_bytes: bytes of a page.
        recovered: what recovery found and left out when the log was opened; empty when all was
            well.
    """

    def __init__(
        self,
        log: Log,
        engine: Engine | None,
        files: Files,
        path: Path | None,
        shadow: Shadowing = "auto",
        memory_kind: str | None = None,
        save: SavePolicies | None = None,
        keep: KeepPolicy | None = None,
        copy_to: Path | None = None,
    ) -> None:
        self.path = path
        self.page_bytes: int = log.manifest.page_bytes
        self.recovered: list[str] = list(log.recovered)
        self._choices: dict[str, Any] = {
            "shadow": shadow,
            "memory_kind": memory_kind,
            "save": dict(save) if isinstance(save, Mapping) else save,
            "keep": keep,
            "copy_to": copy_to,
        }
        self._session = Session(log, engine, files, path, Places(memory_kind))
        self._arrays = ArrayWriter(self._session, shadow, save)
        self._derived = DerivedArrays(self._session, self._arrays)
        if engine is not None and keep is not None:
            engine.keep(keep)
        if engine is not None and copy_to is not None:
            engine.copy_to(DiskFiles(copy_to), str(copy_to))
        self._end = weakref.finalize(
            self,
            _end,
            engine,
            files,
            self._session.threads,
            self._arrays.pending,
            self._arrays.preemption,
        )
        if engine is not None:
            self._arrays.preemption.begin()

    # ------------------------------------------------------------------------------- its guard
    # Around everything stands ``with self._events, self._lock``: a lock that is C code, which no
    # interrupt leaves taken, and behind it the delivery of what happened meanwhile.

    @property
    def _events(self) -> Events:
        return self._session.events

    @property
    def _lock(self) -> Any:
        return self._session.lock

    def _enter(self, verb: str | None = None) -> Engine:
        """The engine of an open bus on which all has landed; a batch does not take ``verb``."""
        engine = self._session.writing()
        if verb is not None:
            self._refuse_in_batch(verb)
        self._session.settle()
        return engine

    def _refuse_in_batch(self, verb: str) -> None:
        if self._arrays.batch is not None:
            raise ClosedError(f"{verb} inside a batch: end the batch first")

    # ----------------------------------------------------------------------------------- its state

    @property
    def closed(self) -> bool:
        """Whether it was closed, or must not be used any more."""
        return self._session.closed

    @property
    def version(self) -> int:
        """The newest version; 0 for an empty log. A reader sees what the writer has added."""
        self._session.refresh()
        return self._session.log.version

    @property
    def durable_version(self) -> int:
        """The newest version that is known to survive a power cut."""
        return self._session.durable_version

    @property
    def step(self) -> int | None:
        """The newest step that a commit was given; a commit without one leaves it as it was.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"w": 1.0}, step=10)
        >>> _ = bus.commit({"w": 2.0})
        >>> bus.step
        10
        """
        with self._lock:
            self._session.settle()
            log = self._session.log
            return log.retry_if_compacted(lambda: step_in_force(log, log.version))

    @property
    def preempted(self) -> bool:
        """Whether a signal of ``save=`` has come: `OnSignal`, `OnPreemption`.

        By then the newest tree is durable, or the next commit is.
        """
        return self._arrays.preemption.was_told

    @property
    def durability(self) -> Any:
        """When a commit returns: ``"os"``, ``"fsync"`` or ``("group", ms)``; None for a reader."""
        engine = self._session.engine
        return None if engine is None else engine.durability

    @property
    def layout(self) -> Layout:
        """Where each array stands in the pool that deltas speak of; a snapshot of the table.

        ``bus.layout.pack(tree)`` packs the committed tree, where nothing but it is on the bus.
        """
        with self._events, self._lock:
            self._session.settle()
            return self._arrays.layout()

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        if self.closed:
            return f"<Bus {where}, closed>"
        mode = "" if self._session.engine is not None else ", reading"
        return f"<Bus {where}: version {self._session.log.version}{mode}>"

    # --------------------------------------------------------------------------------------- trees

    @overload
    def commit(
        self,
        tree: Any,
        *,
        step: int | None = None,
        source: str = "",
        note: Any = None,
        extra: Any = None,
        wait: Literal[True] = True,
        busy: Literal["wait", "skip"] = "wait",
        save: bool | None = None,
        structure: Literal["same", "new"] = "same",
    ) -> Commit: ...

    @overload
    def commit(
        self,
        tree: Any,
        *,
        step: int | None = None,
        source: str = "",
        note: Any = None,
        extra: Any = None,
        wait: Literal[False],
        busy: Literal["wait"] = "wait",
        save: bool | None = None,
        structure: Literal["same", "new"] = "same",
    ) -> Future[Commit]: ...

    @overload
    def commit(
        self,
        tree: Any,
        *,
        step: int | None = None,
        source: str = "",
        note: Any = None,
        extra: Any = None,
        wait: Literal[False],
        busy: Literal["skip"],
        save: bool | None = None,
        structure: Literal["same", "new"] = "same",
    ) -> Future[Commit] | None: ...

    @overload
    def commit(
        self,
        tree: Any,
        *,
        step: int | None = None,
        source: str = "",
        note: Any = None,
        extra: Any = None,
        wait: bool = True,
        busy: Literal["wait", "skip"] = "wait",
        save: bool | None = None,
        structure: Literal["same", "new"] = "same",
    ) -> Any: ...

    def commit(
        self,
        tree: Any,
        *,
        step: int | None = None,
        source: str = "",
        note: Any = None,
        extra: Any = None,
        wait: bool = True,
        busy: Literal["wait", "skip"] = "wait",
        save: bool | None = None,
        structure: Literal["same", "new"] = "same",
    ) -> Any:
        """Make ``tree`` the newest version.

        Args:
            tree: a pytree of arrays, Python numbers, strings, None, functions. Once this returns,
                every array of it may be donated or changed.
            step: the caller's own number, to find the commit by; may repeat.
            source: who commits.
            note: JSON, and 0-d arrays; at most 64 KiB.
            extra: JSON or bytes of any length, kept beside the tree (the position of an iterator).
                None leaves what was said before in force; `mmsb_jax.CLEAR` ends it.
            wait: False returns at once, while the copy is written by a thread. A commit that
                records a structure (the first one) lands before this returns.
            busy: what ``wait=False`` does while two commits, or one of a state above 256 MB, have
                not landed yet: wait until one has (`stats().blocked_ms`), or ``"skip"`` this one
                and return None.
            save: False logs digests of the arrays alone: the version is there, with all that is
                said of it, and `Commit.saved` is False; its bytes cannot be had, and nothing but a
                whole tree can follow. None leaves it to the policy that the bus was opened with.
                The first commit, and one that changes the structure (a string, a weak type), always
                has bytes. Its arrays are kept until the next commit, for `close` to log them.
            structure: ``"new"`` records another structure than the one before.

        Returns:
            The `Commit`; with ``wait=False`` a future of it (``.result()``), behind which `version`
            lags.

        Raises:
            StructureError: another structure, shape or dtype than recorded (every path is named);
                a leaf that cannot be recorded; an array that was donated or is traced.
            LocationError: the disk is full or fails. Nothing has changed.
            whatever made an earlier commit with ``wait=False`` fail.

        Cost: one comparison of the bytes, and the bytes that changed, encoded and written. A
        `jax.Array` that is the very one of the last commit is not read: what is frozen costs
        nothing. So do not change the memory behind an array (by NumPy or DLPack): JAX does not
        expect it either.
        """
        check_choice("structure", structure, "same", "new")
        check_flag("wait", wait)
        check_choice("busy", busy, "wait", "skip")
        if save is not None:
            check_flag("save", save)
        info = CommitInfo(step, source, note, extra)
        with self._events, self._lock:
            trees = self._tree_writer()
            self._refuse_in_batch("commit")
            if not wait:
                if busy == "skip" and trees.is_busy and not self._arrays.preemption.is_due:
                    return None
                pending = trees.enqueue(tree, info, save)
                if pending is not None:
                    if self._arrays.preemption.was_told:
                        self._arrays.answer_preemption()
                    return pending
            self._session.settle()
            commit = trees.commit(tree, info, structure == "new", save)
            if self._arrays.preemption.was_told:
                self._arrays.answer_preemption()
            return commit if wait else done(commit)

    def warmup(self, like: Any) -> None:
        """Compile what the commits of a run execute, before its first step.

        That is, the copies of commits with ``wait=False``, and the digests of those without bytes.
        Where ``shadow=`` keeps the state on the devices, and ``like`` is the newest version, as
        behind `resume`, it is kept from now on, so that the first commit moves what changed alone.

        Args:
            like: the state of the run, or one of its structure; arrays may be
                `jax.ShapeDtypeStruct`, keys may not.

        Raises:
            StructureError: a leaf that cannot be committed.
            DeviceMemoryError: no room for a copy.

        Cost: the compilation, and a copy of the state, whose buffers the commits fill again. What
        is abstract takes memory for a moment.

        >>> import jax, jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> bus.warmup({"w": jax.ShapeDtypeStruct((1000,), jnp.bfloat16)})
        """
        with self._events, self._lock:
            self._enter("warmup")
            self._tree_writer().warm_up(like)

    @overload
    def resume(
        self,
        state: State,
        extra: None = None,
        *,
        at: Ref | None = None,
        missing: Literal["error", "keep"] = "error",
        cast: bool = False,
        rename: Mapping[str, str] | None = None,
    ) -> tuple[State, Any]: ...

    @overload
    def resume(
        self,
        state: State,
        extra: Extra,
        *,
        at: Ref | None = None,
        missing: Literal["error", "keep"] = "error",
        cast: bool = False,
        rename: Mapping[str, str] | None = None,
    ) -> tuple[State, Extra]: ...

    def resume(
        self,
        state: Any,
        extra: Any = None,
        *,
        at: Ref | None = None,
        missing: Literal["error", "keep"] = "error",
        cast: bool = False,
        rename: Mapping[str, str] | None = None,
    ) -> tuple[Any, Any]:
        """The newest commit as ``(tree, extra)``; what is passed, where the log is empty.

        The tree has the classes, functions and shardings of ``state``. From here on the bus knows
        that structure, as if it had committed it: where it is not the one recorded (something was
        renamed, kept or cast), the next commit of it records it. The ``extra`` is the newest that
        any commit was given: a commit without one (`write`, a derived array that was computed)
        leaves it as it was. If no commit was given one, it is what is passed; if `mmsb_jax.CLEAR`
        ended it, None.

        Args:
            state: a tree of the structure wanted. `jax.ShapeDtypeStruct` will do.
            extra: what to begin with where nothing was said.
            at: an older version to go on from. The next commit of a tree is its child: the
                versions between are *superseded*. They stay, and are found by their numbers, but
                not by step or time (`at`). It says the step and the ``extra`` in force then, where
                it is not given others.
            missing: ``"keep"`` takes what is not recorded from ``state``, with a warning.
            cast: whether arrays get the dtypes of ``state``: bools, integers, floats and complex
                numbers each those of their own kind, or of one further on in this list.
            rename: path that was recorded → path in ``state``, of leaves or of parts of the tree.

        Where the newest commits hold digests only, it is the newest with bytes, with a warning that
        names the others: they are superseded by the next commit, as with ``at``.

        Raises:
            VersionError: no such version, or no bytes of it; no tree was committed by then.
            StructureError: what was committed differs from ``state``; every path is named.
            ArrayNotFoundError: nothing is recorded at a path to rename.

        Cost: as `checkout`.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for step in range(4):
        ...     _ = bus.commit({"w": float(step)}, step=step, extra={"next": step + 1})
        >>> bus.resume({"w": 0.0}, extra={"next": 0})
        ({'w': 3.0}, {'next': 4})
        >>> bus.resume({"w": 0.0}, at=bus.at(step=1))
        ({'w': 1.0}, {'next': 2})
        >>> commit = bus.commit({"w": 7.0})
        >>> bus.step, bus.checkout(step=1), bus.checkout(step=3, lineage="all")
        (1, {'w': 7.0}, {'w': 3.0})
        """
        check_choice("missing", missing, "error", "keep")
        check_flag("cast", cast)
        if rename is not None:
            check_rename(rename)
        with self._events, self._lock:
            log, head = self._session.log, self._session.head()
            chosen = self._session.version_of(at)
            if at is None and not log.is_saved(chosen):
                chosen = log.last_saved(chosen)
                _warn_of_unsaved(chosen, log.version)
                found = head
            else:
                found = self._session.state_now(chosen, None)
            if not checkouts.has_tree(found):
                if at is not None:
                    raise VersionError(
                        f"at={show(at)}: no tree was committed up to version {chosen}."
                    )
                return state, extra
            found = renamed(found, rename) if rename else found
            tree = checkouts.build_like(
                found, state, None, None, missing, _RESUMED, cast=cast, called="state"
            )
            spans = superseded_in(found.table.graph)
            origin = Origin.of(log, chosen, spans) if chosen < log.version else None
            self._arrays.know(tree, origin)
            known = read_extra_in_force(log, chosen)
            return tree, known.value if known.version else extra

    def resume_or_init(
        self,
        init: Callable[[], State],
        extra: Any = None,
        *,
        cast: bool = False,
        rename: Mapping[str, str] | None = None,
    ) -> tuple[State, Any]:
        """`resume`, or ``(init(), extra)`` where no tree was committed yet.

        The tree to go on with is made before the arrays of ``init`` are: no state but the one that
        comes back is ever in memory. Where one was committed, ``init`` is traced, and not run.

        Args:
            init: makes the state to begin with. Where it is jitted with ``out_shardings``, what
                was committed comes back under these. One that makes a module with functions in it
                is jitted by `equinox.filter_jit`, or not at all.
            extra: what to begin with where nothing was said.
            cast, rename: as for `resume`.

        Raises:
            StructureError: what was committed differs from what ``init`` makes.

        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> state, extra = bus.resume_or_init(lambda: {"w": jnp.zeros(2)}, extra={"next": 0})
        >>> _ = bus.commit({"w": state["w"] + 1}, extra={"next": 1})
        >>> bus.resume_or_init(lambda: {"w": jnp.zeros(2)}, extra={"next": 0})
        ({'w': Array([1., 1.], dtype=float32)}, {'next': 1})
        """
        if not callable(init):
            raise TypeError(f"init={show(init)}: expected a function that makes the first state")
        with self._events, self._lock:
            if not checkouts.has_tree(self._session.head()):
                return init(), extra
            return self.resume(abstract_of(init), extra, cast=cast, rename=rename)

    def revert_to(
        self,
        ref: Ref,
        *,
        extra: Literal["then", "now"] = "then",
        source: str = "",
        note: Any = None,
    ) -> Commit:
        """Make the state of an older version the newest again, by a commit.

        All of it comes back to the bit: the tree, arrays by name, what is derived and linked, and
        what was stale. Arrays that were made since are deleted. The versions between are
        *superseded*, as behind ``resume(at=…)``. No function runs; what is derived keeps those
        that are attached here.

        Args:
            ref: which version.
            extra: the step and the ``extra`` that it says: ``"then"`` those in force at ``ref``;
                ``"now"`` those in force at the newest version, so that what was read meanwhile
                (bad batches) is not read again.
            source, note: as for `commit`.

        Raises:
            VersionError: no such version, or no bytes of it; the message names the nearest.
            LocationError: the disk is full or fails. Nothing has changed.

        Cost: a checkout of the arrays that were written since, compared with what they are now; the
        bytes that differ, encoded and written.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for step in range(5):
        ...     _ = bus.commit({"w": float(step)}, step=step, extra={"next": step + 1})
        >>> bus.revert_to(bus.at(step=2)).version
        6
        >>> bus.tree(), bus.step, bus.extra()
        ({'w': 2.0}, 2, {'next': 3})
        """
        check_choice("extra", extra, "then", "now")
        info = CommitInfo(None, source, note, None)
        with self._events, self._lock:
            self._enter("revert_to")
            version = self._session.number_of("ref", ref)
            return revert(self._session, self._arrays, version, extra == "now", info)

    def rerun(
        self,
        step: Callable[[State, Extra], tuple[State, Extra]],
        *,
        like: State,
        to: Ref,
        extra: Any = None,
        check: bool = True,
    ) -> tuple[State, Extra]:
        """The state and ``extra`` at a version, by taking its steps again.

        It begins with the newest version with bytes before it, and calls ``step(state, extra)`` for
        each commit of a tree up to it, in its lineage. So the bytes can be had of a version whose
        digests alone were logged; and it shows whether a step is what it was.

        Args:
            step: takes a step: from the state and the ``extra`` that were committed to the next.
            like: a tree of the structure; classes, functions and shardings are its own.
            to: the version.
            extra: what to begin with where no commit has given any.
            check: whether each state is held against the digests recorded.

        Raises:
            DigestMismatchError: a step gives other bytes; it names the first, and the arrays.
            VersionError: no version with bytes is before it.
            StructureError: a step gives another structure; or arrays were written by name between.
            whatever ``step`` raises, with a note of the version.

        Cost: the steps, and with ``check`` a digest of the state for each.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open(save=mmsb.Every(steps=100))
        >>> def step(state, extra):
        ...     return {"w": state["w"] * 2}, {"next": extra["next"] + 1}
        >>> state, extra = {"w": 1.0}, {"next": 0}
        >>> for number in range(5):
        ...     _ = bus.commit(state, step=number, extra=extra)
        ...     state, extra = step(state, extra)
        >>> bus.rerun(step, like=state, to=bus.at(step=3))
        ({'w': 8.0}, {'next': 3})
        """
        check_flag("check", check)
        check_step(step)
        with self._events, self._lock:
            self._session.settle()
            until = self._session.version_of(to)
            since = origin_of(self._session.log, until)
            begun = self._at_version(since, like, extra)
        return Rerun(self._session.log, step, self.page_bytes).run(*begun, since, until, check)

    def check_replay(
        self,
        step: Callable[[State, Extra], tuple[State, Extra]],
        *,
        like: State,
        steps: int,
        extra: Any = None,
    ) -> ReplayReport:
        """Whether a step is deterministic: the newest ``steps`` commits, taken again.

        It begins with the newest version with bytes before them. Arguments as for `rerun`.

        Returns:
            A report; true where every step gave the digests that were recorded.

        Raises:
            as `rerun`, but for `DigestMismatchError`.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for number in range(4):
        ...     _ = bus.commit({"w": 2.0**number}, step=number)
        >>> report = bus.check_replay(lambda s, e: ({"w": s["w"] * 2}, e), like={"w": 0.0}, steps=2)
        >>> bool(report), report.steps, report.since
        (True, 2, 2)
        """
        check_number("steps", steps)
        check_step(step)
        with self._events, self._lock:
            self._session.settle()
            log = self._session.log
            if not log.version:
                raise log.no_version(0)
            until = log.version
            since = origin_of(log, max(2, until - int(steps) + 1))
            begun = self._at_version(since, like, extra)
        again = Rerun(log, step, self.page_bytes)
        try:
            again.run(*begun, since, until, check=True)
        except DigestMismatchError as error:
            return ReplayReport(since, until, again.taken, error)
        return ReplayReport(since, until, again.taken, None)

    def annotate(self, ref: Ref, note: dict[str, Any]) -> Commit:
        """Say more of a version: an evaluation that ended later. A commit of its own.

        What is said stands in the ``note`` of that version from now on, wherever it is read.

        Args:
            ref: which version.
            note: entries to add to its note, or to say anew: JSON and 0-d arrays.

        Raises:
            VersionError: no such version.
            TypeError: no dict; or the version has a note that is none.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> commit = bus.commit({"w": 1.0}, step=10, note={"loss": 0.5})
        >>> _ = bus.annotate(commit, {"accuracy": 0.75})
        >>> bus.at(step=10).note
        {'loss': 0.5, 'accuracy': 0.75}
        """
        check_kind("note", note, dict)
        info = CommitInfo(None, "", note, None)
        with self._events, self._lock:
            engine = self._enter("annotate")
            version = self._session.version_of(ref)
            if not version:
                raise self._session.log.no_version(0)
            known = self._commit_of(version).note
            if known is not None and not isinstance(known, dict):
                raise TypeError(
                    f"version {version} has the note {show(known)}, to which no entries can be "
                    f"added: expected a dict, or none"
                )
            said = json.loads(info.note_text(info.numbers()))
            return engine.say(entry_of(version, self._session.entries, said))

    def first(
        self,
        where: str | Sequence[str] | Callable[[Commit], Any],
        *,
        lineage: Lineage = "living",
    ) -> Commit | None:
        """The first commit for which something holds; None for none.

        Args:
            where: a function of a commit, or patterns: the first that changed such an array.
            lineage: ``"all"`` looks at superseded commits too (`resume`).

        Cost: a header for each commit up to it.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for step in range(5):
        ...     _ = bus.commit({"w": float(step)}, step=step, note={"loss": 10 - step})
        >>> bus.first(lambda commit: commit.note["loss"] < 8).step
        3
        """
        if not callable(where):
            patterns = [where] if isinstance(where, str) else where
            checkouts.check_patterns(patterns)
            wanted = matcher(patterns)
            where = lambda commit: any(map(wanted.fullmatch, commit.changed))  # noqa: E731
        return next(filter(where, self._commits_in(lineage)), None)

    def notes(self, name: str, *, lineage: Lineage = "living") -> Series:
        """What the notes of the commits say of one thing, as a series that prints and plots.

        Args:
            name: an entry of the notes (``"loss"``), or one within another (``"eval/loss"``).
            lineage: ``"all"`` looks at superseded commits too (`resume`).

        Raises:
            ArrayNotFoundError: no note says it; the message names what they say.

        Cost: a header a commit.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for step in range(3):
        ...     _ = bus.commit({"w": float(step)}, step=step, note={"loss": 1 / (1 + step)})
        >>> bus.notes("loss").steps, min(bus.notes("loss"))
        ([0, 1, 2], 0.3333333333333333)
        """
        check_text("name", name, "an entry of the notes")
        return notes_of(self._commits_in(lineage), name)

    def _commits_in(self, lineage: Lineage) -> Iterator[Commit]:
        """The commits of a lineage, oldest first."""
        check_choice("lineage", lineage, "living", "all")
        with self._lock:
            self._session.settle()
            passed, log = self._session.passed_over(lineage), self._session.log
            versions = range(log.first_version, log.version + 1)
        return (self._commit_of(version) for version in versions if not is_in(passed, version))

    def first_nonfinite(
        self, arrays: str | Sequence[str] = "**"
    ) -> tuple[Commit, tuple[str, ...]] | None:
        """The first commit behind which a number is infinite or none, and the arrays that have it.

        Commits of a bus with a policy (``save=``, ``keep=``) count such numbers, also where no
        bytes are logged; of others the bytes are looked at, in one replay.

        Args:
            arrays: a name or patterns, as for `checkout`.

        Returns:
            The commit and the names; None where all numbers are finite.

        Raises:
            ArrayNotFoundError: a pattern that selects nothing.

        Cost: a header a commit; without a policy, one replay of the arrays selected.

        >>> import numpy as np
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open(save=mmsb.Every(steps=100))
        >>> for step in range(5):
        ...     _ = bus.commit({"w": np.float32([step, np.nan if step > 2 else 0])}, step=step)
        >>> commit, names = bus.first_nonfinite()
        >>> commit.step, names
        (3, ('w',))
        """
        patterns = [arrays] if isinstance(arrays, str) else arrays
        checkouts.check_patterns(patterns)
        wanted = checkouts.wanted_names(patterns)
        assert wanted is not None
        with self._lock:
            self._session.settle()
            session = self._session
            if session.log.version:
                checkouts.check_selection(session.head(), patterns)
            found = first_nonfinite(session.log, wanted, session.threads)
            return None if found is None else (self._commit_of(found[0]), found[1])

    def first_divergence(self, other: "Bus") -> tuple[Commit, Commit, tuple[str, ...]] | None:
        """The commits of the first step at which the trees of two runs differ, and the arrays.

        Args:
            other: another bus, such as of the same run on another machine; its steps are held
                against those here. Those that one of them alone has are passed over.

        Returns:
            Both commits and the names of the arrays of the tree that differ, or that one of them
            alone has; None where no step differs.

        Cost: a header a commit of both, and no bytes of arrays.

        >>> import mmsb_jax as mmsb
        >>> one, two = mmsb.open(), mmsb.open()
        >>> for step in range(4):
        ...     _ = one.commit({"w": float(step)}, step=step)
        ...     _ = two.commit({"w": float(step) + (step > 1)}, step=step)
        >>> ours, theirs, names = one.first_divergence(two)
        >>> ours.step, theirs.step, names
        (2, 2, ('w',))
        """
        check_kind("other", other, Bus)
        for bus in (self, other):
            with bus._lock:
                bus._session.settle()
        found = first_divergence(self._session.log, other._session.log)
        if found is None:
            return None
        return self._commit_of(found[0]), other._commit_of(found[1]), found[2]

    def bisect(
        self,
        bad: Callable[[State], Any],
        *,
        like: State | None = None,
        since: Ref | None = None,
        until: Ref | None = None,
        rerun: Callable[[State, Any], tuple[State, Any]] | None = None,
    ) -> Bisection:
        """Where a run went wrong: the commit whose state is bad, and the good one before it.

        It looks at the states of a few versions, half of the rest away each time, as `git bisect`
        does: where something went wrong and right again, one of the times is found.

        Args:
            bad: whether a state is bad. It may use the bus.
            like: as for `checkout`; the tree that it gives without for None.
            since: a version that is good; the oldest with bytes for None.
            until: a version that is bad; the newest for None. Versions that it did not come from
                (`resume`) are left out.
            rerun: a step, as for `rerun`. The versions without bytes between the two that were
                found are looked at too: their steps are taken again, and held against the digests.

        Returns:
            ``.good`` and ``.bad``, two commits; ``.exact`` is False where there are versions
            between them whose bytes cannot be had.

        Raises:
            ValueError: the state at ``since`` is bad already, or that at ``until`` is not.
            VersionError: no such version, or no bytes of it; the message names the nearest.
            DigestMismatchError: a step that was taken again gives other bytes.
            whatever ``bad`` raises, with a note of the version.

        Cost: the logarithm of the number of versions, in checkouts; behind the newest snapshot
        before ``bad`` one replay, in parts. Two states in memory. With ``rerun`` the steps between
        two versions with bytes.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for step in range(100):
        ...     _ = bus.commit({"w": float(step)}, step=step)
        >>> found = bus.bisect(lambda tree: tree["w"] > 41)
        >>> found.good.step, found.bad.step, found.exact
        (41, 42, True)
        """
        if not callable(bad):
            raise TypeError(f"bad={show(bad)}: expected a function of a tree, true where it is bad")
        check_function("rerun", rerun)
        with self._lock:
            self._session.settle()
            number_of, log = self._session.number_of, self._session.log
            first = None if since is None else number_of("since", since)
            last = None if until is None else number_of("until", until)
        steps = None if rerun is None else Rerun(log, rerun, self.page_bytes)

        def look_at(version: int, known: StoredState | None) -> tuple[StoredState, Any]:
            with self._lock:
                self._session.settle()
                state = self._session.state_from(known, version)
                if like is None:
                    return state, self._build(state)
                return state, checkouts.build_like(state, like, None, None, "error", _PARTS)

        search = BisectionSearch(log, bad, look_at, self.extra, steps)
        good, wrong, is_exact = search.run(first, last)
        return Bisection(self._commit_of(good), self._commit_of(wrong), is_exact, search.looks)

    def _at_version(self, version: int, like: Any, extra: Any) -> tuple[Any, Any]:
        """The tree of a version with bytes, and the ``extra`` in force there."""
        state = self._session.state_now(version, None)
        tree = checkouts.build_like(state, like, None, None, "error")
        known = read_extra_in_force(self._session.log, version)
        return tree, known.value if known.version else extra

    def tree(self) -> Any:
        """The newest version, in the structure last committed here; else a dict by name."""
        with self._lock:
            return self._build(self._session.head())

    def checkout(
        self,
        *,
        version: Ref | None = None,
        step: int | None = None,
        time_ns: int | None = None,
        lineage: Lineage = "living",
        arrays: Sequence[str] | None = None,
        like: Any = None,
        missing: Literal["error", "keep"] = "error",
    ) -> Any:
        """The state at a version, a step (its newest commit) or a time; the newest for none.

        Args:
            version, step, time_ns: which; at most one. A tag is a version, and a commit is its
                own. ``time_ns`` finds the newest commit that is not later.
            lineage: ``"all"`` looks among superseded commits too (`resume`), for a step or time.
            arrays: patterns (``params/**``); a subtree where one holds them, else a dict by name.
                Of a version that was not saved whole, those that have bytes there.
            like: a tree that gives classes, functions and shardings, and whose paths, shapes and
                dtypes are checked. `jax.ShapeDtypeStruct` will do.
            missing: ``"keep"`` takes paths that are not recorded from ``like``, with a warning.

        Raises:
            VersionError: no such version, step or time, its bytes were not logged, or a compaction
                dropped them; the message names the nearest.
            ArrayNotFoundError: a pattern that selects nothing.
            StructureError: ``like`` differs; every path is named.
            CorruptionError: what was written does not read back, or its digest differs.

        Cost: the nearest snapshot and the log behind it, of the arrays selected. In the bus that
            writes, the newest version costs what `tree` does: no file is read.
        """
        check_choice("missing", missing, "error", "keep")
        wanted = checkouts.wanted_names(arrays)
        with self._lock:
            self._session.settle()
            chosen = self._session.version_of(version, step, time_ns, lineage)
            state = self._session.state_now(chosen, wanted)
            checkouts.check_selection(state, arrays)
            if like is not None:
                asked = f"version {chosen}"
                return checkouts.build_like(
                    state, like, wanted, arrays, missing, _PARTS, against=asked
                )
            return self._build(state, wanted, arrays)

    def move(self, arrays: str | Sequence[str], place: Any) -> tuple[str, ...]:
        """From now on, put the arrays of JAX that patterns select somewhere else.

        This says where `tree`, `checkout`, `read` and `history` put what they give; ``like``
        and `resume` go by what they are given. A place is no part of the state: nothing is
        recorded, the next process begins without, and where a committed array lies is the
        caller's. The newest rule that matches an array counts.

        Args:
            arrays: a name or patterns, as for `checkout` (``opt/**/mu/**``); arrays that are made
                later count too. What is no array of JAX stays on the host.
            place: a memory kind of the default device (``"pinned_host"``), a
                `jax.sharding.Sharding`, or None for the default device.

        Returns:
            The names of the arrays that are selected now.

        Raises:
            ArrayNotFoundError: a pattern that selects nothing.
            StructureError: an array that cannot lie there; all stay where they were.
            ValueError: a memory kind that the device does not have, devices of other processes.

        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"params": jnp.zeros(3), "moments": jnp.zeros(3)})
        >>> bus.move("moments", "pinned_host")
        ('moments',)
        >>> bus.tree()["moments"].sharding.memory_kind
        'pinned_host'
        """
        patterns = [arrays] if isinstance(arrays, str) else arrays
        checkouts.check_patterns(patterns)
        check_place("place", place)
        with self._lock:
            self._session.settle()
            specs = {region.name: region.spec for region in self._arrays.layout().regions}
            return self._session.places.move(patterns, place, specs)

    def extra(self, version: Ref | None = None) -> Any:
        """The ``extra`` in force at a version (or tag; the newest for None): JSON, bytes or None.

        It is the newest that a commit up to there was given; a commit without one leaves it as it
        was. What one commit itself was given is `Commit.extra`.

        Raises:
            VersionError: no such version or tag; or a compaction dropped the commit that gave it.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"w": 1.0}, extra={"next": 7})
        >>> commit = bus.commit({"w": 2.0})
        >>> commit.extra, bus.extra()
        (None, {'next': 7})
        """
        with self._lock:
            self._session.settle()
            chosen = self._session.version_of(version)
            return read_extra_in_force(self._session.log, chosen).value

    def _tree_writer(self) -> TreeWriter:
        self._session.writing()
        assert self._arrays.trees is not None
        return self._arrays.trees

    def _build(
        self,
        state: StoredState,
        wanted: Callable[[str], bool] | None = None,
        arrays: Sequence[str] | None = None,
    ) -> Any:
        shape, places = checkouts.known_shape(state, self._arrays.shape), self._session.places
        if shape is not None:
            return checkouts.build_known(state, shape, wanted, arrays, places.of)
        return checkouts.build_flat(state, wanted, places.of)

    # ------------------------------------------------------------------------------ arrays by name

    def create(
        self,
        name: str,
        shape: Sequence[int] | None = None,
        dtype: Any = None,
        *,
        nbytes: int | None = None,
    ) -> None:
        """Make an array of zeros: ``shape`` and ``dtype`` (float32 for None), or ``nbytes`` raw.

        It is recorded with the next commit, or by `sync`, `snapshot` and `close`.

        Raises:
            StructureError: a name that is taken, a shape or dtype that no array can have.

        Cost: about a microsecond; its bytes are made when they are first written.
        """
        spec = new_spec(name, shape, dtype, nbytes)
        with self._lock:
            self._arrays.create(name, spec)

    def read(self, name: str) -> Any:
        """The newest value of one array; inside a batch, the one written in it.

        Raises:
            ArrayNotFoundError: no array has that name; the message says which are near.

        Cost: one copy of its bytes.
        """
        name = known_name("name", name)
        with self._events, self._lock:
            return self._derived.read(name)

    def write(
        self, name: str, value: Any, *, step: int | None = None, source: str = "", note: Any = None
    ) -> Commit | None:
        """Replace the bytes of one array: a commit; inside a batch, None.

        Raises:
            ArrayNotFoundError, StructureError: no such array; another shape or dtype.
        """
        info = CommitInfo(step, source, note, None)
        with self._events, self._lock:
            return self._arrays.write(name, value, info)

    def resize(
        self,
        name: str,
        shape: Sequence[int] | None = None,
        dtype: Any = None,
        *,
        nbytes: int | None = None,
        source: str = "",
    ) -> Commit | None:
        """Give one array another shape or dtype: its first bytes stay, new ones are zero.

        Raises:
            ArrayNotFoundError, StructureError: no such array; one of the committed tree; no shape.
        """
        info = CommitInfo(None, source, None, None)
        with self._events, self._lock:
            return self._arrays.change(
                lambda changes: changes.resize(name, shape, dtype, nbytes), info
            )

    def clone(self, name: str, copy: str, *, source: str = "") -> Commit | None:
        """Make the array ``copy`` with the shape, dtype and bytes of ``name``.

        Raises:
            ArrayNotFoundError, StructureError: no such array; the name is taken.
        """
        info = CommitInfo(None, source, None, None)
        with self._events, self._lock:
            return self._arrays.change(lambda changes: changes.clone(name, copy), info)

    def delete(self, name: str, *, source: str = "") -> Commit | None:
        """Delete one array that was made by name, or is derived: a commit; inside a batch, None.

        Raises:
            ArrayNotFoundError, StructureError: no such array; one of the committed tree; one that
                others are made from.
        """
        name = known_name("name", name)
        with self._events, self._lock:
            self._enter()
            return self._derived.delete(name, source)

    def apply(
        self,
        delta: "Delta",
        *,
        step: int | None = None,
        source: str = "",
        note: Any = None,
        layout: Layout | None = None,
    ) -> Commit | None:
        """Commit a delta that was made by hand, or by `mmsb_jax.diff`.

        Args:
            delta: what to write.
            step, source, note: as in `commit`.
            layout: the layout that it was made with; ``bus.layout`` for None.

        Raises:
            InvalidDeltaError: it overflowed, has a batch, or writes outside of the arrays; the
                message names the byte. Nothing has changed.

        Cost: the bytes of the delta.
        """
        info = CommitInfo(step, source, note, None)
        with self._events, self._lock:
            return self._arrays.apply(delta, layout, info)

    def extend(
        self,
        log: "TLog",
        *,
        steps: Sequence[int] | None = None,
        notes: Any = None,
        source: str = "",
        layout: Layout | None = None,
    ) -> list[Commit]:
        """Commit the entries of a log of the device, one commit each.

        All of it is looked at before the first commit: what is refused is refused whole. An
        interrupt leaves the commits that have landed.

        Args:
            log: entries, of one branch (of a batch, pick one first).
            steps: an integer for each entry, such as a range or an array of one axis.
            notes: a list with a note for each entry; or a tree of arrays of one axis, such as what
                a ``scan`` has stacked, with a number for each.
            source: who commits.
            layout: the layout that the entries were made with; ``bus.layout`` for None. Its arrays
                are found here by name.

        Raises:
            InvalidDeltaError: the log overflowed, has a batch, or writes outside of the arrays.
            TypeError, ValueError: steps or notes that are none, or not as many as the entries.

        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"w": jnp.zeros(3)})
        >>> log = mmsb.TLog.empty(commits=2, blocks=2)
        >>> for value in (1, 2):
        ...     region = bus.layout.region("w")
        ...     log = log.append(mmsb.Delta.from_slice(region, jnp.full(1, 1.0 * value), (value,)))
        >>> commits = bus.extend(log, steps=[10, 11], notes={"loss": jnp.array([0.5, 0.25])})
        >>> [(commit.step, commit.note) for commit in commits], bus.read("w").tolist()
        ([(10, {'loss': 0.5}), (11, {'loss': 0.25})], [0.0, 1.0, 2.0])
        """
        from mmsb_jax._core.tlog import TLog

        if not isinstance(log, TLog):
            raise TypeError(f"log={show(log)}: expected a TLog")
        CommitInfo(None, source, None, None)  # refuse it also where there are no entries
        with self._events, self._lock:
            self._refuse_in_batch("extend")
            said = lambda count: infos_of(count, steps, notes, None, source)  # noqa: E731
            return self._arrays.extend(log, layout, said)

    def extend_stacked(
        self,
        states: Any,
        *,
        steps: Sequence[int] | None = None,
        notes: Any = None,
        extras: Any = None,
        source: str = "",
    ) -> list[Commit]:
        """Commit the trees that a ``scan`` has stacked, one commit each.

        Each is committed as `commit` does it: what it recorded of the first tree holds for all, and
        a policy (``save=`` of `mmsb_jax.open`) is asked for each. All that is passed is looked at
        before the first commit: what is refused is refused whole. An interrupt leaves the commits
        that have landed.

        Args:
            states: a tree whose arrays have a leading axis of one length, a place for each commit.
                Strings, functions and None are the same in each.
            steps: an integer for each commit, such as a range or an array of one axis.
            notes, extras: a list with one for each commit; or a tree of arrays of one axis, with a
                number for each.
            source: who commits.

        Raises:
            StructureError: a leaf without an axis, axes of two lengths, another structure than
                recorded, an array that was donated.
            TypeError, ValueError: steps, notes or extras that are none, or not as many as commits.

        Cost: a commit each, and one program that picks its tree.

        >>> import jax, jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> step = lambda w, _: (w * 2, {"w": w * 2})
        >>> _, states = jax.lax.scan(step, jnp.ones(2), length=3)
        >>> bus = mmsb.open()
        >>> commits = bus.extend_stacked(states, steps=range(3), notes={"sum": states["w"].sum(1)})
        >>> [(commit.step, commit.note["sum"]) for commit in commits], bus.checkout(step=1)["w"]
        ([(0, 4.0), (1, 8.0), (2, 16.0)], Array([4., 4.], dtype=float32))
        """
        stacked = StackedStates(states)
        infos = infos_of(stacked.count, steps, notes, extras, source)
        with self._events, self._lock:
            trees = self._tree_writer()
            self._refuse_in_batch("extend_stacked")
            self._session.settle()
            commits = [
                trees.commit(stacked.tree(number), info, False) for number, info in enumerate(infos)
            ]
            self._arrays.answer_preemption()
            return commits

    def batch(
        self, *, step: int | None = None, source: str = "", note: Any = None
    ) -> BatchManager[Self]:
        """Inside, writes are gathered; at its end they are one commit. An exception drops them.

        The batch holds the bus: other threads wait until it ends.
        """
        return BatchManager(self, self._arrays, CommitInfo(step, source, note, None))

    def page_versions(self, name: str) -> np.ndarray:
        """The version of the last commit that changed a byte of each page of an array.

        Inside a batch as before it.

        Returns:
            uint64[pages], the caller's own; 0 for a page that is as it was made.

        Raises:
            ArrayNotFoundError: no array has that name.

        Cost: a copy of them; for a reader, the nearest snapshot and the log behind it, of this
        array.

        >>> import numpy as np
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> bus.create("x", nbytes=2 * bus.page_bytes)
        >>> _ = bus.write("x", bytes(bus.page_bytes) + bytes([7]) * bus.page_bytes)
        >>> bus.page_versions("x")
        array([0, 1], dtype=uint64)
        """
        name = known_name("name", name)
        with self._events, self._lock:
            self._session.settle()
            return self._derived.page_versions(name)

    # ------------------------------------------------------------------------------ derived arrays

    @overload
    def derive(
        self,
        name: str,
        inputs: str | Sequence[str],
        function: None = None,
        *,
        when: When = ...,
        equal: Equal = ...,
        pagewise: bool = ...,
        source: str = ...,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...

    @overload
    def derive(
        self,
        name: str,
        inputs: str | Sequence[str],
        function: Callable[..., Any],
        *,
        when: When = ...,
        equal: Equal = ...,
        pagewise: bool = ...,
        source: str = ...,
    ) -> Commit | None: ...

    def derive(
        self,
        name: str,
        inputs: str | Sequence[str],
        function: Callable[..., Any] | None = None,
        *,
        when: When = "commit",
        equal: Equal = "bytes",
        pagewise: bool = False,
        source: str = "",
    ) -> Any:
        """Make an array from others, and keep it right: a decorator, or a call.

        The function is traced once and compiled. It runs when an input has changed, once a commit,
        after everything that it reads, and what it makes is a part of that commit. It must be a
        pure JAX function: what it reads, it reads as arguments.

        Args:
            name: what it is called. Where the function returns a pytree, each leaf is an array
                ``name/path``.
            inputs: one name or pattern an argument. A pattern (``params/**``), or the path of a
                part of a tree, arrives as that part.
            function: what makes it; without one, this returns a decorator.
            when: ``"commit"`` computes it with each commit, ``"read"`` when somebody reads it, or
                when something is computed from it.
            equal: when a result counts as unchanged, so that nothing behind it runs: ``"bytes"``,
                ``"never"``, or a JAX function of the old and the new result.
            pagewise: for a function that works element by element: only pages with a changed byte
                are computed.
            source: who commits its first value.

        Returns:
            The commit of its first value; None inside a batch, and where nothing had to be
            computed. A name that was derived before is replaced.

        Raises:
            ArrayNotFoundError: an input that selects nothing.
            GraphCycleError: it would be made from itself; the message shows the cycle.
            RecomputeError: the function raises, looks at values, returns no arrays.
            StructureError: an array of that name was written.

        Cost: one tracing and one compilation a function and shape; then its first value.

        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"a": jnp.arange(3.0)})
        >>> @bus.derive("total", inputs=["a"])
        ... def total(a):
        ...     return a.sum()
        >>> bus.commit({"a": jnp.arange(4.0)[1:]}).changed
        ('a', 'total')
        >>> float(bus.read("total"))
        6.0
        """

        def take(function: Callable[..., Any]) -> Commit | None:
            rule = checked_rule(name, inputs, function, when, equal, pagewise)
            with self._events, self._lock:
                return self._derived.derive(rule, CommitInfo(None, source, None, None))

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            take(function)
            return function

        return decorate if function is None else take(function)

    def derived(self) -> dict[str, Derived]:
        """What is derived, by name."""
        with self._events, self._lock:
            return self._derived.described()

    def link(
        self,
        parent: str,
        child: str,
        *,
        kind: Literal["data", "control", "device_sync", "compiler"] = "data",
        source: str = "",
    ) -> Commit | None:
        """Say that ``child`` follows from ``parent``; a commit, or inside a batch None.

        ``"data"``: the child is a copy of the parent from now on, and only that writes it. It is
        made, or is an array of the same shape and dtype that `create` or `clone` made.
        ``"control"``: the child is marked stale when the parent changes. One that is derived is
        computed again when it is read; any other waits for its user, whose next write to it, of
        the same bytes too, takes the mark away (`stale`).
        ``"device_sync"``, ``"compiler"``: labels; subscribers hear of a change of the parent.

        Raises:
            ArrayNotFoundError: no such array.
            GraphCycleError: the edge would close a cycle; the message shows it.
            StructureError: a ``"data"`` edge to an array of another shape or dtype, or of the
                committed tree; a name that no array can have.

        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"params": jnp.zeros(3)})
        >>> bus.create("plot", nbytes=2)
        >>> _ = bus.link("params", "plot", kind="control")
        >>> _ = bus.commit({"params": jnp.ones(3)})
        >>> bus.stale()
        ('plot',)
        >>> _ = bus.write("plot", b"ok")
        >>> bus.stale()
        ()
        """
        mask_of(kind)
        info = CommitInfo(None, source, None, None)
        parent = known_name("parent", parent)
        if kind == "data":
            rule = Rule(checked_name("child", child), (parent,), copy, COPY_NAME)
            with self._events, self._lock:
                return self._derived.derive(rule, info)
        change = GraphEdit(links=[(parent, known_name("child", child), kind)])
        with self._events, self._lock:
            return self._arrays.edit_graph(change, info)

    def unlink(
        self,
        parent: str,
        child: str,
        *,
        kind: Literal["control", "device_sync", "compiler"],
        source: str = "",
    ) -> Commit | None:
        """Take back a `link`. A derived array, a copy too, is taken back by `delete`.

        An array that is not derived is stale no longer, once no ``"control"`` edge leads to it.

        Raises:
            ArrayNotFoundError: there is no such link.
            ValueError: kind ``"data"``.
        """
        mask_of(kind)
        if kind == "data":
            raise ValueError(
                f"unlink({parent!r}, {child!r}, kind='data'): what {child!r} is made from belongs "
                f"to its rule. Delete {child!r}, or derive it from something else."
            )
        edge = (known_name("parent", parent), known_name("child", child), kind)
        with self._events, self._lock:
            self._enter()
            return self._derived.unlink(edge, CommitInfo(None, source, None, None))

    def stale(self) -> tuple[str, ...]:
        """The names of the arrays that are stale, sorted: an array that they follow from changed.

        A derived one is computed when it is read, or by `propagate`. One that is not derived, and
        that a ``"control"`` edge leads to (`link`), waits for its user to write it; what is made
        from it is stale as long. Inside a batch as before it.

        >>> import mmsb_jax as mmsb
        >>> mmsb.open().stale()
        ()
        """
        with self._events, self._lock:
            return self._derived.known().stale_arrays()

    @property
    def graph(self) -> DerivedGraph:
        """What follows from what, as it is now: drawn in a notebook, and callable as a function."""
        with self._events, self._lock:
            return self._derived.graph()

    @property
    def mode(self) -> Mode:
        """``"immediate"``: each commit computes what follows; ``"deferred"``: it marks it stale.

        What is stale is computed by `propagate`, or when it is read.
        """
        return self._derived.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        check_choice("mode", mode, "immediate", "deferred")
        with self._events, self._lock:
            self._derived.set_mode(mode)

    def propagate(self, *, source: str = "") -> Commit | None:
        """Compute what is stale and would have been computed with each commit; a commit.

        Returns:
            The commit; None where nothing was to be computed.
        """
        with self._events, self._lock:
            return self._derived.propagate(CommitInfo(None, source, None, None))

    # --------------------------------------------------------------------------------- its history

    def log(
        self,
        array: str | None = None,
        source: str | None = None,
        since: int | None = None,
        until: int | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
    ) -> Iterator[Commit]:
        """Commits, oldest first; reads none of their bytes.

        Args:
            array: those that changed it, and logged its bytes.
            source: those of one source.
            since, until: versions, both included.
            start_ns, end_ns: times; the first included, the second not.

        Raises:
            VersionError: a negative version or time.
        """
        numbers = {"since": since, "until": until, "start_ns": start_ns, "end_ns": end_ns}
        for name, value in numbers.items():
            if value is not None:
                check_number(name, value)
        for name, value in (("array", array), ("source", source)):
            if value is not None:
                check_text(name, value, "a name")
        with self._lock:
            self._session.settle()
            log = self._session.log
            versions = list(log.select(array, source, since, until, start_ns, end_ns))
        return (self._commit_of(version) for version in versions)

    @property
    def commits(self) -> Commits:
        """All commits there are, oldest first, as a sequence; prints as a table.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for step in (10, 20):
        ...     _ = bus.commit({"w": float(step)}, step=step)
        >>> [commit.step for commit in bus.commits]
        [10, 20]
        """
        with self._lock:
            self._session.settle()
            log = self._session.log
            return Commits(range(log.first_version, log.version + 1), self._commit_of)

    @property
    def latest(self) -> Commit | None:
        """The newest commit; None for an empty log.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> bus.latest
        >>> _ = bus.commit({"w": 1.0}, step=10)
        >>> bus.latest.step
        10
        """
        with self._lock:
            self._session.settle()
            newest = self._session.log.version
            return self._commit_of(newest) if newest else None

    def at(
        self, *, step: int | None = None, time_ns: int | None = None, lineage: Lineage = "living"
    ) -> Commit:
        """The newest commit of a step, or the newest that is not later than a time.

        Args:
            step, time_ns: which; one of them.
            lineage: ``"living"`` leaves out the commits that are superseded since the log went
                back behind them (`resume`); ``"all"`` does not.

        Raises:
            VersionError: there is none; the message names the nearest.

        Cost: a look at the indexes; for a reader also at the headers since the newest snapshot.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for step in (10, 20):
        ...     _ = bus.commit({"w": float(step)}, step=step)
        >>> bus.at(step=10).version
        1
        """
        if step is None and time_ns is None:
            raise ValueError("at(): give step=… or time_ns=…; the newest commit is bus.latest")
        with self._lock:
            self._session.settle()
            return self._commit_of(self._session.version_of(None, step, time_ns, lineage))

    def _commit_of(self, version: int) -> Commit:
        """A commit, which keeps this bus as long as it is there: it reads from its log."""
        commit = read_commit(self._session.log, version, lambda: self.durable_version)
        return annotated(commit, self._session.entries)

    def diff(
        self, old: Ref, new: Ref, *, other: "Bus | str | os.PathLike[str] | None" = None
    ) -> "VersionDiff":
        """What differs between two versions, array by array; prints as a table.

        A tag is a version; 0 is the empty state. ``.delta`` is the `Delta` between them.

        Args:
            old: a version.
            new: the version to compare with.
            other: the bus, or the directory of the log, that ``new`` is a version of; this one for
                None. Arrays are compared by name.

        Raises:
            VersionError: no such version or tag, or no bytes of it.
            LocationError: ``other`` is a path where no log is.

        Cost: two checkouts of the arrays that may differ: those that a commit between the two
        touched, or, in two logs, whose digests are not the same.

        >>> import numpy as np
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for value in (1, 2):
        ...     _ = bus.commit({"w": np.full(3, value, np.float32)})
        >>> _ = bus.tag("first", 1)
        >>> print(bus.diff("first", 2).summary())
        version 1 → 2: 1 of 1 arrays differ, 6 bytes
        >>> bool(bus.diff(2, 2, other=bus.fork()))
        False
        """
        from mmsb_jax._bus.query.diff import version_diff

        state, layout = self._state_at, self._layout_now  # they keep the bus
        with self._lock:
            self._session.settle()
            session = self._session
            before = session.number_of("old", old)
            if other is None:
                after = session.number_of("new", new)
                found = diff_versions(session.log, before, after, executor=session.threads)
                return version_diff(found, lambda: (state(before), state(after)), layout)
        reading = functools.partial(_reading, other)
        with reading() as log:
            after = number_of(log, "new", new)
            found = diff_logs(session.log, before, log, after, executor=session.threads)

        def states() -> tuple[StoredState, StoredState]:
            with reading() as log:
                return state(before), log.state(after)

        return version_diff(found, states, layout)

    def _state_at(self, version: int) -> StoredState:
        return self._session.log.state(version)

    def _layout_now(self) -> Layout:
        return self.layout

    def history(self, array: str) -> History:
        """The versions of one array, read as they are asked for.

        Raises:
            ArrayNotFoundError: no array has, or had, that name.
        """
        check_text("array", array, "the name of an array")
        with self._lock:
            self._session.settle()
            history = History(self._session.log, array, self._session.places.of)
            if not history.versions:
                checkouts.find_array(self._session.head(), array)
            return history

    def tag(self, name: str, version: Ref | None = None) -> int:
        """Give a version a name, which finds it and keeps it; a name moves from one to another.

        ``bus.checkout(version=name)`` is the state of the version, and a compaction keeps it. A tag
        is an entry of the log without a version of its own; it is as durable as a commit.

        Args:
            name: 1 to 255 bytes of text that can be printed, not digits alone.
            version: a version, or another name of one; the newest for None. Where that holds
                digests only, its bytes are logged first, in a commit that says the same: as when
                the bus is closed, its arrays must be as they were.

        Returns:
            The version.

        Raises:
            VersionError: no such version, or it has no bytes.
            TypeError, ValueError: a name that cannot be one.
            LocationError, ClosedError: as a commit.

        Cost: one small write.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for loss in (3.0, 1.0, 2.0):
        ...     commit = bus.commit({"loss": loss})
        >>> bus.tag("best", 2)
        2
        >>> bus.checkout(version="best")
        {'loss': 1.0}
        >>> bus.tags()
        {'best': 2}
        """
        check_tag(name)
        with self._events, self._lock:
            engine = self._enter("tag")
            if version is None and self._arrays.trees is not None:
                self._arrays.trees.save_last()
            chosen, log = self._session.version_of(version), self._session.log
            if chosen == 0:
                raise log.no_version(0)
            log.part_of(chosen)
            engine.writer.append_tags({name: chosen}, lambda: log.check_state(chosen))
            return chosen

    def untag(self, name: str) -> None:
        """Take a name away; the version is kept until a compaction drops it.

        Raises:
            VersionError: no version has that name.
            LocationError, ClosedError: as a commit.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> commit = bus.commit({"x": 1.0})
        >>> bus.tag("first")
        1
        >>> bus.untag("first")
        >>> bus.tags()
        {}
        """
        check_text("name", name, "a tag")
        with self._events, self._lock:
            engine = self._enter("untag")
            tags = self._session.log.tags()
            if name not in tags:
                raise no_tag(name, tags)
            engine.writer.append_tags({name: None})

    def tags(self) -> dict[str, int]:
        """The version that each tag names, by tag, sorted.

        Cost: the indexes of all segments, read once.

        >>> import mmsb_jax as mmsb
        >>> mmsb.open().tags()
        {}
        """
        with self._lock:
            self._session.settle()
            return self._session.log.tags()

    def fork(
        self,
        path: Any = None,
        ref: Ref | None = None,
        *,
        share: Literal["auto", "never"] = "auto",
        version: Ref | None = None,
        **options: Any,
    ) -> Self:
        """A bus of its own that begins with the versions up to ``ref`` (the newest for None).

        What was derived up to there is derived there too, by the same functions.

        Args:
            path: a directory for its log; in memory for None.
            ref: the last version that both have, or its tag; it goes on at the next.
            share: whether the two logs may have files in common, on one file system: sealed
                segments, snapshots and archives, which no log ever writes again. ``"auto"`` shares
                their blocks where the file system can (a reflink), else the file has a name more
                (a hard link), else it is copied. Damage to such a file is damage to both logs.
                ``"never"`` copies.
            version: another name of ``ref``.
            **options: ``durability`` and ``snapshots``, as in `mmsb_jax.open`; ``shadow``,
                ``memory_kind``, ``save`` and ``keep``, which are else those of this bus.

        Raises:
            VersionError: no such version, or a compaction dropped its data.
            LocationError: there is something at ``path``.

        Cost: in memory a copy of the log up to there. On disk some small files, and a copy of what
            was logged since the newest segment was begun; where that is much, it is sealed first
            and shared. Then the state is read, as by `mmsb_jax.open`.
        """
        check_choice("share", share, "auto", "never")
        if ref is not None and version is not None:
            raise ValueError(f"give one of ref and version; got {show(ref)} and {show(version)}")
        with self._events, self._lock:
            self._session.settle()
            chosen = self._session.version_of(version if ref is None else ref)
            choices = {name: now for name, now in self._choices.items() if name != "copy_to"}
            own = {name: options.pop(name, now) for name, now in choices.items()}
            check_shadow(own["shadow"])
            check_policy(own["save"])
            check_keep(own["keep"])
            check_place("memory_kind", own["memory_kind"])
            make = functools.partial(type(self), **own)
            until = self._shared_until(chosen) if share == "auto" and path is not None else None
            bus = fork(make, self._session.log, chosen, path, shared_until=until, **options)
            self._derived.attach_to_fork(bus._derived)
            return bus

    def _shared_until(self, version: int) -> int:
        """Up to which position a fork behind ``version`` may have segments in common with this."""
        engine = self._session.engine
        return surely_durable(self._session.log) if engine is None else engine.seal(version)

    # ----------------------------------------------------------------------------- other processes

    def subscribe(
        self,
        kind: str | Iterable[str],
        handler: Callable[[Event], Any],
        where: str | Sequence[str] | Callable[[Event], Any] | None = None,
    ) -> Subscription:
        """Call ``handler`` with the events of the commits that begin from now on.

        Args:
            kind: ``"deleted"``, ``"created"``, ``"resized"``, ``"delta"``, ``"changed"``,
                ``"stale"``, ``"recomputed"``, ``"device_sync"``, ``"compiler"``, ``"commit"``;
                several of them, or ``"*"``.
            handler: called with an `Event`, after the commit, on the thread that made it (for
                ``wait=False`` on a thread of the bus), one at a time, in the order of versions and
                subscriptions. It may use the bus. An exception in it is logged and kept; it stops
                neither the commit nor other handlers.
            where: patterns of arrays (``params/**``), or a function of the event.

        Returns:
            The subscription; ``.cancel()`` ends it, and so does leaving it as a context manager.

        Raises:
            ValueError, TypeError: no such kind; no function; no such ``where``.
            ClosedError: the bus is closed, or was opened with mode='r'.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> with bus.subscribe("changed", lambda event: print(event.array), where="w*"):
        ...     commit = bus.commit({"w": 1.0, "x": 2.0})
        w
        """
        self._session.writing()
        return self._events.subscribe(kind, handler, where)

    def follow(
        self, after: int | None = None, *, timeout: float | None = None, poll_s: float = 0.002
    ) -> Iterator[Commit]:
        """The commits behind ``after``, each once and in order, and those that land from now on.

        It sees whole commits only, at whatever durability, in the process that writes and beside
        it. It goes on when the writer begins another segment, compacts what was followed already,
        dies and comes back.

        Args:
            after: the version that the caller has; the newest one for None.
            timeout: end when nothing has landed for so many seconds; None waits for ever.
            poll_s: how long to wait between two looks.

        Raises:
            VersionError: there is no version ``after``; or commits behind it were compacted away
                before they were followed: the message says which.
            DivergenceError: what lands does not continue what was followed. The log lost its end
                in a power cut, or another one was put in its place.
            LocationError: the log was removed, or moved elsewhere.
            ClosedError: the bus was closed.

        Cost: a look that finds nothing asks for the size of the last segment, and whether the next
        is there (about 10 µs).

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for x in (1.0, 2.0):
        ...     commit = bus.commit({"x": x})
        >>> [commit.version for commit in bus.follow(after=0, timeout=0)]
        [1, 2]
        """
        if after is not None:
            check_number("after", after)
        with self._lock:
            self._session.settle()
            log = self._session.log
            follower = Follower(log, log.version if after is None else int(after))
        return follow(self._session, follower, self._commit_of, timeout, poll_s)

    @overload
    def export(self, since: int | None = None, path: None = None) -> bytes: ...

    @overload
    def export(self, since: int | None, path: str | os.PathLike[str]) -> Path: ...

    @overload
    def export(self, *, path: str | os.PathLike[str]) -> Path: ...

    def export(
        self, since: int | None = None, path: str | os.PathLike[str] | None = None
    ) -> bytes | Path:
        """The commits behind ``since`` as a stream, for `import_` or a `Replica` elsewhere.

        It ends at the newest durable version, so that no receiver is ahead of this log after a
        power cut; a bus that writes syncs first.

        Args:
            since: the version that the receiver has; 0 for all commits from the first on. None
                for a receiver that has nothing: the newest snapshot (or one made now), its commit,
                and the commits behind it.
            path: the file to write, put in place as a whole; bytes in memory for None.

        Returns:
            The bytes; with ``path``, the path.

        Raises:
            VersionError: there is no version ``since``, or commits behind it were compacted away;
                the message says which.
            LocationError: the file cannot be written.
            CorruptionError: a commit does not read back.

        Cost: one read of what is shipped; for None the state, once.

        >>> import mmsb_jax as mmsb
        >>> here, there = mmsb.open(), mmsb.open()
        >>> commit = here.commit({"w": 1.0})
        >>> [commit.version for commit in there.import_(here.export(since=0))]
        [1]
        >>> there.tree()
        {'w': 1.0}
        """
        if since is not None:
            check_number("since", since)
        place = None if path is None else Path(path_text("path", path))
        if place is not None and not place.name:
            raise LocationError(f"path={show(path)} is a directory. Give the path of a file.")
        return export(self._session.log, since, self._durable_now(), place)

    def import_(self, source: Buffer | str | os.PathLike[str]) -> list[Commit]:
        """Take in the commits of another bus: what `export` made, as bytes or a file.

        The whole stream is checked, as a chain, before anything changes. What is here already is
        skipped; the rest is appended with the chain, the digests and the time that it has there.
        The bytes of derived arrays are taken as they are: no function runs. A commit is all or
        nothing; where one does not fit, those before it stay.

        What is committed here afterwards is this bus's own: from then on the other's later commits
        are of another history.

        Args:
            source: the stream, or the path of a file of it.

        Returns:
            The commits that are new here.

        Raises:
            VersionError: the stream begins behind versions that are not here; the message says
                which are missing. Export with ``since=bus.version``.
            DivergenceError: the stream is of another history; the message says from which
                version on.
            CorruptionError: the stream is damaged or cut short; nothing has changed.
            LocationError: no such file; the disk is full or fails.
            StructureError: the stream begins with a snapshot in pages of another size.

        Cost: two reads of the stream; the bytes that changed, decoded, digested and written.
        """
        with self._events, self._lock:
            self._enter("import_")
            return take_in(self._session, self._arrays, source, self._commit_of)

    def to_safetensors(
        self,
        path: str | os.PathLike[str],
        ref: Ref | None = None,
        *,
        arrays: str | Sequence[str] = "**",
        rename: Rename | None = None,
    ) -> Path:
        """Write arrays of a version as one file of safetensors, put in place as a whole.

        Strings, functions and integers beyond 64 bits are left out; Python numbers are arrays
        without dimensions, keys of JAX their data. What the file says of itself (``__metadata__``)
        has the log's id, the version, its chain and digest (``mmsb_log_id`` and so on).
        `from_safetensors` reads it.

        Args:
            path: the file.
            ref: which version; the newest that has bytes for None.
            arrays: a name or patterns, as for `checkout`.
            rename: path in the bus → name in the file: a dict, of which a key is the path of an
                array or of a whole part; or a function of the path, such as
                ``lambda path: path.replace("/", ".")``.

        Returns:
            The path.

        Raises:
            VersionError: no such version, or its bytes were not logged or were dropped.
            ArrayNotFoundError: a pattern, or a path to be renamed, that is not there.
            StructureError: an array of a dtype that safetensors does not have (it has float8 and
                float4, and no integers of 4 bits), or that is stale; two with one name.
            LocationError: the file cannot be written.

        Cost: one write of what is selected; of the newest version, a copy of it in memory.

        >>> import os, tempfile
        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"params": {"w": jnp.ones(2)}, "step": 1})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = bus.to_safetensors(os.path.join(folder, "w.safetensors"), arrays="params")
        ...     mmsb.from_safetensors(path)
        {'params/w': array([1., 1.], dtype=float32)}
        """
        selection, place = Selection(arrays, rename), Path(path_text("path", path))
        if not place.name:
            raise LocationError(f"path={show(path)} is a directory. Give the path of a file.")
        return to_safetensors(self._session, place, ref, selection)

    def publish(
        self,
        path: str | os.PathLike[str],
        *,
        arrays: str | Sequence[str] = "**",
        rename: Rename | None = None,
        anchor_every: int = 50,
        encoding: Encoding = "xor",
        config: str | os.PathLike[str] | None = None,
    ) -> Publisher:
        """Weights for inference servers, version by version, in the form in which they pull them.

        `Publisher.push` puts a directory ``weight_v000001``, ``weight_v000002``, … in place: a
        checkpoint of safetensors, or what changed of one, as SGLang's ``/pull_weights`` reads it.
        Where the directory has versions already, they must be of this log, and it goes on behind
        them.

        Args:
            path: the directory; made where it is not there. It may be on a network.
            arrays, rename: what goes out, and what it is called there, as for `to_safetensors`.
                What servers want otherwise (transposed, cast, packed) is a derived array.
            anchor_every: after so many versions one is full again, from which a server can begin.
            encoding: how a version says what changed: ``"xor"``, or ``"overwrite"``, which takes
                more bytes, and may be applied twice.
            config: a directory whose files that are no weights (``config.json``, a tokenizer) go
                into every full version: servers have nothing but that.

        Raises:
            DivergenceError: what is there was published from another log, or from commits that
                this log does not have.
            LocationError: the directory cannot be made or read.

        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     publisher = bus.publish(folder, arrays="params/**")
        ...     for step in range(2):
        ...         _ = bus.commit({"params": {"w": jnp.arange(1000) + (jnp.arange(1000) < step)}})
        ...         pushed = publisher.push()
        ...         print(pushed.number, pushed.version, pushed.full, pushed.path.name)
        1 1 True weight_v000001
        2 2 False weight_v000002
        """
        selection = Selection(arrays, rename)
        check_publishing(anchor_every, encoding, config)
        return Publisher(
            self._session,
            self._durable_now,
            WeightDirectory(Path(path_text("path", path)).absolute()),
            selection,
            anchor_every,
            encoding,
            None if config is None else Path(path_text("config", config)),
        )

    def to_orbax(
        self,
        path: str | os.PathLike[str],
        *,
        refs: Ref | Iterable[Ref] | None = None,
        steps: int | Iterable[int] | None = None,
        arrays: Sequence[str] | None = None,
        like: Any = None,
    ) -> list[Path]:
        """Write versions as checkpoints of Orbax, which its ``CheckpointManager`` restores.

        Each is a directory in ``path`` that is called by its step (by the version, where no step
        was given), and is put in place as a whole. The numbers of the note are its metrics. What
        `from_orbax` read goes out again as the items that it was; else the tree has no name, or is
        the item ``state`` beside one called ``extra``, where a version has an ``extra`` in force.

        Args:
            path: a directory, made where it is not there.
            refs: which versions; one or several.
            steps: which steps, instead: the newest version of each. The newest version for neither.
            arrays: patterns of leaves (``params/**``), as for `checkout`; all of the tree for None.
            like: a tree that gives classes and shardings, as for `checkout`. Without it Orbax gets
                nested dicts and lists, which it makes of any class.

        Returns:
            The directories.

        Raises:
            StructureError: leaves that Orbax cannot save (functions, arrays without elements, whole
                numbers beyond 64 bits, some dtypes), or tells apart by nothing; all are named, and
                nothing was written.
            VersionError: no such version or step, or its bytes are not there.
            LocationError: a step is there already. Nothing was written.
            ImportError: Orbax is not installed.

        Cost: for each version a checkout, and Orbax's save. One state is in memory at a time.
        """
        return to_orbax(self._session, self._commit_of, path, refs, steps, arrays, like)

    def _durable_now(self) -> int:
        """The newest durable version; where this bus writes, that is the newest."""
        with self._events, self._lock:
            if self._session.engine is None:
                return self.durable_version
            engine = self._enter("export")
            self._arrays.record_pending()
            return engine.writer.sync()

    # ------------------------------------------------------------------------------- the whole log

    def snapshot(self) -> None:
        """Make a full copy of the newest version, so that a checkout has a near start.

        Raises:
            VersionError: it holds digests only; the message names the nearest with bytes.
        """
        with self._events, self._lock:
            engine = self._enter("snapshot")
            engine.log.check_saved(engine.log.version)
            self._arrays.record_pending()
            engine.snapshot()

    def sync(self) -> int:
        """Make every commit so far survive a power cut; returns the newest durable version."""
        with self._events, self._lock:
            engine = self._enter("sync")
            self._tree_writer().give_up()
            if engine.head.is_saved:
                self._arrays.record_pending()
            return engine.writer.sync()

    def compact(self, *, keep_since: Ref, dry_run: bool = False) -> CompactReport:
        """Give up the bytes of old versions: keep from ``keep_since`` on, and what is tagged.

        `mmsb_jax.open` has ``keep=`` to do so by itself; what that policy keeps is kept here too.

        The state right before ``keep_since`` is kept as a snapshot, and so is that of each tagged
        version, with its ``extra``. Of the others stays what their commits say: `log` lists them,
        the chain through them can be verified, and `checkout` raises `VersionError`, which names
        the nearest that can be had. A crash leaves the log as it was or as it is to be. Readers
        go on.

        Args:
            keep_since: the oldest version to keep in full, or its tag.
            dry_run: only say what it would do: both sizes are then those of the run.

        Raises:
            VersionError: no such version.
            CorruptionError: what is to be kept does not read back; nothing was changed.
            LocationError: the disk is full or fails; the log is as it was.

        Cost: a checkout of each state that is kept, what the commits say that are dropped (10,000
        in seconds), a copy of one segment. The bus is held meanwhile.

        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> for number in range(100):
        ...     commit = bus.commit({"x": float(number)}, step=number)
        >>> bus.tag("best", 40)
        40
        >>> report = bus.compact(keep_since=91)
        >>> report.kept, report.dropped
        ((40, 90), 90)
        >>> bus.checkout(version="best")
        {'x': 39.0}
        >>> len(list(bus.log()))
        100
        >>> bus.checkout(version=50)
        Traceback (most recent call last):
        ...
        mmsb_jax.VersionError: the data of version 50 were dropped when the log was ...
        """
        check_flag("dry_run", dry_run)
        with self._events, self._lock:
            engine = self._enter("compact")
            chosen = self._session.version_of(keep_since)
            with engine.lock:
                if not dry_run and not engine.copy_all():
                    raise LocationError(
                        f"nothing was compacted: the copy does not have what would go, since it "
                        f"failed ({engine.copier and engine.copier.fault}). Mend it, or open the "
                        f"log without copy_to=."
                    )
                return compact(
                    engine.writer,
                    chosen,
                    also=() if engine.keeper is None else engine.keeper.choose(),
                    dry_run=dry_run,
                    executor=self._session.threads,
                    began_segment=engine.head.begin_segment,
                )

    def verify(
        self,
        progress: Callable[[int, int], None] | None = None,
        *,
        deep: bool = False,
        derive: bool = False,
    ) -> VerifyReport:
        """Read, replay and check everything: a report, true when all is well.

        Args:
            progress: called with (versions done, versions in all).
            deep: also digest, at every version, the arrays that it touched from scratch: finds a
                commit whose bytes never were what it says, where a later one has covered them.
            derive: also compute every derived array of the newest version anew, twice, and compare
                the bytes: finds functions that are not pure.

        Cost: one read of the whole log and one replay; with ``deep``, a digest of each array that a
        commit touched, a commit; with ``derive``, two runs of every function.
        """
        check_function("progress", progress)
        check_flag("deep", deep)
        check_flag("derive", derive)
        with self._events, self._lock:
            self._session.settle()
            report = verify(self._session.log, progress, self._session.threads, deep)
            if derive:
                report.faults += self._derived.check()
            return report

    def stats(self) -> Stats:
        """What the bus holds and has done."""
        with self._events, self._lock:
            trees = self._arrays.trees
            if trees is None:
                return self._session.stats(MadePrograms(), copied_bytes=0, device_bytes=0)
            return self._session.stats(trees.programs, trees.copied_bytes, trees.device_bytes)

    def reset_stats(self) -> None:
        """Begin counting commits again."""
        self._session.writing().meter.reset()

    def close(self) -> None:
        """Let what is queued land, sync, and give the log back. A second call does nothing.

        Where an interrupt cuts it short, a second call goes on. In a forked child it does nothing:
        the bus is the parent's.

        Raises:
            whatever made a commit with ``wait=False`` fail; the bus is closed all the same.
        """
        session, engine = self._session, self._session.engine
        if session.is_forked:
            return
        if engine is not None and engine.is_open:
            with self._events, self._lock:
                engine.queue.settle()
                with contextlib.suppress(Exception):  # below it is tried again, and says why
                    self._arrays.finish()
            self._events.drain()  # handlers may use the bus, as long as it is open
        try:
            with self._events, self._lock:
                if engine is None:
                    session.close_reader()
                else:
                    engine.close([self._arrays.finish])
        finally:
            if engine is None or engine.is_released:
                self._arrays.preemption.end()
                self._end.detach()
                self._events.close()

    def __enter__(self) -> "Bus":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextlib.contextmanager
def _reading(other: "Bus | str | os.PathLike[str]") -> Iterator[Log]:
    """The log of a bus once all has landed, or that in a directory."""
    if not isinstance(other, Bus):
        with log_to_read(other) as log:
            yield log
        return
    with other._lock:
        other._session.settle()
    yield other._session.log


def _warn_of_unsaved(version: int, newest: int) -> None:
    passed = f"version {newest} holds"
    if newest > version + 1:
        passed = f"versions {version + 1} to {newest} hold"
    warnings.warn(
        f"resume goes on from version {version}, the newest with bytes: {passed} digests only",
        stacklevel=3,
    )


def _end(
    engine: Engine | None,
    files: Files,
    threads: Threads,
    pending: PendingArrays,
    preemption: Preemption,
) -> None:
    """What is left to do for a bus that nobody closed: when it goes, or the process does.

    Any thread may be the one that collects it, in the middle of anything: so no program of JAX is
    run, and a tree of which digests alone were logged is left so.
    """
    if engine is None:
        threads.shutdown()
        files.close()
        return

    if (engine.queue.is_run_here or engine.writer.is_run_here) and start_thread(
        lambda: _end(engine, files, threads, pending, preemption), "mmsb-close"
    ):
        return  # collected at one of its own commits, for which it has to wait

    preemption.end()

    def record_pending() -> None:
        if pending:
            engine.land(Draft(ops=pending.ops()))

    with contextlib.suppress(Exception):
        engine.close([record_pending])
