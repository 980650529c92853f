"""Logs to run the commands on, written through the store alone."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mmsb_jax._base.dtypes import dtype_name
from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.commit.head import Head
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format.record import ArrayInfo, Op, OpCode
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.transfer.stream import write_joining_stream, write_stream
from mmsb_jax._store.writer.create import create_log
from mmsb_jax._store.writer.writer import LogWriter
from mmsb_jax.cli import main

PAGE_BYTES = 4096


class Recorder:
    """Writes a log: `commit` brings arrays to what they are to be, by name."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.path = str(root)
        self.files = DiskFiles(root)
        create_log(self.files, PAGE_BYTES)
        self.log = Log(self.files, self.path)
        self.writer = LogWriter(self.log)
        self.threads = ThreadPoolExecutor(2)
        state = self.log.state(0, page_bytes=PAGE_BYTES)
        self.head = Head(state, self.writer, PAGE_BYTES, lambda: self.threads)

    def commit(self, arrays: dict[str, np.ndarray | None], kind: str = "numpy", **said: Any) -> int:
        """Commit; an array of None is deleted. ``said`` goes to the draft."""
        table = self.head.state.table
        draft = Draft(**said)
        next_id = table.next_id
        for name, array in arrays.items():
            known = table.arrays.get(table.ids.get(name, 0))
            if array is None:
                draft.ops.append(Op(OpCode.DELETE, known))
                continue
            array_id = next_id if known is None else known.id
            info = ArrayInfo(array_id, name, kind, dtype_name(array.dtype), array.shape, True)
            if known is None:
                next_id += 1
                draft.ops.append(Op(OpCode.CREATE, info))
            elif known != info:
                draft.ops.append(Op(OpCode.UPDATE, info))
            draft.contents[array_id] = np.frombuffer(array.tobytes(), np.uint8)
        return self.head.commit(draft).version

    def snapshot(self) -> None:
        """Seal the segment and write a snapshot of the newest version."""
        sealed = self.writer.rotate()
        self.writer.schedule_snapshot(PAGE_BYTES, sealed).result()
        self.head.begin_segment()

    def close(self) -> None:
        """Let go of the log."""
        self.writer.close()
        self.threads.shutdown()
        self.files.close()


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """An empty log, ``run.mmsb``, that is being written."""
    made = Recorder(tmp_path / "run.mmsb")
    yield made
    made.close()


@pytest.fixture
def small(recorder: Recorder) -> str:
    """The path of a log of four versions.

    1: ``params/w`` float32[4,8] of zeros and ``params/b`` float32[8] of ones made.
    2: five elements of ``params/w`` are 1.0, one is NaN.
    3: ``params/b`` twos; ``note`` and ``extra``.
    4: nothing changes.
    """
    w, b = np.zeros((4, 8), np.float32), np.ones(8, np.float32)
    recorder.commit({"params/w": w, "params/b": b}, step=10, source="init", time_ns=1_000_000_000)
    w[0, :5] = 1.0
    w[3, 7] = np.nan
    recorder.commit({"params/w": w}, step=20, source="train", time_ns=2_000_000_000)
    recorder.commit(
        {"params/b": b * 2},
        step=30,
        source="train",
        note='{"loss":0.5}',
        extra=b"\x00\x01\x02",
        time_ns=3_000_000_000,
    )
    recorder.commit({"params/w": w}, source="idle", time_ns=4_000_000_000)
    return recorder.path


@dataclass(frozen=True)
class Ran:
    """What a command answered."""

    result: Result

    @property
    def code(self) -> int:
        return self.result.exit_code

    @property
    def out(self) -> str:
        return self.result.stdout

    @property
    def err(self) -> str:
        return self.result.stderr

    @property
    def json(self) -> Any:
        return strict_json(self.out)

    @property
    def error(self) -> Any:
        return strict_json(self.err)


def strict_json(text: str) -> Any:
    """``text`` as JSON without the words that Python adds to it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def mmsb() -> Callable[..., Ran]:
    """Runs a command: ``mmsb("log", path)``."""

    def run(*arguments: object) -> Ran:
        result = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result)

    return run


@pytest.fixture
def joined(mmsb: Callable[..., Ran], recorder: Recorder, small: str, tmp_path: Path) -> str:
    """The path of a log that joined `small` at version 3, and has version 4 as well."""
    root, stream = tmp_path / "joined.mmsb", tmp_path / "stream"
    for buffers in (write_joining_stream(recorder.log, 3, 0), write_stream(recorder.log, 3, 4)):
        stream.write_bytes(b"".join(buffers))
        assert mmsb("import", root, stream).code == 0
    return str(root)
