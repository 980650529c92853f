"""A state rebuilt from the log: the table of arrays, their bytes, and what commits do to them."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

import numpy as np

from mmsb_jax._base.errors import StructureError
from mmsb_jax._base.memory_limit import check_room, no_room
from mmsb_jax._store.encoding.base import check_within, span_of
from mmsb_jax._store.encoding.decode import check_extent, decode_all, decode_into
from mmsb_jax._store.encoding.digest import (
    ZERO,
    Lanes,
    constant_term,
    digest_each,
    digest_words,
    state_sum,
    state_term,
)
from mmsb_jax._store.encoding.sparse import decode_sparse
from mmsb_jax._store.format.chunk import SPARSE_CODINGS, ChunkData, held_bytes, own_data
from mmsb_jax._store.format.frame import BadFrameError, check_text
from mmsb_jax._store.format.record import (
    EXTRA_ID,
    FULL,
    GRAPH_PREFIX,
    MAX_ARRAY_BYTES,
    MAX_NAME_BYTES,
    PAGE_VERSIONS,
    VALUES_REPLACE,
    ArrayInfo,
    CommitRecord,
    Op,
    OpCode,
    PlainRecord,
)

DataReader = Callable[[], Sequence[ChunkData]]
"""Reads the data of a commit, chunk by chunk, in order. Called only when a chunk is wanted."""

_MOST_WAITING_BYTES = 64 << 20

_PIECEMEAL_WORDS = 1 << 20
_TOGETHER_WORDS = 1 << 15
"""Words of small arrays that are digested together."""


class Later:
    """Chunks that are still to be decoded, so that those of an array are decoded together.

    Args:
        executor: where arrays are decoded side by side.

    Attributes:
        chunks: array id → its chunks, each with its version, in order.
        nbytes: about what they take.
    """

    def __init__(self, executor: Executor | None) -> None:
        self.executor = executor
        self.chunks: dict[int, list[tuple[np.void, ChunkData, int]]] = {}
        self.nbytes = 0

    def add(self, array_id: int, chunks: list[tuple[np.void, ChunkData, int]], nbytes: int) -> None:
        """Put off chunks of an array."""
        self.chunks.setdefault(array_id, []).extend(chunks)
        self.nbytes += nbytes

    def take(self) -> list[tuple[int, list[tuple[np.void, ChunkData, int]]]]:
        """All of them, which do not wait any more."""
        arrays, self.chunks, self.nbytes = list(self.chunks.items()), {}, 0
        return arrays


def word_count(nbytes: int) -> int:
    """Words that hold ``nbytes`` bytes."""
    return -(-nbytes // 4)


@dataclass(slots=True)
class Table:
    """What is known of a state without its bytes: arrays, constants, digests, the chain."""

    log_id: bytes
    version: int = 0
    chain: bytes = bytes(16)
    state_digest: int = 0
    next_id: int = 1
    arrays: dict[int, ArrayInfo] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    graph: dict[str, str] = field(default_factory=dict)
    """What is recorded of the graph: derived arrays, links, stale marks (`GRAPH_PREFIX`)."""
    lanes: dict[int, Lanes] = field(default_factory=dict)
    bases: dict[int, int] = field(default_factory=dict)
    """Version of the newest record of each array; a delta builds on it."""
    ahead: dict[int, Lanes] = field(default_factory=dict)
    """Of the arrays whose bytes are those of an earlier version, what the digest would be: where
    the newest commits hold no bytes. `lanes` are those of the bytes."""
    saved_version: int = 0
    """The newest version whose bytes were logged."""

    def apply_ops(self, ops: Iterable[Op]) -> list[tuple[Op, ArrayInfo | None]]:
        """Make the operations of a commit; returns each with the array before it."""
        done = []
        made: set[int] = set()
        for op in ops:
            info, before = op.info, self.arrays.get(op.info.id)
            try:
                check_text("the name of an array", info.name, MAX_NAME_BYTES)
            except StructureError as error:  # never of one that was read
                raise BadFrameError(str(error)) from error
            if (op.code is OpCode.CREATE) != (before is None):
                raise BadFrameError(f"{op.code.name} of array {info.id} {info.name!r} does not fit")
            if before is None and (info.id < self.next_id or info.id in made):
                raise BadFrameError(f"the id of array {info.id} {info.name!r} was used before")
            if before is not None and before.name != info.name:
                raise BadFrameError(f"array {info.id} is named {before.name!r}, not {info.name!r}")
            if info.spanned_bytes > MAX_ARRAY_BYTES:
                raise BadFrameError(f"array {info.name!r} claims {info.spanned_bytes} bytes")
            if op.code is OpCode.CREATE and info.name in self.ids:
                raise BadFrameError(f"two arrays are named {info.name!r}")
            if op.code is OpCode.DELETE:
                del self.arrays[info.id], self.ids[info.name]
                self.lanes.pop(info.id, None)
                self.bases.pop(info.id, None)
            else:
                self.arrays[info.id] = info
                self.ids[info.name] = info.id
                made.add(info.id)
            done.append((op, before))
        return done

    def copied(self) -> "Table":
        """Another one that says the same."""
        names = ("arrays", "ids", "values", "graph", "lanes", "bases", "ahead")
        return replace(self, **{name: dict(getattr(self, name)) for name in names})

    def apply_values(self, record: CommitRecord | PlainRecord) -> None:
        """Make the commit's changes of the constants."""
        if record.flags & VALUES_REPLACE:
            self.values.clear()
            self.graph.clear()
        for name, value in record.values.items():
            kept = self._kept_with(name)
            if value is None:
                kept.pop(name, None)
            else:
                kept[name] = value

    def value_of(self, name: str) -> str | None:
        """The constant, or entry of the graph, called ``name``; None where there is none."""
        return self._kept_with(name).get(name)

    def _kept_with(self, name: str) -> dict[str, str]:
        return self.graph if name.startswith(GRAPH_PREFIX) else self.values

    def apply_head(self, record: CommitRecord | PlainRecord, chain: bytes) -> None:
        """Take over what the commit says of itself."""
        self.log_id = record.log_id
        self.version = record.version
        self.state_digest = record.state_digest
        self.next_id = record.next_id
        self.chain = chain
        if not record.is_saved:
            for array_id, lane0, lane1, _ in record.digests.tolist():
                if array_id not in self.arrays:
                    raise BadFrameError(f"a digest of array {array_id}, which is not there")
                self.ahead[array_id] = (lane0, lane1)
            return
        self.saved_version = record.version
        self.ahead.clear()
        for array_id, _, lane0, lane1, _, _, flags in record.rows():
            if array_id != EXTRA_ID and not flags & PAGE_VERSIONS:
                self.lanes[array_id] = (lane0, lane1)
                self.bases[array_id] = record.version

    def lanes_now(self, array_id: int) -> Lanes:
        """The digest of an array as it is at this version, whether its bytes are or not."""
        return self.ahead.get(array_id) or self.lanes.get(array_id, ZERO)

    def advance(self, record: CommitRecord, chain: bytes) -> None:
        """Bring the table forward by one commit; ``chain`` is that after it."""
        self.apply_ops(record.ops)
        self.apply_values(record)
        self.apply_head(record, chain)

    def stored_digest(self) -> int:
        """The digest of the bytes that there are: `state_digest`, but for what they lack."""
        total = self.state_digest
        for array_id, lanes in self.ahead.items():
            schema = self.arrays[array_id].schema()
            total += state_term(array_id, schema, self.lanes.get(array_id, ZERO))
            total -= state_term(array_id, schema, lanes)
        return state_sum(total, 0)

    def digest(self) -> int:
        """The digest of the state, from the lanes of its arrays and its constants."""
        total = 0
        for array_id, info in self.arrays.items():
            term = state_term(array_id, info.schema(), self.lanes_now(array_id))
            total = state_sum(total, term)
        for name, value in (self.values | self.graph).items():
            total = state_sum(total, constant_term(name, value))
        return total


class StoredState:
    """A state with its bytes, brought forward commit by commit.

    Args:
        log_id: id of the log that its versions carry.
        wanted: names of arrays → whether to hold their bytes; None holds all.
        page_bytes: size of a page, to keep the version of each page; None keeps none.
    """

    def __init__(
        self,
        log_id: bytes,
        wanted: Callable[[str], bool] | None = None,
        page_bytes: int | None = None,
    ) -> None:
        self.table = Table(log_id)
        self.words: dict[int, np.ndarray] = {}
        self.page_versions: dict[int, np.ndarray] = {}
        self._wanted = wanted
        self._page_bytes = page_bytes
        self._held_bytes = 0

    @property
    def keeps_page_versions(self) -> bool:
        """Whether the version of each page is kept, for which every change must be replayed."""
        return self._page_bytes is not None

    def bytes_of(self, array_id: int) -> np.ndarray:
        """The bytes of an array (uint8[nbytes]), a view."""
        nbytes = self.table.arrays[array_id].nbytes
        return self.words[array_id].view(np.uint8)[:nbytes]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(info.nbytes for info in self.table.arrays.values())

    def copied(self) -> "StoredState":
        """Another one that holds the same, in words of its own."""
        other = StoredState(self.table.log_id, self._wanted, self._page_bytes)
        other.table = self.table.copied()
        other.words = {array_id: words.copy() for array_id, words in self.words.items()}
        other.page_versions = {i: versions.copy() for i, versions in self.page_versions.items()}
        other._held_bytes = self._held_bytes
        return other

    @property
    def held_bytes(self) -> int:
        """Bytes held of them, with the versions of their pages."""
        return self._held_bytes + sum(pages.nbytes for pages in self.page_versions.values())

    def apply(
        self,
        record: CommitRecord,
        chain: bytes,
        read_chunks: DataReader,
        skip: Iterable[int] = (),
        later: Later | None = None,
        broken: set[int] | None = None,
    ) -> None:
        """Bring the state forward by one commit; ``chain`` is that after it.

        Records of the ids in ``skip`` are passed over: a later full record replaces them. With
        ``later``, chunks are put there, to be decoded by `decode_later`. With ``broken``, the ids
        of arrays whose record does not decode are put there, and the others go on.
        """
        self.operate(record.ops)
        self.table.apply_values(record)
        self._apply_records(record, read_chunks, frozenset(skip), later, broken)
        self.table.apply_head(record, chain)

    def decode_later(self, later: Later) -> None:
        """Decode what `apply` put off, array by array, and forget it."""
        run = map if later.executor is None else later.executor.map
        for _ in run(lambda array: self._put(*array), later.take()):
            pass

    def begin(self, record: CommitRecord) -> list[np.ndarray | None]:
        """Take over what a snapshot's record says; this state must be empty.

        Returns:
            For each of its chunks the array that it is a part of (uint8[n]), to be decoded there;
            None for what is not held. `end` comes once that is done.
        """
        table, targets, stop = self.table, list[np.ndarray | None](), 0
        self.operate(record.ops)
        table.apply_values(record)
        table.log_id = record.log_id
        table.version = table.saved_version = record.version
        table.next_id = record.next_id
        table.state_digest, table.chain = record.state_digest, record.previous_chain
        for array_id, base, lane0, lane1, _, count, flags in record.rows():
            start, stop = stop, stop + count
            if array_id == EXTRA_ID:
                targets += [None] * count
                continue
            if array_id not in table.arrays:
                raise BadFrameError(f"a record of array {array_id}, which is not there")
            is_versions = bool(flags & PAGE_VERSIONS)
            if not is_versions:
                # The deltas that follow build on the record that each array had last.
                table.bases[array_id], table.lanes[array_id] = base, (lane0, lane1)
            target = self._target(array_id, record.chunks[start:stop], is_versions, flags)
            targets += [target] * count
        return targets

    def _target(
        self, array_id: int, rows: np.ndarray, is_versions: bool, flags: int
    ) -> np.ndarray | None:
        """Where the chunks of one record of a snapshot go."""
        if array_id not in self.words:
            return None
        if is_versions:
            versions, raw = self.page_versions.get(array_id), int(rows["raw"].sum(dtype=np.uint64))
            if versions is not None and raw != versions.nbytes:
                raise BadFrameError(f"the page versions of array {array_id} are not one a page")
            return None if versions is None else versions.view(np.uint8)
        return self._target_of_bytes(array_id, rows, flags)

    def _target_of_bytes(self, array_id: int, rows: np.ndarray, flags: int) -> np.ndarray:
        """The bytes of an array, where the chunks of one record go; they must fit."""
        target = self.bytes_of(array_id)
        if flags & FULL and int(rows["raw"].sum(dtype=np.uint64)) != target.size:
            raise BadFrameError(f"a full record of array {array_id} does not give all its bytes")
        check_extent(rows, target.size)
        return target

    def end(self, record: CommitRecord) -> None:
        """Give the pages of which a snapshot says no version, and that are not zero, its own."""
        given = {row[0] for row in record.rows() if row[6] & PAGE_VERSIONS}
        for array_id in self.page_versions.keys() - given:
            words, versions = self.words[array_id], self.page_versions[array_id]
            if words.size and self._page_bytes is not None:
                starts = np.arange(0, words.size, self._page_bytes // 4)
                versions[np.logical_or.reduceat(words != 0, starts)] = record.version

    def load(self, record: CommitRecord, views: Sequence[ChunkData]) -> None:
        """Take over the whole state that a snapshot holds, whose chunks are ``views``."""
        for target, row, view in zip(self.begin(record), record.chunks, views, strict=True):
            if target is not None:
                decode_into(target, row, view)
        self.end(record)

    def operate(self, ops: Iterable[Op]) -> list[tuple[Op, ArrayInfo | None]]:
        """Make the operations of a commit; returns each with the array before it."""
        done = self.table.apply_ops(ops)
        for op, before in done:
            if op.code is OpCode.DELETE:
                self._hold(op.info.id, None)
            elif self._wanted is None or self._wanted(op.info.name):
                self._allocate(op.info, before)
        return done

    def _allocate(self, info: ArrayInfo, before: ArrayInfo | None) -> None:
        pages = 0 if self._page_bytes is None else -(-info.nbytes // self._page_bytes)
        needed = self._held_bytes + info.nbytes + 8 * pages
        check_room(needed, f"array {info.name!r} with those before it")
        try:
            fresh, versions = (
                np.zeros(word_count(info.nbytes), np.uint32),
                np.zeros(pages, np.uint64),
            )
        except MemoryError as error:
            raise no_room(info.nbytes + 8 * pages, f"array {info.name!r}") from error
        old = self.words.get(info.id)
        if old is not None and before is not None:
            kept = min(before.nbytes, info.nbytes)
            fresh.view(np.uint8)[:kept] = old.view(np.uint8)[:kept]
        self._hold(info.id, fresh)
        if self._page_bytes is not None:
            known = self.page_versions.get(info.id, versions[:0])[:pages]
            versions[: known.size] = known
            self.page_versions[info.id] = versions

    def _hold(self, array_id: int, words: np.ndarray | None) -> None:
        """Hold ``words`` as those of an array; None lets go of it."""
        old = self.words.pop(array_id, None)
        self._held_bytes -= 0 if old is None else old.nbytes
        if words is None:
            self.page_versions.pop(array_id, None)
        else:
            self.words[array_id] = words
            self._held_bytes += words.nbytes

    def sketch(self, ops: Iterable[Op]) -> "StoredState":
        """A state of the arrays alone that ``ops`` touch, sharing their words: to try ``ops`` on.

        Cost: what ``ops`` touch, not the state.
        """
        part, table = StoredState(self.table.log_id, None, self._page_bytes), self.table
        part.table.next_id = table.next_id
        part._held_bytes = self._held_bytes
        for op in ops:
            known = {op.info.id, table.ids.get(op.info.name)} & table.arrays.keys()
            for array_id in known:
                info = table.arrays[array_id]
                part.table.arrays[array_id] = info
                part.table.ids[info.name] = array_id
                part.words[array_id] = self.words[array_id]
                if array_id in self.page_versions:
                    part.page_versions[array_id] = self.page_versions[array_id]
        return part

    def adopt(self, part: "StoredState", ops: Iterable[Op]) -> None:
        """Take over what a `sketch` became by ``ops``; done again from anywhere in it, the same."""
        table = self.table
        for op in ops:
            array_id, name = op.info.id, op.info.name
            if op.code is OpCode.DELETE:
                table.arrays.pop(array_id, None)
                if table.ids.get(name) == array_id:
                    del table.ids[name]
                table.lanes.pop(array_id, None)
                table.bases.pop(array_id, None)
            else:
                table.arrays[array_id] = op.info
                table.ids[name] = array_id
        for array_id in {op.info.id for op in ops}:
            if array_id in part.words:
                self.words[array_id] = part.words[array_id]
            else:
                self.words.pop(array_id, None)
                self.page_versions.pop(array_id, None)
            if array_id in part.page_versions:
                self.page_versions[array_id] = part.page_versions[array_id]
        self._held_bytes = part._held_bytes

    def _apply_records(
        self,
        record: CommitRecord,
        read_chunks: DataReader,
        skip: frozenset[int] = frozenset(),
        later: Later | None = None,
        broken: set[int] | None = None,
    ) -> None:
        parts: Sequence[ChunkData] | None = None
        stop = 0
        for row in record.records:
            start, stop = stop, stop + int(row["chunks"])
            array_id = int(row["id"])
            if array_id == EXTRA_ID:
                continue
            if array_id not in self.table.arrays:
                raise BadFrameError(f"a record of array {array_id}, which is not there")
            if array_id in skip or array_id not in self.words:
                continue
            if parts is None:
                parts = read_chunks()
            rows = record.chunks[start:stop]
            if row["flags"] & PAGE_VERSIONS:
                raise BadFrameError("versions of pages in a commit")
            data = parts[start:stop]
            try:
                self._apply_chunks(record.version, array_id, row, rows, data, later)
            except BadFrameError:
                if broken is None:
                    raise
                broken.add(array_id)

    def _apply_chunks(
        self,
        version: int,
        array_id: int,
        row: np.void,
        rows: np.ndarray,
        parts: Sequence[ChunkData],
        later: Later | None,
    ) -> None:
        if not row["flags"] & FULL and self.table.bases.get(array_id, 0) != int(row["base"]):
            raise BadFrameError(
                f"a record of array {array_id} builds on version {int(row['base'])}, "
                f"its newest is {self.table.bases.get(array_id, 0)}"
            )
        self._target_of_bytes(array_id, rows, int(row["flags"]))
        chunks = [(row, part, version) for row, part in zip(rows, parts, strict=True)]
        if later is None:
            self._put(array_id, chunks)
        else:
            later.add(array_id, chunks, held_bytes(rows))
            if later.nbytes > _MOST_WAITING_BYTES:
                self.decode_later(later)

    def put(self, array_id: int, rows: np.ndarray, parts: Sequence[ChunkData], flags: int) -> None:
        """Decode the chunks of one record into the bytes of an array."""
        target = self._target_of_bytes(array_id, rows, flags)
        decode_all(target, list(zip(rows, parts, strict=True)))

    def _put(self, array_id: int, chunks: Iterable[tuple[np.void, ChunkData, int]]) -> None:
        """Decode chunks of one array, in order, and note the versions of the pages they change."""
        target, versions = self.bytes_of(array_id), self.page_versions.get(array_id)
        if versions is None:
            decode_all(target, [(row, part) for row, part, _ in chunks])
            return
        for row, part, version in chunks:
            versions[self._changed_pages(target, row, part)] = version

    def _changed_pages(self, target: np.ndarray, chunk: np.void, part: ChunkData) -> np.ndarray:
        """Apply one chunk; returns the pages in which it may have changed a byte."""
        assert self._page_bytes is not None
        offset, raw, page_bytes = int(chunk["offset"]), int(chunk["raw"]), self._page_bytes
        if int(chunk["coding"]) in SPARSE_CODINGS:
            check_within(chunk, target.size)
            index = decode_sparse(span_of(target, chunk), chunk, own_data(part))
            pages = (offset + index * int(chunk["unit"])) // page_bytes
            return pages[np.flatnonzero(np.diff(pages, prepend=-1))]
        first, last = offset // page_bytes, -(-(offset + raw) // page_bytes)
        before = target[first * page_bytes : last * page_bytes].copy()
        decode_into(target, chunk, part)
        changed = before != target[first * page_bytes : last * page_bytes]
        if not changed.size:
            return np.empty(0, np.int64)
        starts = np.arange(0, changed.size, page_bytes)
        return first + np.flatnonzero(np.logical_or.reduceat(changed, starts))

    def check_digest(self, executor: Executor | None = None, ids: Set[int] | None = None) -> None:
        """Compare the digest of the bytes, from scratch, with what the commits say.

        Args:
            executor: where to digest side by side.
            ids: the arrays to digest; None for all that are held.
        """
        # What has no record is all zeros.
        held = [i for i in self.table.lanes if i in self.words and (ids is None or i in ids)]
        for array_id, lanes in self.digests(held, executor):
            if lanes != self.table.lanes[array_id]:
                name = self.table.arrays[array_id].name
                raise BadFrameError(f"the bytes of {name!r} do not have the digest recorded")
        if self.table.digest() != self.table.state_digest:
            raise BadFrameError(
                f"the state at version {self.table.version} does not have the digest recorded"
            )

    def digests(
        self, held: Iterable[int], executor: Executor | None = None
    ) -> Iterator[tuple[int, Lanes]]:
        """The digests of arrays that are held: large ones piece by piece, small ones together."""
        batch, left, batches = list[int](), 0, list[list[int]]()
        for array_id in held:
            size = self.words[array_id].size
            if size > _PIECEMEAL_WORDS:
                yield array_id, digest_words(self.words[array_id], executor=executor)
            elif not size:
                yield array_id, ZERO
            else:
                if size > left:
                    batch, left = [], _TOGETHER_WORDS
                    batches.append(batch)
                batch.append(array_id)
                left -= size
        for found in (map if executor is None else executor.map)(self._digests_of, batches):
            yield from found

    def _digests_of(self, ids: Sequence[int]) -> list[tuple[int, Lanes]]:
        words = [self.words[array_id] for array_id in ids]
        joined = words[0] if len(words) == 1 else np.concatenate(words)
        first, second = digest_each(joined, [part.size for part in words]).tolist()
        return list(zip(ids, zip(first, second, strict=True), strict=True))
