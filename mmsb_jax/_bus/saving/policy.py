"""Policies: at which commits of a tree bytes are logged, and not digests alone."""

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mmsb_jax._base.arguments import show
from mmsb_jax._store.query.commit import Commit

_HOUR_NS = 3_600_000_000_000
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Saved:
    """The newest commit of a tree whose bytes were logged.

    Attributes:
        version, step, time_ns: as of the commit.
        logged_bytes: bytes that it took in the log.
        took_ns: how long it took to make; 0 of one of another process.
    """

    version: int
    step: int | None
    time_ns: int
    logged_bytes: int
    took_ns: int


@dataclass(frozen=True, slots=True)
class Moment:
    """A commit that is about to be made, as a policy sees it.

    Attributes:
        step: its step; None where it is given none.
        version: the version that it will be, once those that are queued before it have landed.
        time_ns: now.
        last_saved: the newest commit with bytes; None before the first.
        busy: whether so many commits are queued that one with ``wait=False`` waits.
        preempted: whether a signal of `OnSignal` or `OnPreemption` has come, and no bytes were
            logged since.
    """

    step: int | None
    version: int
    time_ns: int
    last_saved: Saved | None
    busy: bool = False
    preempted: bool = False

    @property
    def first(self) -> bool:
        """Whether no commit has bytes yet; the first always has."""
        return self.last_saved is None


class SavePolicy(Protocol):
    """Says of a commit whether its bytes are logged: `Every`, `AtMost`, or any function.

    >>> import mmsb_jax as mmsb
    >>> def when_it_is_better(moment: mmsb.Moment) -> bool:
    ...     return moment.step in (3, 4)
    >>> bus = mmsb.open(save=when_it_is_better)
    >>> [bus.commit({"w": float(step)}, step=step).saved for step in range(5)]
    [True, False, False, True, True]
    """

    def __call__(self, moment: Moment, /) -> bool:
        """Whether its bytes are logged."""
        ...


class _Policy(ABC):
    """One that can be joined to others by ``|``: bytes are logged where any of them says so."""

    @abstractmethod
    def __call__(self, moment: Moment) -> bool:
        """Whether the bytes of a commit are logged."""

    def __or__(self, other: SavePolicy) -> "Either":
        return Either(self, other) if callable(other) else NotImplemented

    def __ror__(self, other: SavePolicy) -> "Either":
        return Either(other, self) if callable(other) else NotImplemented


@dataclass(frozen=True)
class Either(_Policy):
    """Two policies, of which one is enough; ``a | b`` makes one."""

    left: SavePolicy
    right: SavePolicy

    def __call__(self, moment: Moment) -> bool:
        return _said_by(self.left, moment) | _said_by(self.right, moment)


@dataclass(frozen=True, kw_only=True)
class Every(_Policy):
    """Bytes every so many steps, or seconds.

    Args:
        steps: at steps that are a multiple of it, and at the first behind one that was passed
            over. Commits without a step are counted.
        seconds: where so much time has gone by since the last.

    Raises:
        ValueError: neither, both, or none that is above 0.

    >>> import mmsb_jax as mmsb
    >>> bus = mmsb.open(save=mmsb.Every(steps=3))
    >>> [bus.commit({"w": float(step)}, step=step).saved for step in range(5)]
    [True, False, False, True, False]
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        _check_one("Every", steps=self.steps, seconds=self.seconds)
        if self.steps is not None and not isinstance(self.steps, int):
            raise TypeError(f"Every(steps={show(self.steps)}): expected an integer")

    def __call__(self, moment: Moment) -> bool:
        last = moment.last_saved
        if last is None:
            return True
        if self.seconds is not None:
            return moment.time_ns - last.time_ns >= self.seconds * _SECOND_NS
        assert self.steps is not None
        if moment.step is not None and moment.step % self.steps == 0:
            return True
        if moment.step is None or last.step is None:
            return moment.version - last.version >= self.steps
        return moment.step // self.steps > last.step // self.steps


@dataclass(frozen=True, kw_only=True)
class AtMost(_Policy):
    """Bytes as often as a price allows, by what the last commit with bytes took.

    Args:
        time_share: the part of all time that commits with bytes may take.
        bytes_per_hour: what they may add to the log.

    Raises:
        ValueError: neither, both, or none that is above 0.
    """

    time_share: float | None = None
    bytes_per_hour: float | None = None

    def __post_init__(self) -> None:
        _check_one("AtMost", time_share=self.time_share, bytes_per_hour=self.bytes_per_hour)

    def __call__(self, moment: Moment) -> bool:
        last = moment.last_saved
        if last is None:
            return True
        elapsed_ns = moment.time_ns - last.time_ns
        if self.time_share is not None:
            return last.took_ns <= self.time_share * elapsed_ns
        assert self.bytes_per_hour is not None
        return last.logged_bytes * _HOUR_NS <= self.bytes_per_hour * elapsed_ns


class OnSignal(_Policy):
    """Bytes when the process is sent a signal, at once.

    The newest tree is logged by a thread, also while the main thread is in an evaluation or a
    compilation. Where its arrays were donated by then, the next commit has the bytes, and waits
    until they are durable. Then the handler is called that was there before: where there was none,
    the process ends as it would have. `Bus.preempted` tells the loop.

    Args:
        signals: such as ``signal.SIGTERM``.
        grace: seconds that the handler before waits for the next commit, where one is needed; what
            was committed since the last bytes is lost where none comes.

    Raises:
        ValueError: no signal, or one that cannot be caught. `mmsb_jax.open` raises it outside the
            main thread, where Python sets no handlers.

    Handlers that are set after the bus was opened take the place of this; set them before. For a
    signal whose default is to end the process, and that is only to log, ignore it before:
    ``signal.signal(signal.SIGUSR1, signal.SIG_IGN)``.
    """

    def __init__(self, *signals: int, grace: float = 25.0) -> None:
        if not signals:
            raise ValueError(f"{type(self).__name__}(): expected signals, as signal.SIGTERM")
        known = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        for number in signals:
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"OnSignal({show(number)}): expected a signal, as signal.SIGTERM")
            if number not in known:
                raise ValueError(f"OnSignal({show(number)}): no process can be told of it")
        _check_one(type(self).__name__, grace=grace)
        self.signals = tuple(map(int, signals))
        self.grace = grace

    def __call__(self, moment: Moment) -> bool:
        return moment.preempted

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.signals, self.grace))

    def __repr__(self) -> str:
        names = ", ".join(signal.Signals(number).name for number in self.signals)
        return f"{type(self).__name__}({names}, grace={self.grace})"


class OnPreemption(OnSignal):
    """Bytes when the machine is taken away: as `OnSignal` of SIGTERM.

    In a job of several processes of JAX (`jax.distributed`, with its preemption service) all of
    them log the same step, the one that JAX names: commit every step in every process then.

    Args:
        grace: as for `OnSignal`.
    """

    def __init__(self, *, grace: float = 25.0) -> None:
        super().__init__(signal.SIGTERM, grace=grace)


SavePolicies = SavePolicy | Mapping[str, SavePolicy]
"""A policy of all commits; or one for the whole tree (``"**"``) and others for parts of it."""


def whole_of(save: SavePolicies | None) -> SavePolicy | None:
    """When the whole tree is saved."""
    return save["**"] if isinstance(save, Mapping) else save


def parts_of(save: SavePolicies | None) -> dict[str, SavePolicy]:
    """Pattern → when what it selects is saved besides."""
    if not isinstance(save, Mapping):
        return {}
    return {pattern: policy for pattern, policy in save.items() if pattern != "**"}


def members_of(policy: Any) -> Iterator[Any]:
    """The policies that one is joined of; of those of parts, that of the whole tree."""
    if isinstance(policy, Mapping):
        yield from members_of(whole_of(policy))
    elif isinstance(policy, Either):
        yield from members_of(policy.left)
        yield from members_of(policy.right)
    elif policy is not None:
        yield policy


def _check_one(name: str, **given: Any) -> None:
    """Refuse all but one of two numbers, and one that is not above 0."""
    said = {key: value for key, value in given.items() if value is not None}
    text = ", ".join(f"{key}={show(value)}" for key, value in said.items())
    if len(said) != 1:
        raise ValueError(f"{name}({text}): expected one of {' and '.join(given)}")
    (value,) = said.values()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}({text}): expected a number")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}({text}): expected a number above 0")


def check_policy(save: Any) -> None:
    """Refuse what is no policy."""
    if isinstance(save, Mapping):
        _check_parts(save)
    elif save is not None and not callable(save):
        raise TypeError(
            f"save={show(save)}: expected a policy, such as mmsb_jax.Every(steps=50), a function "
            f"of a Moment, a dict of patterns and policies, or None to log the bytes of every "
            f"commit"
        )
    hears = any(isinstance(member, OnSignal) for member in members_of(save))
    if hears and threading.current_thread() is not threading.main_thread():
        raise ValueError(
            f"save={show(save)} is told by signals, whose handlers Python sets in the main thread "
            f"alone: open the bus there"
        )


def _check_parts(save: Mapping[Any, Any]) -> None:
    for pattern, policy in save.items():
        if not isinstance(pattern, str):
            raise TypeError(f"save={show(save)}: the key {show(pattern)} is no pattern")
        if not callable(policy):
            raise TypeError(
                f"save={show(save)}: expected a policy for {pattern!r}, such as "
                f"mmsb_jax.Every(steps=50), not {show(policy)}"
            )
        if pattern != "**" and any(isinstance(each, OnSignal) for each in members_of(policy)):
            raise ValueError(
                f"save={show(save)}: a signal saves the whole tree. Give {show(policy)} to '**'."
            )
    if "**" not in save:
        raise ValueError(
            f"save={show(save)}: expected a policy for '**' among them, which says when the whole "
            f"tree is saved: a run goes on from nothing less"
        )


def _said_by(policy: SavePolicy, moment: Moment) -> bool:
    said = policy(moment)
    if not isinstance(said, bool):
        raise TypeError(
            f"the policy {show(policy)} returned {show(said)}. Expected a bool: whether the bytes "
            f"of the commit are logged."
        )
    return said


class Saving:
    """What a bus logs bytes of.

    Args:
        policy: as for `mmsb_jax.open`.
        last: the newest commit with bytes; None for none.

    Attributes:
        has_policy: whether there is a policy, and commits without bytes are to be expected.
    """

    def __init__(self, policy: SavePolicy | None, last: Saved | None) -> None:
        self._policy = policy
        self.has_policy = policy is not None
        self._landed = last
        self._queued: tuple[Saved, int] | None = None

    def last(self, failures: int) -> Saved | None:
        """The newest commit with bytes; one that is queued counts, unless it has failed.

        Args:
            failures: of the queue, up to now.
        """
        if self._queued is not None and self._queued[1] == failures:
            return self._queued[0]
        return self._landed

    def wants(self, asked: bool | None, moment: Moment) -> bool:
        """Whether a commit is to have bytes; ``asked`` is what its caller said of it."""
        if moment.first:
            return True
        if asked is None and self._policy is not None:
            return _said_by(self._policy, moment)
        return asked is not False

    def expect(self, moment: Moment, failures: int) -> None:
        """A commit with bytes is queued; ``failures`` of the queue when it was."""
        logged_bytes, took_ns = 0, 0
        if self._landed is not None:
            logged_bytes, took_ns = self._landed.logged_bytes, self._landed.took_ns
        saved = Saved(moment.version, moment.step, moment.time_ns, logged_bytes, took_ns)
        self._queued = saved, failures

    def note(self, commit: Commit, took_ns: int) -> None:
        """A commit with bytes has landed."""
        said = commit.version, commit.step, commit.time_ns, commit.logged_bytes
        self._landed = Saved(*said, took_ns)
        if self._queued is not None and self._queued[0].version <= commit.version:
            self._queued = None
