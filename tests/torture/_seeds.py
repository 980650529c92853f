"""What a fuzzer begins with: small logs and streams of every kind, made by the library itself."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.format import data
from mmsb_jax._store.format.data import NewCommit
from mmsb_jax._store.format.record import DIGEST_ONLY, GRAPH_PREFIX, CommitRecord
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.transfer.stream import write_joining_stream, write_stream
from mmsb_jax._store.writer.create import create_log
from tests.store._compacted import write_story
from tests.store._logs import PAGE_BYTES, PLACE, Scribe, copy_files, names_of
from tests.torture._bundle import STREAM, Bundle

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
TIME_NS = 1_800_000_000_000_000_000
SINCE = 3
"""The version of the log that takes in streams that continue it."""


def bundle_of(files: Files) -> Bundle:
    """The files of a log."""
    return {name: files.read(name) for name in names_of(files)}


def files_of(bundle: Bundle) -> MemoryFiles:
    """A log in memory of those files."""
    files = MemoryFiles()
    for name, raw in bundle.items():
        files.publish(name, [raw])
    return files


def every_coding() -> Scribe:
    """Commits whose records have each of the codings; operations, constants, an extra, a tag."""
    rng = np.random.default_rng(0)
    scribe = Scribe()
    scribe.create("w", (300,)).create("b", (40,), "uint8").create("gone", (2,))
    scribe.create("half", (7, 3), "bfloat16").create("n", (), "int64", kind="int")
    scribe.create("zeros", (0, 4)).create("wide", (5,), "complex128", kind="numpy")
    scribe.write("w", rng.normal(size=300).astype("f4")).commit(step=1, extra=b'{"a":[1,2]}')
    scribe.patch("w", {4 * place: place % 3 for place in range(0, 300, 9)}).patch("half", {1: 9})
    scribe.commit(step=-1, source="train", note='{"loss":0.5}')
    near = np.frombuffer(scribe.history[-1].arrays["w"].content, np.uint8) ^ 1
    scribe.write("w", near).patch("b", {3: 3, 5: 5}).delete("gone").create("new", (3,))
    scribe.patch("new", {2: 1}).constant("c", "s:x").constant("k", "n:").patch("n", {0: 5})
    scribe.commit(step=7, note="[1]", extra=b"extra" * 30)
    scribe.writer.append_tags({"best": 2, "last": 3})
    return scribe


def with_graph(scribe: Scribe) -> Scribe:
    """The same, with entries of the graph; the newest version has nothing but the digest."""
    derived = {
        "inputs": ["w"], "arrays": ["new"], "function": "f", "fingerprint": "00", "when": "commit",
        "equal": "bytes", "pagewise": False, "serial": 1,
    }  # fmt: skip
    scribe.constant(f"{GRAPH_PREFIX}derive/new", json.dumps(derived))
    scribe.constant(f'{GRAPH_PREFIX}link/["w", "b"] control', "control")
    scribe.constant(f"{GRAPH_PREFIX}stale/new", "dirty").resize("w", (290,)).commit(step=8)
    state = scribe.log.table(scribe.log.version)
    scribe.writer.append(
        NewCommit(CommitRecord(b"", b"", state.state_digest, 0, 1, flags=DIGEST_ONLY,
                               next_id=state.next_id), ())
    )  # fmt: skip
    return scribe


def logs() -> Iterator[Files]:
    """Logs of every kind."""
    for name in ("whole", "fork"):
        yield copy_files(DiskFiles(GOLDEN / name))
    empty = MemoryFiles()
    create_log(empty, PAGE_BYTES)
    yield empty
    scribe = every_coding()
    scribe.snapshot()
    yield with_graph(scribe).files
    yield every_coding().close().files
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "INLINE_BYTES", 0)
        scribe = every_coding()
        scribe.snapshot(rotate=False)
        scribe.patch("w", {0: 1}).commit()
        yield scribe.close().files
    story = write_story(versions=9)
    compact(story.writer, 7)
    yield story.files
    fork = MemoryFiles()
    fork_log(Log(story.files, PLACE), 8, fork)
    Scribe(fork, history=story.history[:9]).patch("w", {1: 1}).commit()
    yield fork


def streams() -> Iterator[bytes]:
    """Streams that begin with the first commit, with a snapshot, and behind version `SINCE`."""
    scribe = every_coding()
    scribe.patch("w", {0: 1}).create("late", (3,)).commit().version
    scribe.resize("b", (9,)).patch("b", {0: 1}).commit(extra=b"x")
    version = scribe.log.version
    yield b"".join(write_stream(scribe.log, 0, version))
    yield b"".join(write_stream(scribe.log, SINCE, version))
    scribe.snapshot()
    scribe.patch("w", {8: 1}).commit()
    yield b"".join(write_joining_stream(scribe.log, scribe.log.version, TIME_NS))


@functools.cache
def receiver() -> Bundle:
    """The log that takes in a stream behind version `SINCE`."""
    return bundle_of(every_coding().files)


def seeds() -> list[Bundle]:
    """All of them."""
    return [*map(bundle_of, logs()), *({STREAM: raw} for raw in streams())]
