"""Weights for inference servers: one version behind the other, in full or as what changed."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from mmsb_jax._base.arguments import check_choice, is_integer, path_text, show
from mmsb_jax._base.errors import (
    ArrayNotFoundError,
    CorruptionError,
    DivergenceError,
    LocationError,
    StructureError,
    VersionError,
)
from mmsb_jax._bus.engine.session import Ref, Session
from mmsb_jax._bus.weights.delta import Encoding, can_encode, encode
from mmsb_jax._bus.weights.directory import WeightDirectory
from mmsb_jax._bus.weights.save import is_living, provenance_of, state_at
from mmsb_jax._bus.weights.tensor_file import file_buffers, shards_of
from mmsb_jax._bus.weights.tensors import Selection, Tensor
from mmsb_jax._bus.weights.version_index import INDEX_NAME, Provenance, VersionIndex
from mmsb_jax._store.files.protocol import Buffer
from mmsb_jax._store.files.unreadable import unreadable

_SHARD_BYTES = 5_000_000_000
Files = Iterable[tuple[str, list[Buffer]]]


@dataclass(frozen=True, slots=True)
class Published:
    """A version that was put in place for servers.

    Attributes:
        number: what servers ask for: one more than that of the version before it.
        version: the version of the log that it is.
        path: its directory.
        nbytes: bytes of its files.
        full: whether it is a whole checkpoint, and not what changed since the one before it.
    """

    number: int
    version: int
    path: Path
    nbytes: int
    full: bool


@dataclass(slots=True)
class _Weights:
    """All tensors of a version, with bytes of their own.

    Attributes:
        tensors: by name; bytes are changed in place.
        checksums: of the bytes of each.
    """

    tensors: dict[str, Tensor]
    checksums: dict[str, str] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        return sum(tensor.data.size for tensor in self.tensors.values())

    def checksum(self) -> str:
        """A checksum of all: names, dtypes, shapes, bytes."""
        whole = xxhash.xxh3_128()
        for name, tensor in sorted(self.tensors.items()):
            whole.update(repr((*tensor.schema, self.checksums[name])).encode())
        return whole.hexdigest()

    def fits(self, tensors: list[Tensor]) -> bool:
        """Whether other tensors are these but for their bytes."""
        known = {tensor.schema for tensor in self.tensors.values()}
        return known == {tensor.schema for tensor in tensors}


@dataclass(slots=True)
class _Push:
    """A version on its way.

    Attributes:
        weights: all tensors after it.
        provenance: where they are from.
        changes: old ^ new of each tensor that changed; None where what was before is not known.
    """

    weights: _Weights
    provenance: Provenance
    changes: dict[str, np.ndarray] | None


class Publisher:
    """Versions of weights in a directory that inference servers pull from. `Bus.publish` makes one.

    Thread-safe. What is in the directory is looked at with each call: nothing is lost with this
    object, and another one goes on where it was.

    Attributes:
        path: the directory.
    """

    def __init__(
        self,
        session: Session,
        durable_now: Callable[[], int],
        directory: WeightDirectory,
        selection: Selection,
        anchor_every: int,
        encoding: Encoding,
        config: Path | None,
    ) -> None:
        self.path = directory.root
        self._session = session
        self._durable_now = durable_now
        self._directory = directory
        self._selection = selection
        self._anchor_every = anchor_every
        self._encoding: Encoding = encoding
        self._config = config
        self._turn = threading.Lock()
        self._held: tuple[int, _Weights] | None = None
        session.refresh()
        self._newest()

    def push(self, ref: Ref | None = None) -> Published:
        """Publish a version: what changed since the one published last, or all of it.

        The log is synced first, so that no server is ahead of it after a power cut. The version is
        put in place by one renaming; before that nothing of it can be seen. It is a full one where
        it is the first, where ``anchor_every`` are behind the last full one, where names, shapes or
        dtypes are others, where what was published last cannot be had from the log any more, and
        where what changed would take as many bytes.

        Args:
            ref: which version; the newest that has bytes for None. It may be an older one.

        Returns:
            What was published; where that version is the newest one there already, that.

        Raises:
            VersionError: no such version, or its bytes were not logged or were dropped; the
                message names the nearest.
            DivergenceError: what is in the directory was published from another log, or from
                commits that this log does not have.
            ArrayNotFoundError, StructureError: what is chosen is not there, cannot be written, or
                is stale.
            LockedError: another publisher was faster.
            LocationError: the disk is full or fails. Nothing was published; push again.

        Cost: one look at all bytes of the weights, zstd of those that changed, and a sync of three
        files. The bus is held for the look. The publisher holds a copy of the weights; the first
        push after it was made hashes them, or reads them from the log.
        """
        with self._turn:
            until = self._durable_now()
            newest = self._newest()
            base = self._base(newest)
            with self._session.lock:
                push = self._taken(self._version_of(ref, until), base)
            return self._put(push, newest)

    def prune(self, keep: int = 1) -> list[int]:
        """Delete versions that no server needs which begins at one of the newest ``keep``.

        These stay, and what they build on: from the last full version before them on. A server
        that is further behind goes on with that. A server must not be pulling one that is deleted.

        Args:
            keep: how many.

        Returns:
            The numbers of the versions that were deleted.

        Raises:
            DivergenceError: as for `push`; nothing was deleted.
            LocationError: the disk fails; a version is there as a whole, or not at all.
        """
        if not is_integer(keep) or keep < 1:
            raise ValueError(f"keep={show(keep)}: expected 1 or more")
        with self._turn:
            self._session.refresh()
            newest = self._newest()
            if newest is None:
                return []
            numbers = self._directory.numbers()
            oldest = self._directory.index_of(numbers[-keep:][0])
            needed = min(oldest.anchor, newest.anchor)
            gone = [number for number in numbers if number < needed]
            self._directory.remove(gone)
            return gone

    def __repr__(self) -> str:
        return f"<Publisher into {self.path}>"

    # ------------------------------------------------------------------------------ what is there

    def _newest(self) -> VersionIndex | None:
        """The newest version in the directory, which must be of this log."""
        numbers = self._directory.numbers()
        if numbers:
            index = self._directory.index_of(numbers[-1])
            self._refuse_other(index)
            return index
        mark = self._directory.mark()
        ids = self._session.log.manifest.ids
        if mark.number and mark.log_id not in {ids.own.hex(), *(i.hex() for i, _ in ids.lineage)}:
            raise _of_another(self.path, f"the log {mark.log_id}")
        return None

    def _refuse_other(self, index: VersionIndex) -> None:
        log, origin = self._session.log, index.provenance
        if origin.version <= log.version:
            try:
                if log.retry_if_compacted(lambda: log.chain_at(origin.version)).hex() == (
                    origin.chain
                ):
                    return
            except VersionError:  # before the oldest that the log knows of
                pass
        whose = f"version {origin.version} of the log {origin.log_id}"
        raise _of_another(self._directory.path_of(index.number), whose)

    def _version_of(self, ref: Ref | None, until: int) -> int:
        self._session.settle()
        log = self._session.log
        if ref is None:
            version = log.newest_with(self._selection.wanted, until)
            if not version:
                raise VersionError("no version has bytes yet: there is nothing to publish. Commit.")
            return version
        version = self._session.number_of("ref", ref)
        if version > until:
            raise VersionError(
                f"version {version} may be lost in a power cut: {until} is the newest that cannot. "
                f"Sync the bus that writes the log, and push again."
            )
        return version

    # --------------------------------------------------------------------- what goes there

    def _taken(self, version: int, base: _Weights | None) -> _Push:
        """What is to be published, in bytes of its own; the lock of the bus is held.

        Args:
            version: which version.
            base: the weights that were published last.
        """
        session = self._session
        state = state_at(session, version, self._selection)
        tensors = self._selection.tensors(state)
        provenance = provenance_of(session.log, state.table)
        if base is not None and base.fits(tensors):
            jobs = [(tensor, base.tensors[tensor.name]) for tensor in tensors]
            found = session.threads.map(_mixed, *zip(*jobs, strict=True))
            changes = {
                tensor.name: mixed
                for tensor, mixed in zip(tensors, found, strict=True)
                if mixed is not None
            }
            return _Push(base, provenance, changes)
        if is_living(session, state):
            tensors = [
                Tensor(tensor.name, tensor.dtype, tensor.shape, tensor.data.copy())
                for tensor in tensors
            ]
        return _Push(self._with_checksums(tensors), provenance, None)

    def _base(self, newest: VersionIndex | None) -> _Weights | None:
        """The weights that were published last; None where they cannot be had.

        They are the publisher's no more: who fails on the way has them read again.
        """
        held, self._held = self._held, None
        if newest is None or self._directory.mark().number != newest.number:
            return None
        if held is not None and held[0] == newest.number and held[1].checksum() == newest.weights:
            return held[1]
        del held
        try:
            state = self._session.log.state(
                newest.provenance.version, self._selection.wanted, executor=self._session.threads
            )
            weights = self._with_checksums(self._selection.tensors(state))
        except (ArrayNotFoundError, CorruptionError, StructureError, VersionError):
            return None
        return weights if weights.checksum() == newest.weights else None

    def _with_checksums(self, tensors: list[Tensor]) -> _Weights:
        found = self._session.threads.map(_checksum, [tensor.data for tensor in tensors])
        names = [tensor.name for tensor in tensors]
        return _Weights(
            dict(zip(names, tensors, strict=True)), dict(zip(names, found, strict=True))
        )

    def _put(self, push: _Push, newest: VersionIndex | None) -> Published:
        """Write what is to be published, and put it in place."""
        weights, payloads = push.weights, self._advanced(push)
        checksum = weights.checksum()
        if newest is not None and (checksum, push.provenance) == (
            newest.weights,
            newest.provenance,
        ):
            self._held = newest.number, weights
            return self._published(newest)
        number = max(self._directory.mark().number, newest.number if newest else 0) + 1
        anchor = number if newest is None else newest.anchor
        is_full = payloads is None or self._must_be_full(number, anchor, payloads, weights)
        index = VersionIndex(
            number=number,
            anchor=number if is_full else anchor,
            encoding=None if is_full else self._encoding,
            weights=checksum,
            provenance=push.provenance,
        )
        files = self._full(index, weights) if is_full else _delta(index, weights, payloads or {})
        nbytes = self._directory.put(index, files)
        self._held = number, weights
        return Published(
            number, push.provenance.version, self._directory.path_of(number), nbytes, is_full
        )

    def _published(self, index: VersionIndex) -> Published:
        path = self._directory.path_of(index.number)
        return Published(
            index.number,
            index.provenance.version,
            path,
            self._directory.nbytes_of(index.number),
            index.is_full,
        )

    def _advanced(self, push: _Push) -> dict[str, np.ndarray] | None:
        """What servers apply, tensor by tensor, and the weights brought forward by it."""
        changes, weights = push.changes, push.weights
        if changes is None:
            return None

        def advance(name: str, mixed: np.ndarray) -> np.ndarray | None:
            data = weights.tensors[name].data
            np.bitwise_xor(data, mixed, out=data)
            weights.checksums[name] = _checksum(data)
            if not can_encode(self._encoding, data.size):
                return None
            return encode(self._encoding, mixed, data)

        found = list(self._session.threads.map(advance, changes.keys(), changes.values()))
        if any(payload is None for payload in found):
            return None
        return dict(zip(changes, found, strict=True))

    def _must_be_full(
        self, number: int, anchor: int, payloads: dict[str, np.ndarray], weights: _Weights
    ) -> bool:
        if number - anchor >= self._anchor_every:
            return True
        if set(range(anchor, number)) - set(self._directory.numbers()):
            return True  # one was taken away: a server that begins anew could not get here
        return sum(payload.size for payload in payloads.values()) >= weights.total_bytes > 0

    def _full(self, index: VersionIndex, weights: _Weights) -> Files:
        """The files of a whole checkpoint."""
        shards = list(shards_of(list(weights.tensors.values()), _SHARD_BYTES))
        metadata = {"format": "pt"}
        where: dict[str, str] = {}
        for place, shard in enumerate(shards, start=1):
            name = f"model-{place:05d}-of-{len(shards):05d}.safetensors"
            where |= dict.fromkeys((tensor.name for tensor in shard), name)
            yield name, file_buffers(shard, metadata)
        yield from _beside(self._config)
        yield INDEX_NAME, [index.encode(where, weights.total_bytes)]


def _delta(index: VersionIndex, weights: _Weights, payloads: dict[str, np.ndarray]) -> Files:
    """The files of what changed."""
    name = "model-00001-of-00001.safetensors"
    if payloads:
        tensors = [Tensor(key, "U8", (data.size,), data) for key, data in payloads.items()]
        checksums = {key: weights.checksums[key] for key in payloads}
        yield name, file_buffers(tensors, checksums)
    yield INDEX_NAME, [index.encode(dict.fromkeys(payloads, name), weights.total_bytes)]


def _beside(folder: Path | None) -> Iterator[tuple[str, list[Buffer]]]:
    """The files of a checkpoint that are no weights."""
    if folder is None:
        return
    try:
        for path in sorted(folder.iterdir()):
            is_weights = ".safetensors" in path.name or path.suffix == ".bin"
            if path.is_file() and not is_weights:
                yield path.name, [path.read_bytes()]
    except OSError as error:
        raise unreadable(error, folder) from error


def _mixed(new: Tensor, old: Tensor) -> np.ndarray | None:
    """old ^ new; None where they are the same."""
    mixed = np.bitwise_xor(new.data, old.data)
    return mixed if mixed.max(initial=0) else None


def _checksum(data: np.ndarray) -> str:
    return xxhash.xxh3_128_hexdigest(data.data)


def _of_another(place: Path, whose: str) -> DivergenceError:
    return DivergenceError(
        f"{place} is {whose}, which is not in the history of this log: servers that follow it have "
        f"other weights. Publish into another directory."
    )


def check_publishing(anchor_every: Any, encoding: Any, config: Any) -> None:
    """Refuse what cannot be settings of a publisher."""
    check_choice("encoding", encoding, "xor", "overwrite")
    if not is_integer(anchor_every) or anchor_every < 1:
        raise ValueError(f"anchor_every={show(anchor_every)}: expected 1 or more")
    if config is not None and not os.path.isdir(path_text("config", config)):
        raise LocationError(f"config={show(config)} is no directory. Give that of a checkpoint.")
