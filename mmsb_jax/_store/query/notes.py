"""What the notes of a run say of one thing, along its commits."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import ArrayNotFoundError
from mmsb_jax._display.html import html_table
from mmsb_jax._display.text import aligned, printable
from mmsb_jax._store.query.commit import Commit

_COLUMNS = ("version", "step", "value")
_MOST_ROWS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What notes say of one thing; ``bus.notes("loss")`` is one.

    Attributes:
        name: what it is called in the notes.
        versions: of the commits that say it (int64[n]), ascending.
        steps: theirs; None for one that has none.
        values: what they say.
    """

    name: str
    versions: np.ndarray
    steps: list[int | None]
    values: list[Any]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype)

    def __repr__(self) -> str:
        lines = aligned([_COLUMNS, *self._rows()], (True, True, True))
        if len(self) > _MOST_ROWS:
            lines.append(f"The newest {_MOST_ROWS} of {len(self):,} values of {self.name!r}.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return html_table(self._rows(), _COLUMNS)

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = zip(self.versions.tolist(), self.steps, self.values, strict=True)
        return [
            (str(version), "–" if step is None else str(step), printable(str(value)))
            for version, step, value in list(rows)[-_MOST_ROWS:]
        ]

    def to_pandas(self) -> Any:
        """A `pandas.Series` of the values, by version.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        import pandas as pd

        return pd.Series(self.values, index=pd.Index(self.versions, name="version"), name=self.name)

    def plot(self, axes: Any = None) -> Any:
        """Draw the values over their steps, or versions where one has no step; returns the axes.

        Raises:
            ModuleNotFoundError: matplotlib is not installed (the extra ``plots``).
        """
        import matplotlib.pyplot as plt

        axes = plt.gca() if axes is None else axes
        has_steps = None not in self.steps
        axes.plot(self.steps if has_steps else self.versions, np.asarray(self, float))
        axes.set_xlabel("step" if has_steps else "version")
        axes.set_ylabel(self.name)
        return axes


def notes_of(commits: Iterable[Commit], name: str) -> Series:
    """What the notes of some commits say of ``name``; ``a/b`` is what an entry holds.

    Raises:
        ArrayNotFoundError: none says anything of it; the message names what they do say.
    """
    found, others = list[tuple[Commit, Any]](), set[str]()
    before: Commit | None = None
    for commit in commits:
        said = dict(_said_in(commit.note, ""))
        is_said_again = before is not None and _is_of_bytes(commit, before)
        before = commit
        if is_said_again:
            continue
        if name in said:
            found.append((commit, said[name]))
        else:
            others |= said.keys()
    if not found:
        near = difflib.get_close_matches(name, others, n=3) or sorted(others)[:8]
        hint = f"They say {', '.join(map(repr, near))}." if near else "There are no entries."
        raise ArrayNotFoundError(f"no note says {show(name)}. {hint}")
    versions = np.array([commit.version for commit, _ in found], np.int64)
    steps = [commit.step for commit, _ in found]
    return Series(name, versions, steps, [value for _, value in found])


def _is_of_bytes(commit: Commit, before: Commit) -> bool:
    """Whether a commit says the same as the one before it, of which digests alone were logged."""
    said, said_before = ((c.step, c.source, c.note) for c in (commit, before))
    return commit.saved and not before.saved and said == said_before


def _said_in(note: Any, before: str) -> Iterator[tuple[str, Any]]:
    """The entries of a note, and those within them."""
    if isinstance(note, dict):
        for key, value in note.items():
            yield f"{before}{key}", value
            yield from _said_in(value, f"{before}{key}/")
