"""What is recorded of a tree beside its leaves' bytes: what is no leaf, and which types are weak.

Both stand among the constants, under names that begin with NUL.
"""

from collections.abc import Collection, Mapping

from mmsb_jax._store.format.record import GRAPH_PREFIX
from mmsb_jax._store.state.state import Table

_MARK = f"{GRAPH_PREFIX}static"
"""There where statics are recorded, whether the tree has any or not; older logs have none."""
_STATIC, _WEAK = f"{_MARK}/", f"{GRAPH_PREFIX}weak/"

_SHOWN = 100


def entries_of(statics: Mapping[str, str], weak: Collection[str]) -> dict[str, str]:
    """The entries of a tree: path → text of what is no leaf, paths of weakly typed leaves."""
    return (
        {_MARK: "1"}
        | {f"{_STATIC}{path}": text for path, text in statics.items()}
        | {f"{_WEAK}{path}": "1" for path in weak}
    )


def changed_entries(table: Table, entries: Mapping[str, str]) -> dict[str, str | None]:
    """What has to be recorded so that the entries of ``table`` are these."""
    recorded = {name: text for name, text in table.graph.items() if name.startswith((_MARK, _WEAK))}
    gone: dict[str, str | None] = {name: None for name in recorded if name not in entries}
    return gone | {name: text for name, text in entries.items() if recorded.get(name) != text}


def statics_in(table: Table) -> dict[str, str] | None:
    """Path → text of what is recorded that is no leaf; None where a log is older than that."""
    if _MARK not in table.graph:
        return None
    named = (item for item in table.graph.items() if item[0].startswith(_STATIC))
    return {name.removeprefix(_STATIC): text for name, text in named}


def path_in_entry(entry: str) -> str | None:
    """The path of a leaf, or of what is none, that an entry of the graph speaks of."""
    for kind in (_STATIC, _WEAK):
        if entry.startswith(kind):
            return entry.removeprefix(kind)
    return None


def is_weak(table: Table, name: str) -> bool:
    """Whether an array was weakly typed."""
    return f"{_WEAK}{name}" in table.graph


def show_pair(now: str, before: str) -> tuple[str, str]:
    """Two texts, cut to where they differ."""
    if len(now) <= _SHOWN and len(before) <= _SHOWN:
        return now, before
    pairs = zip(now, before, strict=False)
    first = next((i for i, (left, right) in enumerate(pairs) if left != right), 0)
    start = max(0, first - _SHOWN // 4)
    shown = [f"{'…' if start else ''}{text[start : start + _SHOWN]}" for text in (now, before)]
    return shown[0], shown[1]
