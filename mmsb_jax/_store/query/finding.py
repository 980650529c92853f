"""Finding the first version at which something holds: mostly from what commits say."""

from collections.abc import Callable
from concurrent.futures import Executor

from mmsb_jax._store.encoding.digest import Lanes
from mmsb_jax._store.format.record import DIGESTS
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.diff import count_non_finite
from mmsb_jax._store.query.superseded import is_in, superseded_at
from mmsb_jax._store.state.state import StoredState, Table


def first_nonfinite(
    log: Log, wanted: Callable[[str], bool], executor: Executor | None = None
) -> tuple[int, tuple[str, ...]] | None:
    """The first version with a number that is infinite or none, and the arrays that have one.

    Commits that counted such numbers are believed; of the others the bytes are looked at, in one
    replay that begins with the first of them.
    """
    state: StoredState | None = None
    for version in range(log.first_version, log.version + 1):
        record = log.record(version)
        if record.flags & DIGESTS:
            bad = record.digests["id"][record.digests["nonfinite"] > 0].tolist()
            names = [name for name in map(log.name_of, bad) if wanted(name)]
        elif version < log.kept_since or not record.is_saved:
            continue
        else:
            if state is None:
                state = log.state(version, wanted, executor=executor)
                ids = list(state.words)
            else:
                log.advance(state, version)
                ids = [i for i in record.touched() if i in state.words]
            infos = [state.table.arrays[i] for i in ids]
            names = [info.name for info in infos if count_non_finite(state, info)]
        if names:
            return version, tuple(sorted(names))
    return None


def first_divergence(ours: Log, theirs: Log) -> tuple[int, int, tuple[str, ...]] | None:
    """The versions of the first step at which the trees of two runs differ, and in which arrays.

    Steps that only one of them has are passed over.

    Cost: the headers of both, and no bytes of arrays.
    """
    mine, others = _versions_by_step(ours), _versions_by_step(theirs)
    here, there = _Walk(ours), _Walk(theirs)
    for step in sorted(mine.keys() & others.keys(), key=mine.__getitem__):
        left, right = here.lanes(mine[step]), there.lanes(others[step])
        differing = {n for n in left.keys() | right.keys() if left.get(n) != right.get(n)}
        if differing:
            return mine[step], others[step], tuple(sorted(differing))
    return None


def _versions_by_step(log: Log) -> dict[int, int]:
    """Step → its newest version of the living lineage, of those that can be looked at."""
    passed, found = superseded_at(log, log.version), dict[int, int]()
    first = 1 if log.first_version == 1 else log.kept_since
    for version in range(first, log.version + 1):
        step = log.row(version).step
        if step is not None and not is_in(passed, version):
            found[step] = version
    return found


class _Walk:
    """The digests of the tree along a log, forward where it can."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._table: Table | None = None

    def lanes(self, version: int) -> dict[str, Lanes]:
        """Array of the tree → its digest at a version."""
        log, table = self._log, self._table
        if table is None or table.version > version:
            is_all = log.first_version == 1
            table = self._table = log.table(0 if is_all else version)
        for number in range(table.version + 1, version + 1):  # also of what was compacted away
            table.advance(log.record(number), log.chain_after(number))
        return {
            info.name: table.lanes_now(array_id)
            for array_id, info in table.arrays.items()
            if info.member
        }
