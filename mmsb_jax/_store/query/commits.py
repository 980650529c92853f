"""The commits of a log as a sequence, each read when it is asked for."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from mmsb_jax._base.arguments import show
from mmsb_jax._display.html import html_table, html_text
from mmsb_jax._display.text import aligned, cell
from mmsb_jax._display.times import local_time
from mmsb_jax._store.query.commit import Commit

COLUMNS = ("version", "step", "time", "source", "arrays", "changed", "logged", "note")
"""Of a table of commits: "arrays" counts those with a changed byte, "changed" these bytes."""
_IS_NUMBER = (True, True, False, False, True, True, True, False)
_MOST_ROWS = 20
_NOTE_WIDTH = 60


class Commits(Sequence[Commit]):
    """The commits of a log, oldest first, as it was when it was asked; ``bus.commits`` is one.

    It prints as a table of the newest 20, and is a table in a notebook. Indexing and iterating
    read headers, and none of the bytes of arrays.

    >>> import mmsb_jax as mmsb
    >>> bus = mmsb.open()
    >>> for step in range(3):
    ...     _ = bus.commit({"w": float(step)}, step=step)
    >>> len(bus.commits), bus.commits[-1].step, [commit.step for commit in bus.commits[:2]]
    (3, 2, [0, 1])
    """

    def __init__(self, versions: Sequence[int], read: Callable[[int], Commit]) -> None:
        self._versions = versions
        self._read = read

    def __len__(self) -> int:
        return len(self._versions)

    @overload
    def __getitem__(self, index: int) -> Commit: ...

    @overload
    def __getitem__(self, index: slice) -> "Commits": ...

    def __getitem__(self, index: int | slice) -> "Commit | Commits":
        if isinstance(index, slice):
            return Commits(self._versions[index], self._read)
        try:
            return self._read(self._versions[index])
        except IndexError:
            raise IndexError(f"[{show(index)}]: there are {len(self)} commits") from None

    def __iter__(self) -> Iterator[Commit]:
        return map(self._read, self._versions)

    def __contains__(self, commit: object) -> bool:
        if not isinstance(commit, Commit) or commit.version not in self._versions:
            return False
        return self._read(commit.version) == commit

    def __repr__(self) -> str:
        lines = aligned([COLUMNS, *map(_row, self[-_MOST_ROWS:])], _IS_NUMBER)
        return "\n".join([*lines, *self._said()])

    def _repr_html_(self) -> str:
        table = html_table(map(_row, self[-_MOST_ROWS:]), COLUMNS)
        return table + "".join(map(html_text, self._said()))

    def _said(self) -> list[str]:
        """What stands below the table."""
        if len(self) <= _MOST_ROWS:
            return []
        return [f"The newest {_MOST_ROWS} of {len(self):,} commits."]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with a row a commit, by version; what a note says in columns.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        import pandas as pd

        rows = [
            {
                "version": commit.version,
                "step": commit.step,
                "time": pd.Timestamp(commit.time_ns, unit="ns", tz="UTC"),
                "source": commit.source,
                "changed": commit.changed,
                "changed_bytes": commit.changed_bytes,
                "logged_bytes": commit.logged_bytes,
                "saved": commit.saved,
                **_said_in(commit.note),
            }
            for commit in self
        ]
        frame = pd.DataFrame(rows).astype({"step": "Int64"}) if rows else pd.DataFrame()
        return frame.set_index("version") if rows else frame


def _row(commit: Commit) -> list[str]:
    return list(map(cell, cells_of(commit)))


def cells_of(commit: Commit) -> tuple[object, ...]:
    """A commit as a row of a table."""
    note = show_note(commit.note)
    return (
        commit.version,
        commit.step,
        local_time(commit.time_ns),
        commit.source,
        len(commit.changed),
        commit.changed_bytes if commit.saved else None,
        commit.logged_bytes,
        note if len(note) <= _NOTE_WIDTH else note[: _NOTE_WIDTH - 1] + "…",
    )


def show_note(note: Any) -> str:
    """A note in one line; empty where there is none."""
    return "" if note is None else json.dumps(note, ensure_ascii=False)


def _said_in(note: Any) -> dict[str, Any]:
    """What a note says, as columns: its entries, or itself."""
    if note is None:
        return {}
    if isinstance(note, dict):
        return {f"note.{name}": value for name, value in note.items()}
    return {"note": note}
