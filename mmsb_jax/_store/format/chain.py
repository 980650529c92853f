"""Chains: what follows from what in a log, and which log wrote which version."""

import bisect
import itertools
import operator
import struct
from dataclasses import dataclass

import xxhash

from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.format.record import CommitRecord

_ANCESTOR = struct.Struct("<16sQ")
ANCESTOR_BYTES = _ANCESTOR.size
"""Bytes of an entry of a lineage."""
OTHER_HISTORY = "belongs to another history"
"""How the fault ends where a commit is whole, and does not follow from what is before it."""
OPEN = 2**64 - 1
"""Last version of a log whose commits are still to come."""


def chain_after(previous_chain: bytes, meta: bytes, data_hash: int) -> bytes:
    """The chain after a commit: xxh3-128 of that before, the commit's meta, its data's hash."""
    return xxhash.xxh3_128_digest(previous_chain + meta + struct.pack("<Q", data_hash))


def frames_hash(frames: list[tuple[int, int]]) -> bytes:
    """What a commit says of its data frames: xxh3-128 of (bytes, data hash) of each."""
    return xxhash.xxh3_128_digest(b"".join([struct.pack("<QQ", *frame) for frame in frames]))


def check_commit(
    record: CommitRecord, chain: bytes, log_ids: "LogIds", frames: list[tuple[int, int]]
) -> None:
    """Refuse a commit that does not follow ``chain``, or is not that of ``frames``.

    Args:
        record: the commit.
        chain: the chain before it.
        log_ids: which log's id a version carries.
        frames: (bytes, data hash) of the data frames before it.
    """
    if record.previous_chain != chain or record.log_id != log_ids.of(record.version):
        raise BadFrameError(f"version {record.version} {OTHER_HISTORY}")
    if not has_frames(record, frames):
        raise BadFrameError(f"version {record.version} has other data frames than it says")


def has_frames(record: CommitRecord, frames: list[tuple[int, int]]) -> bool:
    """Whether (bytes, data hash) are those of the data frames that a record names."""
    sizes = [size for size, _ in frames]
    return record.frame_sizes == sizes and record.frames_hash == frames_hash(frames)


@dataclass(frozen=True, slots=True)
class LogIds:
    """Which log wrote a version: a fork's early versions are its parent's.

    Attributes:
        lineage: (id, last version written under it) of the logs that this one was forked from.
        own: id of this log.
    """

    lineage: tuple[tuple[bytes, int], ...]
    own: bytes

    def of(self, version: int) -> bytes:
        """The id that the frame of ``version`` carries."""
        place = bisect.bisect_left(self.lineage, version, key=operator.itemgetter(1))
        return self.lineage[place][0] if place < len(self.lineage) else self.own

    def encode_lineage(self) -> bytes:
        """The lineage as bytes, 24 an entry."""
        return b"".join([_ANCESTOR.pack(*ancestor) for ancestor in self.lineage])

    @staticmethod
    def decode_lineage(raw: bytes) -> tuple[tuple[bytes, int], ...]:
        """The lineage in ``raw``, which it fills."""
        lineage = tuple(_ANCESTOR.iter_unpack(raw))
        if any(last < before for (_, before), (_, last) in itertools.pairwise(lineage)):
            raise BadFrameError("its ancestors do not stand in order")
        return lineage

    def may_hold(self, log_id: bytes, version: int) -> bool:
        """Whether a segment made by ``log_id`` may begin with ``version``.

        The log itself makes segments also for versions that it took from another.
        """
        return log_id == self.own or any(
            log_id == known and version <= last for known, last in self.lineage
        )


def closed(ids: LogIds, version: int) -> LogIds:
    """``ids`` where what follows ``version`` is the log's own."""
    if not ids.lineage or ids.of(version + 1) == ids.own:
        return ids
    return LogIds(tuple(_through(ids, version)), ids.own)


def opened(ids: LogIds, version: int, sender: LogIds) -> LogIds:
    """``ids`` where what follows ``version`` is the sender's."""
    lineage = _through(ids, version)
    coming = [(log_id, last) for log_id, last in sender.lineage if last > version]
    if not coming or coming[-1][1] != OPEN:
        coming.append((sender.own, OPEN))
    if lineage and lineage[-1][0] == coming[0][0]:
        del lineage[-1]
    return LogIds((*lineage, *coming), ids.own)


def _through(ids: LogIds, version: int) -> list[tuple[bytes, int]]:
    """Who wrote the versions up to ``version``, and who else made their segments."""
    if not version:
        return []
    kept = [(log_id, last) for log_id, last in ids.lineage if last < version]
    kept.append((ids.of(version), version))
    return kept + [entry for entry in ids.lineage if entry[1] == version and entry != kept[-1]]
