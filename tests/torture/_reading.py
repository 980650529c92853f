"""What is tried on a log or a stream that may say anything: all that can be asked of it.

It ends in an error of the library, or in what has the digest that was recorded.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mmsb_jax._base import memory_limit
from mmsb_jax._base.errors import MMSBError
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.head import Head
from mmsb_jax._store.encoding.digest import constant_term, state_sum, state_term
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.query.commit import read_commit
from mmsb_jax._store.query.diff import diff_versions
from mmsb_jax._store.state.state import StoredState
from mmsb_jax._store.transfer.import_ import take_in
from mmsb_jax._store.transfer.stream import open_stream, write_joining_stream
from mmsb_jax._store.writer.create import create_log
from mmsb_jax._store.writer.writer import LogWriter
from tests.store._logs import PAGE_BYTES, PLACE, Here
from tests.store._oracle import scalar_mix
from tests.torture._bundle import STREAM, Bundle, unpack
from tests.torture._seeds import files_of, receiver

MACHINE_BYTES = 64 << 20
"""The memory that the library is told there is."""


@contextlib.contextmanager
def small_machine():
    """The library takes the machine for one of `MACHINE_BYTES`."""
    before, memory_limit._machine_bytes = memory_limit._machine_bytes, lambda: MACHINE_BYTES
    try:
        yield
    finally:
        memory_limit._machine_bytes = before


def try_bundle(raw: bytes) -> None:
    """Ask all of a log, or take a stream in; any error but the library's own goes on."""
    bundle = unpack(raw)
    if STREAM in bundle:
        for known in ({}, receiver()):
            _take(bundle[STREAM], known)
        return
    for salvage in (False, True):
        with contextlib.suppress(MMSBError):
            _ask(Log(files_of(bundle), PLACE, salvage))
    _write_on(bundle)


def _ask(log: Log) -> None:
    asked: list[Callable[[], Any]] = [
        lambda: list(log.select(array="w", source="train")),
        lambda: list(log.select(start_ns=0, end_ns=2**63 - 1)),
        lambda: log.last_with(step=3),
        lambda: log.last_with(time_ns=0),
        lambda: log.tagged("best"),
        lambda: log.durable_version,
        lambda: log.versions_with_ops(),
        lambda: log.refresh(),
        lambda: str(verify(log)),
        lambda: b"".join(write_joining_stream(log, log.version, 0)),
        lambda: fork_log(log, log.version, MemoryFiles()),
    ]
    for version in _some_versions(log):
        asked.append(lambda version=version: _ask_of(log, version))
    for ask in asked:
        with contextlib.suppress(MMSBError):
            ask()


def _some_versions(log: Log) -> set[int]:
    """The oldest, and the newest ones."""
    first, last = log.first_version, log.version
    near = {first, first + 1, *log.kept, log.kept_since, *range(last - 3, last + 1)}
    return {version for version in near if first <= version <= last}


def _ask_of(log: Log, version: int) -> None:
    state = None
    for ask in (
        lambda: log.row(version),
        lambda: log.table(version),
        lambda: log.state(version, check=False),
        lambda: _read_all(log, version),
        lambda: str(diff_versions(log, version - 1, version)),
    ):
        with contextlib.suppress(MMSBError):
            ask()
    with contextlib.suppress(MMSBError):
        state = log.state(version, page_bytes=log.manifest.page_bytes)
        # The snapshot of a version before is all that there is of it.
        is_whole = version >= log.kept_since
        known = log.record(version).state_digest if is_whole else state.table.state_digest
        check_state(state, known)
    with contextlib.suppress(MMSBError):
        _check_patches(log, version, state)


def _read_all(log: Log, version: int) -> None:
    commit = read_commit(log, version, lambda: 0)
    assert commit == commit
    _ = commit.extra


def check_state(state: StoredState, digest: int) -> None:
    """The digest of every byte of a state, from scratch, is the one that was recorded."""
    total = 0
    for array_id, info in state.table.arrays.items():
        lanes = _lanes_of(state.words[array_id])
        total = state_sum(total, state_term(array_id, info.schema(), lanes))
    for constant in {**state.table.values, **state.table.graph}.items():
        total = state_sum(total, constant_term(*constant))
    assert total == digest, "a state came back that has another digest than recorded"


def _lanes_of(words: np.ndarray) -> tuple[int, int]:
    """The lanes of an array word by word; zeros add nothing."""
    first = second = 0
    for index in np.flatnonzero(words).tolist():
        word, key = int(words[index]), scalar_mix(index + 0x9E3779B9 & 0xFFFFFFFF)
        first += scalar_mix(word ^ key)
        second += scalar_mix((word + key & 0xFFFFFFFF) ^ 0x85EBCA6B)
    return first & 0xFFFFFFFF, second & 0xFFFFFFFF


def _check_patches(log: Log, version: int, after: StoredState | None) -> None:
    """The patches of a commit, put into the state before, give the state after."""
    patches = list(read_commit(log, version, lambda: 0).patches())
    if after is None or version == log.first_version:
        return
    before = log.state(version - 1)
    for name, indices, values in patches:
        new = after.bytes_of(after.table.ids[name])
        array_id = before.table.ids.get(name)
        old = np.zeros_like(new) if array_id is None else before.bytes_of(array_id).copy()
        if old.size != new.size or not values.dtype.itemsize:
            continue
        old.view(values.dtype)[indices] = values
        assert old.tobytes() == new.tobytes(), f"the patches of {name!r} give another state"


def _write_on(bundle: Bundle) -> None:
    """Go on in a log that another wrote: commit to it, compact it."""
    files = files_of(bundle)
    with contextlib.suppress(MMSBError):
        log = Log(files, PLACE)
        head = _head_of(log)
        info = ArrayInfo(head.state.table.next_id, "of its new writer", "jax", "uint8", (3,), True)
        head.commit(Draft(ops=[Op(OpCode.CREATE, info)], time_ns=0))
        compact(head.writer, log.version)
        head.writer.close()
        check_state(log.state(log.version), log.record(log.version).state_digest)


def _head_of(log: Log) -> Head:
    page_bytes = log.manifest.page_bytes
    state = log.state(log.version, page_bytes=page_bytes)
    return Head(state, LogWriter(log), page_bytes, lambda: Here())


def _take(raw: bytes, known: Bundle) -> None:
    """Take a stream into a log: all of it, or what is before the commit that does not fit."""
    files = files_of(known)
    if not known:
        create_log(files, PAGE_BYTES)
    log = Log(files, PLACE)
    head = _head_of(log)
    with contextlib.suppress(MMSBError), open_stream(raw) as stream:
        take_in(head, stream)
    head.writer.close()
    opened = Log(files, PLACE)
    assert (opened.version, opened.recovered) == (log.version, [])
    report = verify(opened)
    assert report, f"a stream left a log that is damaged: {report}"
    if opened.version:
        newest = opened.state(opened.version)
        check_state(newest, opened.record(opened.version).state_digest)
        check_state(head.state, newest.table.state_digest)


def try_all(bundles: Iterable[bytes]) -> None:
    """`try_bundle` of each, on a small machine."""
    with small_machine():
        for raw in bundles:
            try_bundle(raw)
