"""The kinds of events: one line of a table each, in the order in which those of a commit come."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mmsb_jax._bus.derive.transaction import DerivationTransaction
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.format.record import OpCode
from mmsb_jax._store.query.commit import Commit


class CommitOutcome(NamedTuple):
    """What a commit was asked to do, what it did to derived arrays (None: nothing), and itself."""

    draft: Draft
    derived: DerivationTransaction | None
    commit: Commit


Row = tuple[str | None, str | None, bool | None]
"""What an event says of an array: its name, the source of an edge, whether a byte changed."""


def _made(code: OpCode) -> Callable[[CommitOutcome], Iterable[Row]]:
    return lambda it: _named(sorted(op.info.name for op in it.draft.ops if op.code is code))


def _named(names: Iterable[str]) -> Iterable[Row]:
    return ((name, None, None) for name in names)


def _edges(kind: str) -> Callable[[CommitOutcome], Iterable[Row]]:
    def rows(it: CommitOutcome) -> Iterable[Row]:
        found = () if it.derived is None else it.derived.edges(kind, it.commit.changed)
        return ((child, parent, None) for child, parent in sorted(found))

    return rows


def _stale(it: CommitOutcome) -> Iterable[Row]:
    return _named(() if it.derived is None else sorted(it.derived.stale))


def _recomputed(it: CommitOutcome) -> Iterable[Row]:
    differing = set(it.commit.changed)
    names = () if it.derived is None else it.derived.recomputed
    return ((name, None, name in differing) for name in names)


def _once(happened: bool) -> Iterable[Row]:
    return [(None, None, None)] if happened else []


EVENT_KINDS: Mapping[str, Callable[[CommitOutcome], Iterable[Row]]] = {
    "deleted": _made(OpCode.DELETE),
    "created": _made(OpCode.CREATE),
    "resized": _made(OpCode.UPDATE),
    "delta": lambda it: _once(bool(it.draft.patches)),
    "changed": lambda it: _named(it.commit.changed if it.commit.saved else ()),
    "stale": _stale,
    "recomputed": _recomputed,
    "device_sync": _edges("device_sync"),
    "compiler": _edges("compiler"),
    "commit": lambda it: _once(True),
}
"""Kind → what the events of a commit say; `docs/graph.md` says what each is for."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a commit did.

    Attributes:
        kind: what has happened; `Bus.subscribe` lists the kinds.
        version, time_ns: of the commit.
        array: the array that it is about; None for ``commit`` and ``delta``.
        source: the changed array that an edge comes from (``device_sync``, ``compiler``).
        changed: whether a byte of a ``recomputed`` array changed; None for other kinds.
        commit: the commit; None for an event that was made without one.

    >>> Event("changed", version=3, time_ns=0, array="params/w").names
    ('params/w',)
    """

    kind: str
    version: int
    time_ns: int
    array: str | None = None
    source: str | None = None
    changed: bool | None = None
    commit: Commit | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays that it is about: one, or all that the commit changed."""
        if self.array is not None:
            return (self.array,)
        return self.commit.changed if self.commit is not None else ()


def events_of(outcome: CommitOutcome, wanted: Iterable[str]) -> list[Event]:
    """The events of one commit of the kinds that are ``wanted``, in order."""
    commit, kinds = outcome.commit, frozenset(wanted)
    return [
        Event(kind, commit.version, commit.time_ns, *row, commit=commit)
        for kind, rows in EVENT_KINDS.items()
        if kind in kinds
        for row in rows(outcome)
    ]
