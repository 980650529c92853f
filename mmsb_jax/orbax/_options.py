"""What the options of Orbax's manager are to a log."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmsb_jax._base.arguments import show
from mmsb_jax._bus.orbax.notes import CheckpointNote
from mmsb_jax._bus.saving.keep import Keep, KeepPolicy
from mmsb_jax._store.query.commit import Commit

_HONOURED = {
    "save_interval_steps", "save_on_steps", "should_save_fn", "max_to_keep", "keep_period",
    "keep_time_interval", "best_fn", "best_mode", "keep_checkpoints_without_metrics", "read_only",
    "create", "enable_async_checkpointing",
}  # fmt: skip
_MEANINGLESS = {
    "async_options", "cleanup_tmp_directories", "enable_background_delete",
    "lightweight_initialize", "num_deletion_threads", "save_root_metadata",
}  # fmt: skip
"""Of directories of checkpoints, which a log does not have: whatever they say, nothing changes."""


class ManagerOptions:
    """The options of a ``CheckpointManagerOptions``, those of Orbax's defaults for None.

    Raises:
        ValueError: options that a log cannot honour; all are named.
    """

    def __init__(self, options: Any) -> None:
        if options is not None and not dataclasses.is_dataclass(options):
            raise TypeError(f"options={show(options)}: expected Orbax's CheckpointManagerOptions")
        refused = _set_beside(options, _HONOURED | _MEANINGLESS)
        if refused:
            raise ValueError(
                f"the options {', '.join(refused)} cannot be honoured by a log. Leave them out."
            )
        given = {name: getattr(options, name) for name in _HONOURED if hasattr(options, name)}
        self.interval: int = given.get("save_interval_steps", 1)
        self.on_steps: frozenset[int] = frozenset(given.get("save_on_steps") or ())
        self.should_save: Callable[[int, int | None], bool] | None = given.get("should_save_fn")
        self.read_only: bool = given.get("read_only", False)
        self.create: bool = given.get("create", True)
        self.waits: bool = not given.get("enable_async_checkpointing", True)
        self.best_fn: Callable[[Any], float] | None = given.get("best_fn")
        self._sign = 1 if given.get("best_mode", "max") == "max" else -1
        self._most: int | None = given.get("max_to_keep")
        self._spread: dict[str, Any] = {"every_steps": given.get("keep_period")}
        if given.get("keep_time_interval") is not None:
            self._spread["every_seconds"] = given["keep_time_interval"].total_seconds()
        self._keeps_unranked: bool = given.get("keep_checkpoints_without_metrics", True)

    def is_due(self, step: int, latest: int | None) -> bool:
        """Whether the bytes of a step are saved; ``latest`` is the newest that were."""
        if latest is None:
            return True
        if self.should_save is not None:
            return bool(self.should_save(step, latest))
        return step in self.on_steps or step % max(1, self.interval) == 0

    @property
    def keep(self) -> KeepPolicy | None:
        """Which versions keep their bytes; None for all."""
        if self._most is None:
            return None
        if self.best_fn is None:
            return Keep(last=max(1, self._most), **self._spread)
        return self._keep_best

    def ranked(self, commits: Iterable[Commit]) -> list[Commit]:
        """The commits that have metrics, from the worst to the best; of equal ones the newer."""
        assert self.best_fn is not None
        scored = []
        for commit in commits:
            metrics = CheckpointNote.of(commit.note).metrics
            if metrics is not None:
                scored.append((self._sign * self.best_fn(metrics), commit))
        return [commit for _, commit in sorted(scored, key=lambda pair: pair[0])]

    def _keep_best(self, commits: Sequence[Commit]) -> list[Commit]:
        ranked = self.ranked(commits)
        kept = Keep(last=1, **self._spread)(commits) + ranked[-(self._most or 1) :]
        if self._keeps_unranked:
            kept += [commit for commit in commits if commit not in ranked]
        return kept


def _set_beside(options: Any, known: set[str]) -> list[str]:
    """The fields that are not as they are by default, beside those that are known."""
    if options is None:
        return []
    names = [field.name for field in dataclasses.fields(options) if field.name not in known]
    usual = type(options)()
    return [name for name in names if getattr(options, name) != getattr(usual, name)]
