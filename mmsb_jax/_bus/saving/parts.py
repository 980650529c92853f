"""Parts of a tree that are saved more often than the whole: a policy for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mmsb_jax._base.patterns import matcher
from mmsb_jax._bus.saving.policy import Moment, SavePolicy, Saving
from mmsb_jax._store.query.commit import Commit


@dataclass(frozen=True, slots=True)
class DueParts:
    """What of a tree a commit logs the bytes of, where it does not log all.

    Attributes:
        places: the data leaves, ascending.
        savings: those of the parts that are due.
    """

    places: Sequence[int] = ()
    savings: Sequence[Saving] = ()

    def expect(self, moment: Moment, failures: int) -> None:
        """The commit is queued; ``failures`` of the queue when it was."""
        for saving in self.savings:
            saving.expect(moment, failures)

    def note(self, commit: Commit, took_ns: int) -> None:
        """The commit has landed."""
        for saving in self.savings:
            saving.note(commit, took_ns)


class PartsSaving:
    """When parts of a tree are saved that is not saved as a whole.

    Args:
        policies: pattern → when the bytes of the arrays that it selects are logged.
    """

    def __init__(self, policies: Mapping[str, SavePolicy]) -> None:
        self._savings = {pattern: Saving(policy, None) for pattern, policy in policies.items()}
        self._names: Sequence[str] = ()
        self._places: dict[str, list[int]] = {}

    def due(self, moment: Moment, failures: int, names: Sequence[str]) -> DueParts:
        """What a commit that is not saved as a whole logs the bytes of.

        Args:
            moment: the commit, as the policy of the whole tree sees it.
            failures: of the queue, up to now.
            names: of the data leaves.
        """
        if not self._savings:
            return DueParts()
        if names is not self._names:
            self._names, self._places = names, _places_in(names, self._savings)
        places, savings = set[int](), list[Saving]()
        for pattern, saving in self._savings.items():
            own, whole = saving.last(failures), moment.last_saved
            last = max((s for s in (own, whole) if s), key=lambda s: s.version, default=None)
            if saving.wants(None, replace(moment, last_saved=last)):
                places.update(self._places[pattern])
                savings.append(saving)
        return DueParts(sorted(places), savings)


def _places_in(names: Sequence[str], patterns: Mapping[str, object]) -> dict[str, list[int]]:
    """Pattern → which of the names it selects."""
    found = {}
    for pattern in patterns:
        selects = matcher([pattern]).fullmatch
        found[pattern] = [i for i, name in enumerate(names) if selects(name)]
    return found
