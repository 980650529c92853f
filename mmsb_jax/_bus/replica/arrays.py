"""The arrays of a replica at one version, and how commits bring them to a later one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmsb_jax._base.errors import DivergenceError
from mmsb_jax._bus.replica.resident import Pending, ResidentArray, place_array
from mmsb_jax._bus.trees import checkout as checkouts
from mmsb_jax._bus.trees.recorded import is_weak, statics_in
from mmsb_jax._bus.trees.tree import constant_of
from mmsb_jax._core.tree.leaves import Constant, describe
from mmsb_jax._core.tree.paths import flatten_with_names, put_together
from mmsb_jax._store.encoding.decode import check_extent
from mmsb_jax._store.encoding.digest import ZERO
from mmsb_jax._store.format.data import CommitFrames
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import FULL, ArrayInfo, CommitRecord
from mmsb_jax._store.state.state import StoredState, Table

Recorded = dict[str, ArrayInfo | Constant]


class ReplicaArrays:
    """Arrays at one version; nothing in here changes.

    Attributes:
        table: what is known of the state that they belong to.
        tree: the arrays as the caller has them.
    """

    def __init__(
        self, table: Table, held: dict[int, ResidentArray], tree: Any, structure: "Structure"
    ) -> None:
        self.table = table
        self.tree = tree
        self._held = held
        self._structure = structure

    @classmethod
    def of(cls, state: StoredState, like: Any, patterns: Sequence[str] | None) -> "ReplicaArrays":
        """Those of ``state``, in the structure and the places of ``like``."""
        wanted, table = checkouts.wanted_names(patterns), state.table
        tree = checkouts.build_like(state, like, wanted, patterns, "error")
        structure = Structure(table, wanted, like, patterns)
        held = {}
        for leaf, (info, template) in zip(
            flatten_with_names(tree)[1], structure.leaves, strict=True
        ):
            if isinstance(info, ArrayInfo):
                spec = checkouts.spec_like(info, describe(template, info.name))
                sharding = checkouts.sharding_of(template, spec)
                held[info.id] = place_array(leaf, state.words[info.id], spec, sharding)
        _check_lanes(table, held)
        return cls(table, held, structure.build(table, held), structure)

    @property
    def are_there(self) -> bool:
        """Whether the caller has donated none of them."""
        return all(held.is_there for held in self._held.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(self.table.arrays[array_id].nbytes for array_id in self._held)

    def after(self, commits: Iterable[CommitFrames], place: str) -> "ReplicaArrays | None":
        """The arrays after ``commits``; None where these lead to another structure."""
        state = StoredState(self.table.log_id, lambda _: False)
        state.table = table = self.table.copied()
        pending: dict[int, Pending] = {}
        for commit in commits:
            if commit.record.previous_chain != table.chain:
                raise DivergenceError(
                    f"{place}: version {commit.record.version} does not continue version "
                    f"{table.version} of the replica. Make a new Replica."
                )
            self._gather(commit, table, pending)
            state.apply(commit.record, commit.chain, commit.chunks)
        if not self._structure.is_of(table):
            return None
        if table.digest() != table.state_digest:
            raise BadFrameError("the state does not have the digest recorded")
        fresh = {array_id: self._held[array_id].after(what) for array_id, what in pending.items()}
        _check_lanes(table, fresh)
        held = self._held | fresh
        return ReplicaArrays(table, held, self._structure.build(table, held), self._structure)

    def _gather(self, commit: CommitFrames, table: Table, pending: dict[int, Pending]) -> None:
        """Note what a commit does to the arrays here; ``table`` is that before it."""
        record: CommitRecord = commit.record
        parts, stop = None, 0
        for array_id, base, chunks, flags in zip(
            *(record.records[name].tolist() for name in ("id", "base", "chunks", "flags")),
            strict=True,
        ):
            start, stop = stop, stop + chunks
            if array_id not in self._held or not chunks:
                continue
            if not flags & FULL and table.bases.get(array_id, 0) != base:
                raise BadFrameError(f"a record of version {record.version} builds on another")
            parts = commit.chunks() if parts is None else parts
            check_extent(record.chunks[start:stop], table.arrays[array_id].nbytes)
            known = pending.setdefault(array_id, Pending())
            if flags & FULL:
                known.is_whole = True
                known.chunks.clear()
            known.chunks += zip(record.chunks[start:stop], parts[start:stop], strict=True)


def _check_lanes(table: Table, held: dict[int, ResidentArray]) -> None:
    """Compare digests, from scratch, with those recorded."""
    for one in held.values():
        one.begin_digest()  # all are on their way before one is waited for
    for array_id, one in held.items():
        if one.lanes() != table.lanes.get(array_id, ZERO):
            name = table.arrays[array_id].name
            raise BadFrameError(f"the bytes of {name!r} do not have the digest recorded")


class Structure:
    """What `like` stands for in a log: which leaf is which array."""

    def __init__(
        self,
        table: Table,
        wanted: Callable[[str], bool] | None,
        like: Any,
        patterns: Sequence[str] | None,
    ) -> None:
        self._wanted = wanted
        self._recorded = checkouts.recorded_in(table, wanted)
        names, templates, self._treedef = flatten_with_names(like)
        prefix = checkouts.prefix_of(names, self._recorded, patterns)
        self._names = checkouts.absolute_names(names, prefix)
        self._statics = self._statics_in(table)
        self.leaves = [
            (self._recorded[name], leaf) for name, leaf in zip(self._names, templates, strict=True)
        ]

    def _statics_in(self, table: Table) -> dict[str, str]:
        """What is recorded of the wanted part that is no leaf."""
        statics = statics_in(table) or {}
        return {p: text for p, text in statics.items() if self._wanted is None or self._wanted(p)}

    def is_of(self, table: Table) -> bool:
        """Whether the state of ``table`` has this structure; strings and integers may differ."""
        now = checkouts.recorded_in(table, self._wanted)
        return (
            self._statics_in(table) == self._statics
            and now.keys() == self._recorded.keys()
            and all(
                now[name] == known or _is_value(now[name], known)
                for name, known in self._recorded.items()
            )
        )

    def build(self, table: Table, held: dict[int, ResidentArray]) -> Any:
        """The tree of the arrays ``held`` and of the constants of ``table``."""
        leaves = []
        for name, (info, template) in zip(self._names, self.leaves, strict=True):
            if isinstance(info, ArrayInfo):
                leaves.append(held[info.id].shown(is_weak(table, name)))
                continue
            constant = constant_of(table.values[name])
            leaves.append(template if constant.kind == "function" else constant.value)
        return put_together(self._treedef, leaves, "`like`")


def _is_value(now: ArrayInfo | Constant, known: ArrayInfo | Constant) -> bool:
    return (
        isinstance(now, Constant)
        and isinstance(known, Constant)
        and now.kind == known.kind
        and now.kind in ("str", "int")
    )
