"""Giving up the bytes that a policy does not keep, beside the commits that go on."""

import threading
import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from typing import Any

from mmsb_jax._base.arguments import show
from mmsb_jax._bus.saving.keep import Keep, KeepPolicy, number_in
from mmsb_jax._store.commit.head import Head
from mmsb_jax._store.maintain.compact import compact_beside
from mmsb_jax._store.maintain.cut import best_cut
from mmsb_jax._store.query.annotations import annotated, is_annotation
from mmsb_jax._store.query.commit import Commit, read_commit
from mmsb_jax._store.query.commits import Commits
from mmsb_jax._store.query.superseded import is_in, superseded_in
from mmsb_jax._store.writer.writer import LogWriter


class Keeper:
    """Keeps what a policy chooses of a log.

    Args:
        policy: as for `mmsb_jax.open`.
        writer: the log's writer.
        head: its newest state.
        executor: where to decode and digest side by side.

    Attributes:
        fault: why the last run came to nothing; None when all was well.
        unranked: versions that no `Best` could rank at the last run.
        runs: how often something was given up.
        thread: the thread in which the policy is asked; None where it is not.
    """

    def __init__(
        self, policy: KeepPolicy, writer: LogWriter, head: Head, executor: Executor
    ) -> None:
        self._policy = policy
        self._writer = writer
        self._log = writer.log
        self._head = head
        self._executor = executor
        self.fault: str | None = None
        self.unranked = 0
        self.runs = 0
        self.thread: int | None = None

    def run(self, until: int | None = None) -> None:
        """Give up what is not kept, where that frees more than it writes.

        Args:
            until: the newest version that may go; None for any.
        """
        known = self._log.version  # what is committed while the policy chooses may not go
        try:
            chosen = self.choose()
            until = known if until is None else min(known, until)
            cut = best_cut(self._log, chosen, self._head.state_bytes, until)
            if cut is not None and compact_beside(
                self._writer, cut.keep_since, chosen, self._executor
            ):
                self.runs += 1
            self.fault = None
        except (Exception, SystemExit) as error:  # whatever a policy raises
            self._tell(f"nothing was given up: {error!r}")

    def _tell(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            warnings.warn(f"keep={show(self._policy)}: {fault}", stacklevel=2)

    def choose(self) -> set[int]:
        """The versions whose bytes are kept."""
        versions, known = self._with_bytes(), dict[int, Commit]()

        def read(version: int) -> Commit:
            if version not in known:
                known[version] = self._commit_of(version)
            return known[version]

        commits = Commits(versions, read)
        self.thread = threading.get_ident()
        try:
            said = list(_iterated(self._policy(commits)))
        finally:
            self.thread = None
        chosen = {_checked(commit, known).version for commit in said}
        if isinstance(self._policy, Keep):
            bests = self._policy.bests
            self.unranked = sum(number_in(c, b.name) is None for b in bests for c in commits)
        return chosen | set(versions[-1:])

    def _with_bytes(self) -> list[int]:
        """The versions whose state can be had, and that are not superseded; ascending."""
        spans = superseded_in(self._head.state.table.graph)
        return [
            version
            for version in self._log.with_bytes()
            if not is_in(spans, version) and not is_annotation(self._log, version)
        ]

    def _commit_of(self, version: int) -> Commit:
        writer = self._writer
        commit = read_commit(self._log, version, lambda: writer.durable_version)
        return annotated(commit, self._head.state.table.graph)


def _iterated(said: Any) -> Iterable[Any]:
    if not isinstance(said, Iterable):
        raise TypeError(f"the policy returned {show(said)}. Expected commits.")
    return said


def _checked(commit: Any, known: Mapping[int, Commit]) -> Commit:
    """A commit that a policy has returned, which must be one that it was given."""
    if not isinstance(commit, Commit) or known.get(commit.version) != commit:
        raise TypeError(
            f"the policy returned {show(commit)}. Expected some of the commits that it was given."
        )
    return commit
