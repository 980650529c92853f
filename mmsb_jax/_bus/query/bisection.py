"""Bisection: the first version at which something is wrong, found by looks at a few states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import VersionError
from mmsb_jax._bus.query.rerun import Rerun
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit
from mmsb_jax._store.query.superseded import (
    Spans,
    first_saved_outside,
    is_in,
    last_saved_outside,
    superseded_at,
)
from mmsb_jax._store.state.state import StoredState


@dataclass(frozen=True, slots=True)
class Bisection:
    """Where something went wrong, as `Bus.bisect` found it.

    Attributes:
        good: the newest commit that was found to be good, or that nothing lies behind but `bad`.
        bad: the oldest commit that was found to be bad.
        exact: whether `bad` is the very next commit after `good`; else there are commits between
            whose bytes were not logged, or were dropped, and any of these may be the first.
        looks: how many states were looked at.
    """

    good: Commit
    bad: Commit
    exact: bool
    looks: int

    def __str__(self) -> str:
        where = "" if self.exact else "; of the versions between there are no bytes"
        return f"good at {_named(self.good)}, bad at {_named(self.bad)}{where}"


def _named(commit: Commit) -> str:
    step = "" if commit.step is None else f" (step {commit.step})"
    return f"version {commit.version}{step}"


class BisectionSearch:
    """The search of one bisection, through the versions that lead to its last one.

    Args:
        log: the log.
        bad: whether a tree is bad.
        look_at: the state of a version with bytes and its tree, given the state of an earlier one
            that is known, or None.
        extra_at: the ``extra`` in force at one.
        rerun: takes the steps to versions without bytes again; None leaves these out.

    Attributes:
        looks: how many states were looked at.
    """

    def __init__(
        self,
        log: Log,
        bad: Callable[[Any], Any],
        look_at: Callable[[int, StoredState | None], tuple[StoredState, Any]],
        extra_at: Callable[[int], Any],
        rerun: Rerun | None,
    ) -> None:
        self.looks = 0
        self._log = log
        self._bad = bad
        self._look_at = look_at
        self._extra_at = extra_at
        self._rerun = rerun
        self._spans: Spans = ()
        self._known: StoredState | None = None  # the newest that is good

    def run(self, since: int | None, until: int | None) -> tuple[int, int, bool]:
        """A good version, the bad one after it, and whether nothing lies between.

        Args:
            since: a version that is good; the oldest with bytes for None.
            until: a version that is bad; the newest for None.
        """
        last = self._last(until)
        self._spans = superseded_at(self._log, last)
        good, saved = self._first(since, last), last_saved_outside(self._log, self._spans, last)
        if good >= last:
            raise ValueError(
                f"there is nothing to search between version {good} and version {last}: expected "
                f"a later version, which is bad, than one that is good. Give since= and until=."
            )
        if self._is_bad(good):
            raise ValueError(
                f"version {good} is bad already, where the search begins: expected a version that "
                f"is good. Give an earlier one as since=, or look at {show(self._bad)}."
            )
        if saved == good:
            return self._follow(good, last, is_known_bad=False)
        if not self._is_bad(saved):
            if saved < last:
                return self._follow(saved, last, is_known_bad=False)
            raise _not_bad(last)
        good, bad = self._halve(good, saved)
        return self._follow(good, bad, is_known_bad=True)

    def _last(self, until: int | None) -> int:
        """The last version to look at; one without bytes only where steps are taken again."""
        log = self._log
        last = log.version if until is None else until
        if not last:
            raise log.no_version(0)
        if self._rerun is None:
            if until is None:
                last = log.last_saved(last)
            log.check_state(last)
        return last

    def _first(self, since: int | None, last: int) -> int:
        log = self._log
        if since is None:
            return first_saved_outside(log, self._spans, 1) or last
        if not since:
            raise log.no_version(0)
        log.check_state(since)
        if is_in(self._spans, since):
            raise VersionError(
                f"since={since} is superseded: version {last} goes on from an older one. Give a "
                f"version that led to it."
            )
        return since

    def _is_bad(self, version: int) -> bool:
        state, tree = self._look_at(version, self._known)
        is_bad = self._judge(version, tree)
        if not is_bad:
            self._known = state
        return is_bad

    def _judge(self, version: int, tree: Any) -> bool:
        self.looks += 1
        try:
            return bool(self._bad(tree))
        except Exception as error:
            step = self._log.row(version).step
            named = "" if step is None else f", of step {step}"
            error.add_note(f"raised by `bad` for the state at version {version}{named}")
            raise

    def _halve(self, good: int, bad: int) -> tuple[int, int]:
        """The two versions with bytes next to each other between which it went wrong."""
        log, spans = self._log, self._spans
        while True:
            middle = (good + bad) // 2
            version = last_saved_outside(log, spans, middle)
            if version <= good:
                version = first_saved_outside(log, spans, middle + 1) or bad
            if version >= bad:
                return good, bad
            if self._is_bad(version):
                bad = version
            else:
                good = version

    def _follow(self, good: int, bad: int, is_known_bad: bool) -> tuple[int, int, bool]:
        """Look at the versions without bytes behind ``good``, up to ``bad``, where that can be."""
        between = [v for v in range(good + 1, bad) if not is_in(self._spans, v)]
        if is_known_bad and not between:
            return good, bad, True
        if self._rerun is None or good + 1 < self._log.kept_since:
            return good, bad, False
        begun = self._look_at(good, self._known)[1], self._extra_at(good)
        for version, tree, _ in self._rerun.walk(*begun, good, bad, check=True):
            if (is_known_bad and version == bad) or self._judge(version, tree):
                return max([good, *(v for v in between if v < version)]), version, True
        if not is_known_bad:
            raise _not_bad(bad)
        return max([good, *between]), bad, True  # no step made it


def _not_bad(version: int) -> ValueError:
    return ValueError(
        f"version {version} is not bad, where the search ends: expected a version that is. Give a "
        f"later one as until=."
    )
