"""Steps of a run that are taken again, and held against what the log says of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import DigestMismatchError, StructureError, VersionError
from mmsb_jax._bus.derive.log_entries import is_of_graph, rules_in
from mmsb_jax._bus.engine.process import this_process
from mmsb_jax._bus.saving.digests import Digesting
from mmsb_jax._bus.trees.tree import TreeShape, differences
from mmsb_jax._store.encoding.digest import ZERO
from mmsb_jax._store.format.record import PROGRAM_PREFIX, CommitRecord
from mmsb_jax._store.log.in_force import process_at, says
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.annotations import are_annotations
from mmsb_jax._store.query.superseded import is_in, last_saved_outside, superseded_at
from mmsb_jax._store.state.state import Table

Step = Callable[[Any, Any], tuple[Any, Any]]
"""A step of a run: (state, extra) → (state, extra)."""


def check_step(step: Any) -> None:
    """Refuse what is no function."""
    if not callable(step):
        raise TypeError(f"step={show(step)}: expected a function (state, extra) → the same")


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What came of taking steps again; truthy where all are as they were.

    Attributes:
        since: the version that was begun with.
        until: the last version that was reached.
        steps: steps that were taken and are as they were.
        mismatch: the first that is not; None where all are.
    """

    since: int
    until: int
    steps: int
    mismatch: DigestMismatchError | None

    def __bool__(self) -> bool:
        return self.mismatch is None

    def __str__(self) -> str:
        if self.mismatch is None:
            return f"{self.steps} steps from version {self.since} on gave the digests recorded"
        return f"{self.steps} steps from version {self.since} on, and then: {self.mismatch}"


def origin_of(log: Log, version: int) -> int:
    """The newest version with bytes before ``version``, in its lineage.

    Raises:
        VersionError: there is none.
    """
    if found := last_saved_outside(log, superseded_at(log, version), version - 1):
        return found
    raise VersionError(
        f"version {version} has no version with bytes before it, from which to take steps again."
    )


class Rerun:
    """Steps taken again, one by one, from a version with bytes.

    Args:
        log: the log.
        step: takes a step.
        page_bytes: bytes of a page.
    """

    def __init__(self, log: Log, step: Step, page_bytes: int) -> None:
        self._log = log
        self._step = step
        self._page_bytes = page_bytes
        self._shape: TreeShape | None = None
        self._taken = 0

    @property
    def taken(self) -> int:
        """Steps that were taken, and are as they were."""
        return self._taken

    def run(self, state: Any, extra: Any, since: int, until: int, check: bool) -> tuple[Any, Any]:
        """The state and the ``extra`` after ``until``, from those after ``since``; as `walk`."""
        made = state, extra
        for _, *after in self.walk(state, extra, since, until, check):
            made = after[0], after[1]
        return made

    def walk(
        self, state: Any, extra: Any, since: int, until: int, check: bool
    ) -> Iterator[tuple[int, Any, Any]]:
        """Each version that a step leads to, with the state and the ``extra`` after it.

        Raises:
            DigestMismatchError: a step gives another state than the one recorded.
            StructureError: a step gives another structure; a commit between is of no tree.
        """
        for version, table in self._tables(since, until):
            try:
                made = self._step(state, extra)
            except Exception as error:
                error.add_note(f"raised by the step to version {version}")
                raise
            if not isinstance(made, tuple) or len(made) != 2:
                raise TypeError(
                    f"the step to version {version} returned {show(made)}: expected a tuple of the "
                    f"state and the extra"
                )
            state, extra = made
            if check:
                self._check(state, table, version)
            self._taken += 1
            yield version, state, extra

    def _tables(self, since: int, until: int) -> Iterator[tuple[int, Table]]:
        """The versions on the way, each with the table after it."""
        log, table = self._log, self._log.table(since)
        spans, before = superseded_at(log, until), log.record(since)
        for version in range(since + 1, until + 1):
            if is_in(spans, version):
                continue
            found = log.find(version)
            is_step = _is_step(found.record, table, version)
            is_step = is_step and not _is_of_bytes(found.record, before, table)
            before = found.record
            table.advance(found.record, found.chain)
            if is_step:
                yield version, table

    def _check(self, state: Any, table: Table, version: int) -> None:
        found = None if self._shape is None else self._shape.data_of(state)
        if found is None:
            self._shape = TreeShape(state, self._page_bytes)
            differing = differences(table, self._shape)
            if differing:
                listed = "\n".join(f"  {line}" for line in differing)
                raise StructureError(
                    f"the step to version {version} gives another structure than was committed:\n"
                    f"{listed}"
                )
            data = self._shape.data_leaves(state)
        else:
            data, _ = found
        assert self._shape is not None
        names = self._shape.names
        rows = Digesting(data, range(len(data)), names).rows()
        differing = [
            name for i, name in enumerate(names) if rows[i][:2] != table.lanes_now(table.ids[name])
        ]
        if differing:
            then, now = process_at(self._log, version), this_process(data)
            others = [name for name in then if not says(then[name], now.get(name, ""))]
            raise DigestMismatchError(
                version,
                self._log.row(version).step,
                tuple(differing),
                {name: then[name] for name in others},
                {name: now.get(name, "") for name in others},
            )


def _is_of_bytes(record: CommitRecord, before: CommitRecord, table: Table) -> bool:
    """Whether a commit only has the bytes of the one ``before``, of which digests were logged.

    Args:
        record: the commit.
        before: that of the version before it.
        table: that before it.
    """
    said, said_before = ((r.step, r.source, r.note) for r in (record, before))
    if before.is_saved or not record.is_saved or record.ops or said != said_before:
        return False
    after = {row[0]: (row[2], row[3]) for row in record.rows()}
    return all(
        after.get(i, table.lanes.get(i, ZERO)) == table.lanes_now(i)
        for i in after.keys() | table.ahead.keys()
        if i in table.arrays and table.arrays[i].member
    )


def _is_step(record: CommitRecord, table: Table, version: int) -> bool:
    """Whether a commit is one of the tree, which a step makes; not one of the graph.

    Raises:
        StructureError: it is of arrays by name.
    """
    infos = table.arrays | {op.info.id: op.info for op in record.ops}
    touched = [infos[i] for i in record.touched() if i in infos]
    if any(info.member for info in (*touched, *(op.info for op in record.ops))):
        return True
    derived = {name for rule in rules_in(table.graph | _set_by(record)) for name in rule.arrays}
    others = [info.name for info in touched if not info.name.startswith(PROGRAM_PREFIX)]
    written = [name for name in others if name not in derived]
    if written:
        raise StructureError(
            f"version {version} wrote {written[0]!r}, which is no part of the tree: no step makes "
            f"it again. Take steps from a version behind it."
        )
    is_said_later = are_annotations(record.values)
    return not (record.ops or touched or is_said_later or is_of_graph(record.values))


def _set_by(record: CommitRecord) -> dict[str, str]:
    return {name: value for name, value in record.values.items() if value is not None}
