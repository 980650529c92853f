"""Logs for the tests: written as a bus writes them, with a model beside that says what is right.

The model is dictionaries and bytes and shares no code with the store. What a log gives back is
compared with it: arrays, page versions, constants, and what the caller said of each commit.
"""

import contextlib
import copy
import functools
import json
import re
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mmsb_jax._base.dtypes import dtype_name
from mmsb_jax._base.errors import CorruptionError, LocationError, VersionError
from mmsb_jax._base.words import host_words
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.head import Head, Landed
from mmsb_jax._store.encoding.digest import digest_words
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format.record import DIGEST, ArrayInfo, Op, OpCode
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import read_commit
from mmsb_jax._store.state.state import StoredState
from mmsb_jax._store.writer.create import create_log
from mmsb_jax._store.writer.durability.base import Durability
from mmsb_jax._store.writer.writer import LogWriter

PAGE_BYTES = 128
PLACE = "the log"
FIRST_TIME_NS = 1_700_000_000_000_000_000


class Here(Executor):
    """Runs what is submitted at once, in the caller."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@functools.cache
def threads() -> ThreadPoolExecutor:
    """Two threads for all tests that want some."""
    return ThreadPoolExecutor(2)


@dataclass(slots=True)
class Held:
    """One array of the model: what it is, its bytes, and the version of each of its pages.

    ``met`` are the bytes that the next commit meets: those of the version before, cut or filled
    with zeros by its operations.
    """

    id: int
    kind: str
    dtype: str
    shape: tuple[int, ...]
    member: bool
    content: bytes = b""
    met: bytes = b""
    pages: list[int] = field(default_factory=list)

    def fit(self) -> None:
        """Cut or fill the bytes and the pages to the present shape."""
        size = self.info("").nbytes
        self.content = self.met = self.met[:size].ljust(size, b"\0")
        count = -(-size // PAGE_BYTES)
        self.pages = (self.pages + [0] * count)[:count]

    def stamp(self, version: int) -> bool:
        """Give the pages in which a byte changed their version; whether there is one."""
        for page in range(len(self.pages)):
            span = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
            if self.met[span] != self.content[span]:
                self.pages[page] = version
        changed, self.met = self.met != self.content, self.content
        return changed

    def info(self, name: str) -> ArrayInfo:
        return ArrayInfo(self.id, name, self.kind, self.dtype, self.shape, self.member)


@dataclass(slots=True)
class Expected:
    """What one version must hold."""

    arrays: dict[str, Held] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    step: int | None = None
    source: str = ""
    note: str = ""
    extra: bytes | None = None
    time_ns: int = 0
    changed: tuple[str, ...] = ()
    saved: bool = True
    """Else it is the version before that it holds, and only the digests of another."""
    aside: dict[str, bytes] = field(default_factory=dict)
    """Where it is not saved: the newest bytes of arrays that were saved apart from the others."""
    stale: set[str] = field(default_factory=set)
    """Where it is not saved: the arrays that were changed since their newest bytes."""

    def there(self) -> dict[str, bytes]:
        """The bytes of every array that has some at this version."""
        held = {name: held.content for name, held in self.arrays.items()} | self.aside
        return {name: content for name, content in held.items() if name not in self.stale}


class Scribe:
    """Writes a log, and keeps in `history` what every version must hold (0: the empty log).

    Args:
        files: where; a log is made there where there is none.
        durability: as for a bus.
        history: what the versions already there hold.
        executor: for large commits.
    """

    def __init__(
        self,
        files: Files | None = None,
        durability: Durability = "os",
        history: list[Expected] | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.files = MemoryFiles() if files is None else files
        self.history = [Expected()] if history is None else history
        if history is None:
            create_log(self.files, PAGE_BYTES)
        self.log = Log(self.files, PLACE)
        self.writer = LogWriter(self.log, durability)
        state = self.log.head(PAGE_BYTES)
        self.head = Head(state, self.writer, PAGE_BYTES, lambda: executor or Here())
        self._draft = Draft()
        self._begin_next(self.history[-1])
        self._next_id = state.table.next_id

    def create(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: Any = "float32",
        kind: str = "jax",
        member: bool = True,
    ) -> "Scribe":
        """An array of zeros, made by the next commit."""
        named = dtype_name(np.dtype(dtype))
        held = Held(self._next_id, kind, named, shape, member)
        held.fit()
        self._next_id += 1
        self._next.arrays[name] = held
        self._draft.ops.append(Op(OpCode.CREATE, held.info(name)))
        return self

    def resize(self, name: str, shape: tuple[int, ...]) -> "Scribe":
        """Another shape, by the next commit: bytes are kept from the start, new ones are zero."""
        held = self._next.arrays[name]
        held.shape = shape
        held.fit()
        self._draft.ops.append(Op(OpCode.UPDATE, held.info(name)))
        self._draft.contents.pop(held.id, None)
        self._draft.patches.pop(held.id, None)
        return self

    def delete(self, name: str) -> "Scribe":
        """An array that the next commit deletes."""
        held = self._next.arrays.pop(name)
        self._draft.ops.append(Op(OpCode.DELETE, held.info(name)))
        self._draft.contents.pop(held.id, None)
        self._draft.patches.pop(held.id, None)
        return self

    def write(self, name: str, value: Any) -> "Scribe":
        """The whole content of an array after the next commit."""
        held = self._next.arrays[name]
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        self._draft.contents[held.id] = raw
        self._set(held, raw.tobytes())
        return self

    def patch(self, name: str, changes: dict[int, int]) -> "Scribe":
        """Some bytes of an array after the next commit: place → value."""
        held = self._next.arrays[name]
        words = sorted({place // 4 for place in changes})
        mask = np.zeros((len(words), 4), np.uint8)
        data = np.full((len(words), 4), 0xAA, np.uint8)  # what the mask leaves out is not written
        content = bytearray(held.content)
        for place, value in changes.items():
            row = words.index(place // 4)
            mask[row, place % 4], data[row, place % 4] = 255, value
            content[place] = value
        self._draft.patches[held.id] = (
            np.array(words, np.int64),
            mask.view(np.uint32)[:, 0],
            data.view(np.uint32)[:, 0],
        )
        self._set(held, bytes(content))
        return self

    def _set(self, held: Held, content: bytes) -> None:
        assert len(content) == len(held.content)
        held.content = content

    def constant(self, name: str, tagged: str | None) -> "Scribe":
        """A constant after the next commit; None takes it away."""
        self._draft.values[name] = tagged
        if tagged is None:
            self._next.constants.pop(name, None)
        else:
            self._next.constants[name] = tagged
        return self

    def commit(
        self,
        step: int | None = None,
        source: str = "",
        note: str = "",
        extra: bytes | None = None,
        time_ns: int | None = None,
        nonfinite: dict[str, int] | None = None,
    ) -> Landed:
        """Append what was asked for; where that fails, the model is as before."""
        version = len(self.history)
        draft, self._draft = self._draft, Draft()
        expected = self._next
        self._begin_next(self.history[-1])
        draft.step, draft.source, draft.note, draft.extra = step, source, note, extra
        draft.time_ns = FIRST_TIME_NS + version * 10**9 if time_ns is None else time_ns
        if nonfinite is not None:
            counts = {expected.arrays[name].id: count for name, count in nonfinite.items()}
            draft.nonfinite = lambda: counts
        expected.step, expected.source, expected.note = step, source, note
        expected.extra, expected.time_ns = extra, draft.time_ns
        self._landing = expected
        return self.note_landed(self.head.commit(draft))

    def digests(
        self,
        values: dict[str, Any],
        step: int | None = None,
        note: str = "",
        extra: bytes | None = None,
        aside: Collection[str] = (),
    ) -> Landed:
        """Append a version of which the digests are said, of arrays that are ``values``.

        Args:
            values: array → what it is, where that is not what it was.
            step, note, extra: as of a commit.
            aside: the arrays among them whose bytes are logged.
        """
        version, rows, contents = len(self.history), [], {}
        for name, value in values.items():
            raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            lanes = digest_words(host_words(raw))
            bad = 0 if value.dtype.kind != "f" else int((~np.isfinite(value)).sum())
            array_id = self.history[-1].arrays[name].id
            if lanes != self.head.state.table.lanes_now(array_id):
                rows.append((array_id, *lanes, bad))
            if name in aside:
                contents[array_id] = raw
        expected = copy.deepcopy(self.history[-1])
        expected.step, expected.note, expected.extra, expected.source = step, note, extra, ""
        expected.time_ns, expected.saved = FIRST_TIME_NS + version * 10**9, False
        changed = {row[0] for row in rows}
        expected.changed = tuple(sorted(n for n in values if expected.arrays[n].id in changed))
        expected.stale = (expected.stale | set(expected.changed)) - set(aside)
        expected.aside |= {name: contents[expected.arrays[name].id].tobytes() for name in aside}
        draft = Draft(
            step=step, note=note, extra=extra, time_ns=expected.time_ns, contents=contents
        )
        landed = self.head.land_digests(np.array(sorted(rows), DIGEST), draft)
        self.history.append(expected)
        self._begin_next(expected)
        assert (landed.version, landed.changed) == (version, expected.changed)
        assert set(landed.aside) <= set(aside)
        return landed

    def note_landed(self, landed: Landed) -> Landed:
        """Take the newest commit, also one that was interrupted, into the model."""
        expected, version = self._landing, len(self.history)
        arrays = sorted(expected.arrays.items())
        expected.changed = tuple(name for name, held in arrays if held.stamp(version))
        self.history.append(expected)
        self._begin_next(expected)
        assert landed.version == version
        assert landed.changed == expected.changed
        return landed

    def _begin_next(self, before: Expected) -> None:
        """What the next commit with all bytes holds, as long as it changes nothing."""
        self._next = copy.deepcopy(before)
        self._next.saved, self._next.aside, self._next.stale = True, {}, set()

    def snapshot(self, rotate: bool = True) -> int | None:
        """Begin a new segment, and fold the newest version into a snapshot; bytes written."""
        sealed = self.writer.rotate() if rotate else None
        if rotate:
            self.head.begin_segment()
        return self.writer.schedule_snapshot(PAGE_BYTES, sealed).result()

    def close(self) -> "Scribe":
        self.writer.close()
        return self

    def reopen(self, durability: Durability = "os") -> "Scribe":
        """Close it, and write on where it ends."""
        self.close()
        return Scribe(self.files, durability, self.history)


def check_state(state: StoredState, expected: Expected, with_pages: bool = True) -> None:
    """Compare a state, held whole (with its page versions), with the model."""
    table = state.table
    assert {info.name: info for info in table.arrays.values()} == {
        name: held.info(name) for name, held in expected.arrays.items()
    }
    assert table.values == expected.constants
    for name, held in expected.arrays.items():
        assert state.bytes_of(held.id).tobytes() == held.content, name
        if with_pages:
            assert state.page_versions[held.id].tolist() == held.pages, name


def check_commit(log: Log, version: int, expected: Expected) -> None:
    """Compare what a commit says of itself with the model."""
    commit = read_commit(log, version, lambda: 0)
    assert (commit.step, commit.source, commit.time_ns, commit.changed) == (
        expected.step,
        expected.source,
        expected.time_ns,
        expected.changed,
    )
    assert commit.note == (json.loads(expected.note) if expected.note else None)
    assert commit.extra == expected.extra


def check_log(log: Log, history: list[Expected]) -> None:
    """Compare every version with the model; nothing may be missing."""
    assert log.version == len(history) - 1
    for version, expected in enumerate(history):
        if expected.saved:
            check_state(log.state(version, page_bytes=PAGE_BYTES), expected)
        else:
            with pytest.raises(VersionError, match=r"holds a digest only|was saved in part"):
                log.state(version)
            check_part(log, version, expected)
        if version:
            check_commit(log, version, expected)


def check_part(log: Log, version: int, expected: Expected) -> None:
    """Compare the arrays that have bytes at a version without all of them; the others have none."""
    there = expected.there() if log.last_saved(version) else {}
    if there:
        state = log.state(version, there.__contains__)
        ids = state.table.ids
        assert {name: state.bytes_of(ids[name]).tobytes() for name in there} == there
    for name in expected.stale:
        with pytest.raises(VersionError, match=f"no bytes of '{name}'"):
            log.state(version, name.__eq__)


@dataclass(frozen=True, slots=True)
class Found:
    """What opening a log that may be damaged gave.

    Attributes:
        refused: why it was not opened; empty where it was.
        version: the newest version.
        readable: versions whose state came back, all of them right.
        recovered: what it reported.
    """

    refused: str = ""
    version: int = 0
    readable: frozenset[int] = frozenset()
    recovered: tuple[str, ...] = ()


def open_and_compare(files: Files, history: list[Expected]) -> Found:
    """Open a log that may be damaged: what it gives must be right, what it refuses has a place."""
    try:
        log = Log(files, PLACE)
    except (CorruptionError, LocationError) as error:
        check_place(error)
        return Found(refused=str(error))
    assert log.version < len(history)
    readable = set()
    for version in range(1, log.version + 1):
        with refused_with_its_place():
            check_state(log.state(version, page_bytes=PAGE_BYTES), history[version])
            readable.add(version)
        with refused_with_its_place():
            check_commit(log, version, history[version])
    return Found("", log.version, frozenset(readable), tuple(log.recovered))


@contextlib.contextmanager
def refused_with_its_place() -> Iterator[None]:
    """Goes on behind a refusal, if that says where the damage is."""
    try:
        yield
    except CorruptionError as error:
        check_place(error)


def check_place(error: Exception) -> None:
    """A refusal names the file, and the byte where there is one."""
    assert re.search(
        r"the log/(log|snapshots)/\S+ is damaged at byte \d+|the log/manifest is damaged at byte 0"
        r"|the log: segment \d+ of the log is missing|the log/log/\S+ is a segment of another log"
        r"|the log: log/\S+ and log/\S+ have the same number|the log is not a log",
        str(error),
    ), str(error)


def copy_files(files: Files) -> MemoryFiles:
    """The same files in memory, to be damaged."""
    copied = MemoryFiles()
    for name in names_of(files):
        copied.publish(name, [files.read(name)])
    return copied


def names_of(files: Files) -> list[str]:
    """Every file of a log."""
    return ["manifest", *files.names("log"), *files.names("snapshots")]
