"""The same commits at the same times give the same log, but for the ids of the logs."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.log.log import Log


def _run(path: Path, wait: bool) -> None:
    rng = np.random.default_rng(3)
    with mmsb.open(path) as bus:
        bus.create("x", nbytes=5000)
        for number in range(30):
            tree = {
                "dense": jnp.asarray(rng.standard_normal(20_000), jnp.float32),
                "few": jnp.zeros(200_000).at[rng.integers(0, 200_000, 9)].set(number),
                "key": jax.random.key(number),
                "text": f"run {number}",
                "number": number if number % 7 else np.int64(number),
            }
            bus.commit(tree, step=number, note={"n": number}, extra=[number], wait=wait)
            if number % 5 == 0:
                bus.write("x", rng.integers(0, 9, 5000, np.uint8), source="hand")
            if number == 12:
                with bus.batch():
                    bus.clone("x", "y")
                    bus.resize("y", nbytes=9000)


def _records(path: Path) -> list[Any]:
    """Every commit and its data, without what carries the id of the log."""
    log = Log(DiskFiles(path), str(path))
    found = []
    for version in range(1, log.version + 1):
        commit = log.find(version)
        record = commit.record
        record.log_id = record.previous_chain = bytes(16)
        parts = [bytes(part) for part in log.chunks_of(commit)]
        found.append((commit.offset, commit.end_offset, record.encode(), parts))
    return found


@pytest.mark.parametrize("waits", [(True, True), (False, False), (True, False)])
def test_same_commits_at_the_same_times_give_the_same_log(tmp_path, monkeypatch, waits):
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    for i, wait in enumerate(waits):
        _run(tmp_path / str(i), wait)
    first, second = (_records(tmp_path / str(i)) for i in range(2))
    assert len(first) > 30
    assert first == second


def test_array_made_by_name_costs_the_same_log_whenever_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    for i, is_early in enumerate((True, False)):
        with mmsb.open(tmp_path / str(i)) as bus:
            if is_early:
                bus.create("x", nbytes=9)
            with bus.batch():
                if not is_early:
                    bus.create("x", nbytes=9)
                bus.write("x", np.ones(9, np.uint8))
    assert _records(tmp_path / "0") == _records(tmp_path / "1")
