"""Replicas: the newest arrays of another process, kept up by what changes.

A replica has no log. It reads one that another process writes, or what that exported, and brings
its arrays forward on the device: weights of a trainer in an inference server.
"""

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import CorruptionError, DivergenceError, StructureError, VersionError
from mmsb_jax._bus.replica.arrays import ReplicaArrays
from mmsb_jax._bus.trees import checkout as checkouts
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.local import check_log_place
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.format.data import CommitFrames
from mmsb_jax._store.format.frame import BadFrameError
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.state.state import StoredState, Table
from mmsb_jax._store.transfer.stream import Stream, open_stream, shipped

Source = str | os.PathLike[str] | Buffer | Iterator[Buffer]

_LEAST_FAR_BYTES = 1 << 20
"""Commits of so many bytes are always taken one by one: loading has a price of its own."""


class Replica:
    """The newest arrays of another process.

    Large JAX arrays are on their devices alone, and only what changed travels there: elements as a
    scatter, dense changes as a whole. What lies between two updates is composed on the host, so
    that each array is changed once. The old arrays stay until the digest of the new ones, computed
    from all their words on the device, is the one that the other process recorded. Nothing is
    computed but that, and no function runs.

    Args:
        source: the directory of a log; or what `Bus.export` made: bytes, or an iterator of such,
            of which each update takes one. None where `update` is always given one.
        like: a tree that gives classes, functions and shardings, and whose paths, shapes and dtypes
            must be those recorded. `jax.ShapeDtypeStruct` will do.
        arrays: patterns (``params/**``) of the arrays to hold; all of the committed tree for None.

    Attributes:
        version: the version that the arrays are of; 0 before the first update.

    Raises:
        LocationError: no log at ``source``.

    Cost: see `update`. Memory: the arrays, and while one is brought forward a second copy of those
    that change; a copy on the host of those up to 64 KiB and of what is no JAX array.

    >>> import jax.numpy as jnp
    >>> import mmsb_jax as mmsb
    >>> bus = mmsb.open()
    >>> _ = bus.commit({"w": jnp.zeros(3)})
    >>> replica = mmsb.Replica(bus.export(), like={"w": jnp.zeros(3)})
    >>> replica.update()
    {'w': Array([0., 0., 0.], dtype=float32)}
    >>> _ = bus.commit({"w": jnp.ones(3)})
    >>> replica.update(bus.export(since=replica.version))
    {'w': Array([1., 1., 1.], dtype=float32)}
    >>> replica.version
    2
    """

    def __init__(
        self, source: Source | None = None, *, like: Any, arrays: Sequence[str] | None = None
    ) -> None:
        self._like, self._patterns = like, arrays
        self._wanted = checkouts.wanted_names(arrays)
        self._arrays: ReplicaArrays | None = None
        self._log: Log | None = None
        self._frames: Iterator[Buffer] = iter(())
        if isinstance(source, str | os.PathLike):
            self._log = _open_log(Path(source))
            weakref.finalize(self, self._log.files.close)
        elif isinstance(source, bytes | bytearray | memoryview):
            self._frames = iter([source])
        elif isinstance(source, Iterator):
            self._frames = source
        elif source is not None:
            raise TypeError(
                f"source={show(source)}: expected a path, what export made, or an iterator of that"
            )

    @property
    def version(self) -> int:
        """The newest version that was taken; 0 before the first update.

        The arrays are of it, or of the newest before it that has bytes.
        """
        return 0 if self._arrays is None else self._arrays.table.version

    def __repr__(self) -> str:
        return f"<Replica of version {self.version}>"

    def update(self, frames: Buffer | str | os.PathLike[str] | None = None) -> Any:
        """The newest tree; where nothing is new, the one before.

        Its arrays are shared with the replica: donate copies.

        Args:
            frames: what `Bus.export` made, bytes or the path of a file, to be taken now; None takes
                what the replica's source has.

        Returns:
            The tree, in the structure of ``like``; None before there is one.

        Raises:
            StructureError: ``like`` differs from what is recorded; every path is named. The arrays
                were donated, and there is no log to take them from again.
            CorruptionError: what was written does not read back, or the new arrays have another
                digest than recorded. The replica keeps the arrays that it has.
            VersionError: ``frames`` begins behind versions that are not here.
            DivergenceError: ``frames``, or the log, is of another history.
            LocationError: the log was removed, or moved elsewhere.

        Cost: the changed words travel to the device, 12 bytes each, and arrays with a change are
        copied and digested there, once each; the first update, and one that is further behind than
        the state is large, loads all of it.
        """
        if frames is None and self._log is not None:
            self._keep_up(self._log)
        elif frames is not None or (frames := next(self._frames, None)) is not None:
            with open_stream(frames) as stream:
                self._take(stream)
        return None if self._arrays is None else self._arrays.tree

    def close(self) -> None:
        """Let go of the log; the arrays stay."""
        if self._log is not None:
            self._log.files.close()

    def __enter__(self) -> "Replica":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------- inside

    def _keep_up(self, log: Log) -> None:
        """Take what the log has; again, where a compaction took it away meanwhile."""
        newest = -1
        while True:
            log.refresh()
            try:
                self._follow(log)
            except VersionError:
                if log.version == newest:
                    raise
                newest = log.version
            else:
                return

    def _follow(self, log: Log) -> None:
        """Take what the log has; all of the newest state, where that is less than the way to it."""
        newest, here = log.version, self.version
        if newest == here:
            return
        if newest < here:
            raise DivergenceError(
                f"{log.place} ends at version {newest}, and the replica is at {here}: it is not "
                f"the log that was followed. Make a new Replica."
            )
        arrays = self._arrays
        if arrays is not None and arrays.are_there and not _is_far(log, here, newest, arrays):
            commits = (shipped(log, version) for version in range(here + 1, newest + 1))
            arrays = self._after(arrays, commits, log.place)
            if arrays is not None:
                self._arrays = arrays
                return
        self._arrays = self._load(log.head(wanted=self._wanted), log.place)

    def _take(self, stream: Stream) -> None:
        """Take what is new of a stream."""
        head, arrays = stream.head, self._arrays
        if arrays is None or arrays.table.version < head.since:
            if head.since and not head.snapshot_bytes:
                raise VersionError(
                    f"{stream.place} begins behind version {head.since}, and the replica is at "
                    f"version {self.version}: what is between is missing. Export with "
                    f"since={self.version}, or without since."
                )
            self._arrays = self._load(_replayed(stream, self._wanted), stream.place)
            return
        if not arrays.are_there:
            raise StructureError(
                "the arrays of this replica were donated or deleted, and a stream has only what "
                "changed. Donate copies; make a new Replica of an export without since."
            )
        after = self._after(arrays, _behind(stream, arrays.table), stream.place)
        if after is None:
            raise StructureError(
                f"{stream.place} leads to another structure than that of `like`. Make a new "
                f"Replica of an export without since, with a `like` of the new structure."
            )
        self._arrays = after

    def _load(self, state: StoredState, place: str) -> ReplicaArrays:
        try:
            return ReplicaArrays.of(state, self._like, self._patterns)
        except BadFrameError as error:
            raise _unfit(place, state.table.version, error) from error

    def _after(
        self, arrays: ReplicaArrays, commits: Iterator[CommitFrames], place: str
    ) -> ReplicaArrays | None:
        try:
            return arrays.after(commits, place)
        except BadFrameError as error:
            raise _unfit(place, arrays.table.version, error) from error


def _open_log(path: Path) -> Log:
    place = check_log_place(path)
    return Log(DiskFiles(place), str(place))


def _is_far(log: Log, version: int, newest: int, arrays: ReplicaArrays) -> bool:
    """Whether the newest state is had for less than the commits that lead to it."""
    if version + 1 < log.kept_since:
        return True
    left = max(arrays.nbytes, _LEAST_FAR_BYTES)
    for between in range(version + 1, newest + 1):
        left -= log.row(between).logged_bytes
        if left < 0:
            return True
    return False


def _replayed(stream: Stream, wanted: Callable[[str], bool] | None) -> StoredState:
    """The newest state of a stream that begins with a state, or with the first commit."""
    commits = stream.commits()
    if stream.head.snapshot_bytes:
        state = stream.state(wanted)[0]
        next(commits)  # that of the snapshot
    else:
        state = StoredState(stream.head.ids.of(1), wanted)
    try:
        for commit in commits:
            state.apply(commit.record, commit.chain, commit.chunks)
        state.check_digest()
    except BadFrameError as error:
        raise _unfit(stream.place, state.table.version, error) from error
    return state


def _behind(stream: Stream, table: Table) -> Iterator[CommitFrames]:
    """The commits of a stream behind the version of ``table``, which must be of its history."""
    head = stream.head
    if head.since == table.version and head.chain != table.chain:
        raise _other_history(stream.place, table.version)
    for commit in stream.commits():
        version = commit.record.version
        if version == table.version and commit.chain != table.chain:
            raise _other_history(stream.place, version)
        if version > table.version:
            yield commit


def _other_history(place: str, version: int) -> DivergenceError:
    return DivergenceError(
        f"{place} is of another history than what the replica has: they differ at version "
        f"{version} or before. Make a new Replica."
    )


def _unfit(place: str, version: int, error: BadFrameError) -> CorruptionError:
    return CorruptionError(
        f"{place}: what follows version {version} does not lead to the state that it names: "
        f"{error}. The replica keeps the arrays that it has."
    )
