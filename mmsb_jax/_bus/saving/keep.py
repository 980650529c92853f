"""Policies: which versions keep their bytes, once a run has more than its disk should hold."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mmsb_jax._base.arguments import check_choice, check_text, show
from mmsb_jax._store.query.commit import Commit


class KeepPolicy(Protocol):
    """Chooses the commits whose bytes stay: `Keep`, or any function.

    >>> import mmsb_jax as mmsb
    >>> def of_full_hours(commits):
    ...     return [commit for commit in commits if commit.step % 3600 == 0]
    >>> bus = mmsb.open(keep=of_full_hours)
    """

    def __call__(self, commits: Sequence[Commit], /) -> Iterable[Commit]:
        """Those of ``commits`` that keep theirs; all of these have bytes, and are not superseded.

        Reading one reads its header.
        """
        ...


@dataclass(frozen=True)
class Best:
    """The best versions by what their notes say.

    Args:
        name: of a number in the notes, such as ``"loss"``.
        mode: whether less is better (``"min"``) or more (``"max"``).
        n: how many. Of equal ones the older is better.

    A version whose note does not say it, or says what is no number, is never one of the best;
    `Bus.stats` counts these. What `Bus.annotate` adds counts as the rest of a note.

    Raises:
        ValueError: ``n`` below 1, another mode.
    """

    name: str
    mode: Literal["min", "max"] = "min"
    n: int = 1

    def __post_init__(self) -> None:
        check_text("name", self.name, "the name of a number in notes")
        check_choice("mode", self.mode, "min", "max")
        _check_above_zero("Best", "n", self.n)

    def __call__(self, commits: Iterable[Commit]) -> list[Commit]:
        """The best of some commits, oldest first, the best of them first."""
        sign = 1 if self.mode == "min" else -1
        values = [(commit, number_in(commit, self.name)) for commit in commits]
        ranked = [(sign * value, commit) for commit, value in values if value is not None]
        ranked.sort(key=lambda pair: pair[0])
        return [commit for _, commit in ranked[: self.n]]


def number_in(commit: Commit, name: str) -> float | None:
    """What the note of a commit says, by which it can be ranked; None where it cannot."""
    value = commit.note.get(name) if isinstance(commit.note, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return None if math.isnan(number := float(value)) else number
    except OverflowError:  # an integer that is more than any float
        return None


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Keeps the bytes of the newest versions, of some of the older ones, and of the best.

    Args:
        last: how many of the newest.
        every_steps: the first of every so many steps; commits without a step go by their version.
        every_seconds: the first of every so many seconds.
        best: the best of them all; several, by different numbers.

    Counted are versions that have bytes and are not superseded. The newest is always kept, and so
    is what a tag names.

    Raises:
        ValueError: a number that is not above 0.

    >>> import mmsb_jax as mmsb
    >>> keep = mmsb.Keep(last=2, every_steps=10, best=mmsb.Best("loss"))
    >>> bus = mmsb.open()
    >>> for step in range(25):
    ...     _ = bus.commit({"w": float(step)}, step=step, note={"loss": abs(step - 13.0)})
    >>> [commit.step for commit in keep(bus.commits)]
    [0, 10, 13, 20, 23, 24]
    """

    last: int = 1
    every_steps: int | None = None
    every_seconds: float | None = None
    best: Best | Sequence[Best] = ()

    def __post_init__(self) -> None:
        _check_above_zero("Keep", "last", self.last)
        if self.every_steps is not None:
            _check_above_zero("Keep", "every_steps", self.every_steps)
        if self.every_seconds is not None:
            _check_above_zero("Keep", "every_seconds", self.every_seconds, is_whole=False)
        if not isinstance(self.best, Best | Sequence) or not all(
            isinstance(best, Best) for best in self.bests
        ):
            raise TypeError(
                f"Keep(best={show(self.best)}): expected mmsb_jax.Best('loss'), or several"
            )

    @property
    def bests(self) -> tuple[Best, ...]:
        """What ranks them."""
        return (self.best,) if isinstance(self.best, Best) else tuple(self.best)

    def __call__(self, commits: Sequence[Commit]) -> list[Commit]:
        """Those of ``commits``, oldest first, that are kept."""
        newest = list(commits[-self.last :])
        chosen = {commit.version: commit for commit in newest}
        if self.every_steps is None and self.every_seconds is None and not self.bests:
            return newest
        known = list(commits)
        for commit in self._spread(known):
            chosen[commit.version] = commit
        for best in self.bests:
            for commit in best(known):
                chosen[commit.version] = commit
        return [chosen[version] for version in sorted(chosen)]

    def _spread(self, commits: list[Commit]) -> Iterator[Commit]:
        steps, seconds = self.every_steps, self.every_seconds
        if steps is not None:
            yield from _first_of_each(
                commits, lambda c: (c.version if c.step is None else c.step) // steps
            )
        if seconds is not None:
            yield from _first_of_each(commits, lambda c: c.time_ns // max(1, round(seconds * 1e9)))


def _first_of_each(
    commits: Iterable[Commit], number_of: Callable[[Commit], int]
) -> Iterator[Commit]:
    """The first commit of each number; these do not go down but where a run went back."""
    seen = set[int]()
    for commit in commits:
        number = number_of(commit)
        if number not in seen:
            seen.add(number)
            yield commit


def _check_above_zero(name: str, argument: str, value: Any, is_whole: bool = True) -> None:
    if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float):
        expected = "an integer" if is_whole else "a number"
        raise TypeError(f"{name}({argument}={show(value)}): expected {expected}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}({argument}={show(value)}): expected it to be above 0")


def check_keep(keep: Any) -> None:
    """Refuse what is no policy."""
    if keep is not None and not callable(keep):
        raise TypeError(
            f"keep={show(keep)}: expected a policy, such as mmsb_jax.Keep(last=5), a function from "
            f"commits to those that are kept, or None to keep all"
        )
