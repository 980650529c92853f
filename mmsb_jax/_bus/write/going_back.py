"""Going back: the next commit of a tree goes on from an older version than the newest."""

from dataclasses import dataclass
from typing import Self

from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.log.in_force import extra_in_force, step_in_force
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.superseded import Spans, entry_of

_NOTHING = b"null"


@dataclass(frozen=True, slots=True)
class Origin:
    """The version that the next commit goes on from.

    Attributes:
        version: which.
        superseded: the versions that are superseded as seen from it.
        step: the step in force there.
        extra: the ``extra`` in force there; None where there is none.
        extra_is_json: whether that is JSON.
        ends_extra: whether there is none, and one was given later, which is in force no more.
    """

    version: int
    superseded: Spans
    step: int | None
    extra: bytes | None
    extra_is_json: bool
    ends_extra: bool

    @classmethod
    def of(cls, log: Log, version: int, superseded: Spans) -> Self:
        """A version of a log, which has newer ones; it sees some versions as superseded."""
        known = extra_in_force(log, version)
        step = log.retry_if_compacted(lambda: step_in_force(log, version))
        ends_extra = known.blob is None and extra_in_force(log, log.version).blob is not None
        return cls(version, superseded, step, known.blob, known.is_json, ends_extra)

    def enter(self, draft: Draft, version: int) -> None:
        """Let the draft of ``version`` say that it goes on from here, and what is in force then."""
        draft.values |= entry_of(self.superseded, self.version, version)
        if draft.step is None:
            draft.step = self.step
        if draft.extra is None and self.ends_extra:
            draft.extra, draft.extra_is_json = _NOTHING, True
        elif draft.extra is None:
            draft.extra, draft.extra_is_json = self.extra, self.extra_is_json
