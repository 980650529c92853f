"""Superseded commits: those that a run left behind when it went back and on from an older version.

They stay in the log as they are. An entry among the constants says which they are, seen from the
version that has it: so a version that is superseded itself sees what led to it.
"""

import json
from collections.abc import Mapping
from typing import Any

from mmsb_jax._base.errors import CorruptionError
from mmsb_jax._base.strict_json import parse_json
from mmsb_jax._store.format.record import GRAPH_PREFIX
from mmsb_jax._store.log.log import Log

_ENTRY = f"{GRAPH_PREFIX}lineage"

Spans = tuple[tuple[int, int], ...]
"""First and last version of each run of superseded ones, ascending."""


def superseded_in(graph: Mapping[str, str]) -> Spans:
    """The versions that are superseded, by what is recorded of the graph of a state."""
    text = graph.get(_ENTRY)
    if text is None:
        return ()
    try:
        spans = tuple((first, last) for first, last in parse_json(text))
    except (TypeError, ValueError):
        spans = None
    if spans is None or not _ascend([number for span in spans for number in span]):
        raise CorruptionError(
            f"{text[:80]!r} is recorded as the versions that are superseded, and is none of that"
        )
    return spans


def _ascend(ends: list[Any]) -> bool:
    """Whether these are first and last versions of runs, each behind the one before it."""
    if not all(type(end) is int for end in ends):
        return False
    pairs = list(zip(ends[::2], ends[1::2], strict=True))
    return all(first <= last for first, last in pairs) and all(
        before < first for before, first in zip([0, *ends[1::2]], ends[::2], strict=False)
    )


def is_in(spans: Spans, version: int) -> bool:
    """Whether a version is one of the superseded ones."""
    return any(first <= version <= last for first, last in spans)


def superseded_at(log: Log, version: int) -> Spans:
    """The versions that are superseded as seen from ``version``.

    Cost: the nearest snapshot and the commits behind it, without the bytes of arrays.
    """
    return superseded_in(log.table(version).graph)


def last_saved_outside(log: Log, spans: Spans, version: int) -> int:
    """The newest version up to ``version``, in none of some spans, whose bytes can be had; or 0."""
    while version > 0 and (found := log.last_saved(version)):
        span = next((span for span in spans if span[0] <= found <= span[1]), None)
        if span is None:
            return found
        version = span[0] - 1
    return 0


def first_saved_outside(log: Log, spans: Spans, version: int) -> int | None:
    """The oldest version from ``version`` on, in none of some spans, whose bytes can be had."""
    while (found := log.first_saved(version)) is not None:
        span = next((span for span in spans if span[0] <= found <= span[1]), None)
        if span is None:
            return found
        version = span[1] + 1
    return None


def entry_of(before: Spans, origin: int, version: int) -> dict[str, str | None]:
    """What the commit of ``version`` records that goes on from the version ``origin``.

    Args:
        before: the versions that are superseded as seen from ``origin``.
        origin: an earlier version than the newest.
        version: that of the commit.
    """
    return {_ENTRY: json.dumps([*before, (origin + 1, version - 1)], separators=(",", ":"))}
