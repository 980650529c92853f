"""Versions written anew: what is shown to be right of them, under digests that are right.

A commit that names a wrong digest cannot be copied: its meta is in the chain. So from there on a
repaired log is a history of its own, which says of every version what the old one did, but for the
arrays that are left out.
"""

import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

import numpy as np

from mmsb_jax._base.patterns import matcher
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.head import Head
from mmsb_jax._store.format.record import DIGEST, GRAPH_PREFIX, ArrayInfo, CommitRecord, Op, OpCode
from mmsb_jax._store.state.state import StoredState, Table

_RULE, _LINK, _STALE = (f"{GRAPH_PREFIX}{kind}/" for kind in ("derive", "link", "stale"))


class Anew:
    """Writes versions of one history as those of another.

    Args:
        head: the head of the log to write; its state is that at the version before, or an empty
            one.
        ids: id there → id here of its arrays.
    """

    def __init__(self, head: Head, ids: dict[int, int]) -> None:
        self._head = head
        self._ids = ids
        self._unproven: Set[int] = frozenset()

    def write(
        self,
        state: StoredState,
        record: CommitRecord,
        extra: tuple[bytes | None, bool],
        unproven: Set[int],
        absent: Set[int],
        aside: Mapping[int, np.ndarray],
    ) -> None:
        """Append a version.

        Args:
            state: the state after it.
            record: what its commit says.
            extra: the caller's blob, and whether it is JSON.
            unproven: the arrays that are not shown to be right.
            absent: those of them to leave out.
            aside: the bytes that a version without all of its own has of some arrays.
        """
        table = state.table
        if not record.is_saved:
            self._write_digests(table, record, extra, aside)
            return
        arrays = {i: info for i, info in table.arrays.items() if i not in absent}
        ops = list(self._ops(arrays))
        made = {op.info.id for op in ops if op.code is OpCode.CREATE}
        # What is shown to be right again may have come from a snapshot.
        touched = {*record.touched(), *self._unproven}
        self._unproven = frozenset(unproven)
        draft = replace(
            _said(record, extra),
            ops=ops,
            contents={
                self._ids[i]: state.bytes_of(i)
                for i in arrays
                if i in touched or self._ids[i] in made
            },
            values=self._values(table, [table.arrays[i].name for i in absent]),
        )
        self._head.commit(draft)

    def _write_digests(
        self,
        table: Table,
        record: CommitRecord,
        extra: tuple[bytes | None, bool],
        aside: Mapping[int, np.ndarray],
    ) -> None:
        """Append a version of which digests are known, and the bytes of few arrays."""
        kept = [row for row in record.digests.tolist() if row[0] in self._ids]
        rows = sorted((self._ids[array_id], *rest) for array_id, *rest in kept)
        draft = replace(
            _said(record, extra),
            values=self._values(table, []),
            contents={self._ids[i]: raw for i, raw in aside.items() if i in self._ids},
        )
        self._head.land_digests(np.array(rows, DIGEST), draft)

    def keep_page_versions(self, state: StoredState) -> None:
        """Take over when each page changed, which a version that makes all of a state forgets."""
        pages = self._head.state.page_versions
        for there, here in self._ids.items():
            pages[here][...] = state.page_versions[there]

    def _ops(self, arrays: dict[int, ArrayInfo]) -> Iterator[Op]:
        """What brings the table to ``arrays``, which have the ids of the other history."""
        known, next_id = self._head.state.table.arrays, self._head.state.table.next_id
        for array_id in sorted(self._ids.keys() - arrays.keys()):
            yield Op(OpCode.DELETE, known[self._ids.pop(array_id)])
        for array_id, info in arrays.items():
            if array_id not in self._ids:
                self._ids[array_id] = next_id
                next_id += 1
                yield Op(OpCode.CREATE, replace(info, id=self._ids[array_id]))
            elif (here := replace(info, id=self._ids[array_id])) != known[here.id]:
                yield Op(OpCode.UPDATE, here)

    def _values(self, table: Table, absent: list[str]) -> dict[str, str | None]:
        """What brings the constants, and the entries of the graph, to those of ``table``."""
        here = self._head.state.table
        before = here.values | here.graph
        after = table.values | _graph_without(table.graph, absent)
        gone = dict.fromkeys(before.keys() - after.keys())
        return gone | {name: v for name, v in after.items() if before.get(name) != v}


def _said(record: CommitRecord, extra: tuple[bytes | None, bool]) -> Draft:
    """A draft that says what a commit said."""
    return Draft(
        step=record.step,
        source=record.source,
        note=record.note,
        time_ns=record.time_ns,
        extra=extra[0],
        extra_is_json=extra[1],
    )


def _graph_without(graph: dict[str, str], absent: list[str]) -> dict[str, str]:
    """The entries of a graph, but for the rules and links of arrays that are left out."""
    gone = set()
    for entry, text in graph.items() if absent else ():
        if entry.startswith(_RULE) and _rule_mentions(text, absent):
            gone |= {entry, _STALE + entry.removeprefix(_RULE)}
        elif entry.startswith(_LINK):
            pair = _parsed(entry.removeprefix(_LINK).removesuffix(text))
            if isinstance(pair, list) and any(name in pair for name in absent):
                gone.add(entry)
    return {entry: text for entry, text in graph.items() if entry not in gone}


def _rule_mentions(text: str, names: list[str]) -> bool:
    """Whether a rule makes or reads one of the arrays; one that does not parse does not."""
    rule = _parsed(text)
    try:
        reads, makes = matcher(rule["inputs"]), rule["arrays"]
        return any(name in makes or reads.fullmatch(name) for name in names)
    except (KeyError, TypeError):
        return False


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
