"""What the log knows of the processes that wrote it."""

import errno
import json
import os

import numpy as np
import pytest

from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.log.in_force import MAX_PROCESS_BYTES, encode_process, process_at, says
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.compact import compact
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax._store.transfer.import_ import take_in
from mmsb_jax._store.transfer.stream import open_stream, write_stream
from tests.store._logs import PLACE, Scribe, check_log

OLD, NEW = {"JAX": "0.10.2", "devices": "1 cpu"}, {"JAX": "0.12.0", "devices": "8 H100"}


def story() -> Scribe:
    """Two processes, three segments, versions 1 to 8."""
    scribe = Scribe()
    scribe.create("w", (40,))
    for version in range(1, 9):
        if version in (3, 6):
            scribe.snapshot()
        if version == 5:
            scribe = scribe.reopen()
        scribe.writer.process = OLD if version < 5 else NEW
        scribe.write("w", np.full(40, version, np.float32)).commit()
    return scribe


def processes(log: Log) -> list[dict[str, str]]:
    return [process_at(log, version) for version in range(1, log.version + 1)]


def test_each_version_knows_its_process():
    scribe = story()
    assert processes(scribe.log) == [OLD] * 4 + [NEW] * 4
    check_log(scribe.log, scribe.history)
    scribe.close()
    log = Log(scribe.files, PLACE)
    assert processes(log) == [OLD] * 4 + [NEW] * 4
    assert verify(log)


def test_a_log_of_nobody_knows_none():
    scribe = Scribe()
    scribe.create("w", (40,)).commit()
    assert process_at(scribe.log, 1) == {}


def test_a_fork_and_a_compacted_log_know_as_much():
    scribe, files = story(), MemoryFiles()
    fork_log(scribe.log, 4, files)
    fork = Scribe(files, history=scribe.history[:5])
    fork.writer.process = {"JAX": "other"}
    fork.write("w", np.ones(40, np.float32)).commit()
    assert processes(fork.log) == [OLD] * 4 + [{"JAX": "other"}]
    compact(scribe.writer, 4)
    assert processes(scribe.log) == [{}] * 4 + [NEW] * 4  # the frame was cut off


def test_commits_of_another_log_are_of_no_process_here():
    scribe, other = story(), Scribe()
    other.writer.process = {"JAX": "here"}
    with open_stream(b"".join(write_stream(scribe.log, 0, 8))) as stream:
        take_in(other.head, stream)
    assert processes(other.log) == [{}] * 8
    other.history[:] = scribe.history
    other._begin_next(other.history[-1])
    other.write("w", np.ones(40, np.float32)).commit()
    assert process_at(other.log, 9) == {"JAX": "here"}


def test_a_writer_that_says_nothing_is_not_taken_for_the_one_before():
    scribe = story().reopen()
    scribe.write("w", np.ones(40, np.float32)).commit()
    scribe.writer.process = OLD
    scribe.write("w", np.zeros(40, np.float32)).commit()
    assert processes(scribe.log) == [OLD] * 4 + [NEW] * 4 + [{}, OLD]
    scribe = scribe.reopen()
    assert processes(scribe.log) == [OLD] * 4 + [NEW] * 4 + [{}, OLD]
    check_log(scribe.log, scribe.history)


def test_what_is_said_is_bounded():
    said = encode_process({f"name {i}": "é" * 100_000 for i in range(20)})
    assert len(said) <= MAX_PROCESS_BYTES


def test_what_was_cut_is_known_again():
    flags = " ".join(f"--xla_flag_{i}=true" for i in range(1000))
    said = json.loads(encode_process({"XLA_FLAGS": flags, "JAX": "0.10.2"}))
    assert len(said["XLA_FLAGS"]) < len(flags)
    assert says(said["XLA_FLAGS"], flags)
    assert says(said["JAX"], "0.10.2")
    assert not says(said["XLA_FLAGS"], "--other" + flags)
    assert not says(said["JAX"], "0.10.21")


def test_a_disk_that_is_full_costs_nothing(monkeypatch):
    scribe = story().reopen()
    scribe.writer.process = OLD
    file = scribe.writer._file
    append, calls = type(file).append, []

    def full(self, buffers):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, buffers)

    monkeypatch.setattr(type(file), "append", full)
    scribe.write("w", np.ones(40, np.float32))
    with pytest.raises(LocationError):
        scribe.commit()
    scribe.write("w", np.ones(40, np.float32)).commit()
    assert process_at(scribe.log, 9) == OLD
    check_log(scribe.log, scribe.history)


@pytest.mark.parametrize("meta", [b"[]", b"{", b'{"JAX": 3}'])
def test_what_says_nothing_is_nothing(meta, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("mmsb_jax._store.writer.writer.encode_process", lambda said: meta)
        scribe = story()
    assert process_at(scribe.log, 8) == {}
    assert verify(scribe.log)
