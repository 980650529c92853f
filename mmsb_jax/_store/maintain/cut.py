"""Where a compaction that goes by itself cuts: at the segment behind which the least is left."""

from collections.abc import Collection
from dataclasses import dataclass

from mmsb_jax._store.format.names import snapshot_name
from mmsb_jax._store.log.log import Log


@dataclass(frozen=True, slots=True)
class Cut:
    """A place to cut at.

    Attributes:
        keep_since: the first version that is kept in full.
        gain: bytes that it frees, less those that it writes.
    """

    keep_since: int
    gain: int


def best_cut(
    log: Log, chosen: Collection[int], state_bytes: int, until: int | None = None
) -> Cut | None:
    """The beginning of a segment at which a compaction frees the most; None where none does.

    Of what is older the states of ``chosen`` are kept, each as a snapshot, and of the version right
    before: it must have bytes.

    Args:
        log: the log.
        chosen: versions with bytes, of which the state must stay.
        state_bytes: of the newest state, as what a snapshot takes.
        until: the newest version that may go; None for any.
    """
    known = {version: log.files.size(snapshot_name(version)) for version in log.snapshots()}
    first, cuts = log.pieces[0], list[Cut]()
    newest = log.version if until is None else min(log.version, until + 1)
    tagged = set(log.tags().values())
    for piece in log.pieces:
        version = piece.segment.first_version
        if not 1 < version <= newest or not log.is_saved(version - 1):
            continue
        kept = {v for v in tagged.union(chosen) if v < version} | {version - 1}
        missing = [v for v in kept if v >= log.kept_since and v not in known]
        freed = piece.segment.base - first.segment.base
        freed += sum(size for v, size in known.items() if v < version and v not in kept)
        cuts.append(Cut(version, freed - len(missing) * state_bytes))
    best = max(cuts, key=lambda cut: cut.gain, default=None)
    return best if best is not None and best.gain > 0 else None
