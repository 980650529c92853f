"""Annotations: what is said of a version later, as an entry among the constants."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mmsb_jax._base.errors import CorruptionError
from mmsb_jax._base.strict_json import parse_json
from mmsb_jax._store.format.record import GRAPH_PREFIX
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit

_ENTRY = f"{GRAPH_PREFIX}note/"


def entry_of(version: int, known: Mapping[str, str], said: dict[str, Any]) -> dict[str, str | None]:
    """What is recorded so that ``said`` is added to the annotations of a version.

    Args:
        version: which.
        known: the entries that there are.
        said: the entries of a note.
    """
    return {f"{_ENTRY}{version}": json.dumps(annotation_in(known, version) | said)}


def annotation_in(entries: Mapping[str, str], version: int) -> dict[str, Any]:
    """What was said of a version later; empty where nothing was."""
    text = entries.get(f"{_ENTRY}{version}")
    if text is None:
        return {}
    try:
        said = parse_json(text)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise CorruptionError(f"{text[:80]!r} is recorded as an annotation, and is no JSON object")
    return said


def annotated(commit: Commit, entries: Mapping[str, str]) -> Commit:
    """A commit, with what was said of it later in its note."""
    later = annotation_in(entries, commit.version)
    return replace(commit, note=(commit.note or {}) | later) if later else commit


def is_annotation(log: Log, version: int) -> bool:
    """Whether a commit says something of others, and nothing else."""
    row = log.row(version)
    if row.touched or row.step is not None:
        return False
    return are_annotations(log.record(version).values)


def are_annotations(entries: Iterable[str]) -> bool:
    """Whether the entries of a commit are such, and no others."""
    entries = list(entries)
    return bool(entries) and all(entry.startswith(_ENTRY) for entry in entries)
