"""Preemption: the newest tree is logged when the process is told that it will end."""

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils

from mmsb_jax._bus.saving.policy import OnPreemption, OnSignal, SavePolicies, members_of
from mmsb_jax._bus.saving.signals import watch


class Preemption:
    """What the policy of a bus asks to do about signals.

    Args:
        policy: as for `mmsb_jax.open`.
        save_now: logs the bytes of the newest tree, durably; whether they are there now. A method,
            which is not held.

    Attributes:
        signals: those that announce the end.
        grace_s: how long the end can wait for the next commit, in seconds.
        was_told: whether one has come, or JAX has said so.
        owes: whether one has come, and the newest tree is not durable yet.
    """

    def __init__(self, policy: SavePolicies | None, save_now: Callable[[], bool]) -> None:
        members = list(members_of(policy))
        told = [each for each in members if isinstance(each, OnSignal)]
        self._asks_jax = any(isinstance(each, OnPreemption) for each in told)
        self.signals = frozenset(number for each in told for number in _numbers_of(each))
        self.grace_s = max((each.grace for each in told), default=0.0)
        self._save_now = weakref.WeakMethod[Any](save_now)
        self.was_told = False
        self.owes = False
        self._is_over = True

    @property
    def is_due(self) -> bool:
        """Whether a commit must have bytes: a signal has come, and there were none, or may be more.

        Until the handler before is called, the process may go on, and commit.
        """
        return self.owes or not self._is_over

    def begin(self) -> None:
        """Hear of the signals from now on."""
        if self.signals:
            watch.add(self)

    def end(self) -> None:
        """Hear of none any more."""
        if self.signals:
            watch.remove(self)

    def hear(self) -> None:
        """A signal has come: log the newest tree, where it can be done."""
        self._is_over = False
        self.was_told = self.owes = True
        save_now = self._save_now()
        with contextlib.suppress(Exception):  # the next commit tries again, and says why
            if save_now is None or save_now():
                self.owes = False

    def pass_on(self) -> None:
        """The handler before is called now."""
        self._is_over = True

    def saved(self) -> None:
        """The newest tree is durable."""
        self.owes = False
        watch.done(self)

    def is_announced(self, step: int) -> bool:
        """Whether a commit of ``step`` is to have bytes for it."""
        if self._asks_jax and _is_coordinated():
            if not multihost_utils.reached_preemption_sync_point(step):
                return self.is_due
            self.was_told = True
            return True
        return self.is_due


def _numbers_of(policy: OnSignal) -> tuple[int, ...]:
    """The signals to be heard; none where JAX hears them for all processes together."""
    if isinstance(policy, OnPreemption) and _is_coordinated():
        return ()
    return policy.signals


def _is_coordinated() -> bool:
    """Whether JAX tells all processes together at which step to save."""
    return jax.distributed.is_initialized() and jax.config.values["jax_enable_preemption_service"]
