"""The same commits at the same times give the same log, but for the ids of the logs."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.commit import head as commit_head
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.format.record import FULL, CommitRecord
from mmsb_jax._store.log.log import Log

LONG = pytest.mark.long


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


DTYPES = ("uint8", "int16", "bfloat16", "float32", "float64", "complex64", "bool")


def _change(rng: np.random.Generator, array: np.ndarray) -> None:
    """Change no byte, one, a few or most of them; near each other or far apart."""
    raw = array.reshape(-1).view(np.uint8)
    count = min(int(rng.choice([0, 1, 2, 3, 7, 12, 40, raw.size])), raw.size)
    within = raw[: max(1, int(raw.size // rng.choice([1, 1, 8])))]
    places = rng.integers(0, within.size, count)
    within[places] = rng.integers(0, 2 if array.dtype == bool else 256, count)


def _run_randomly(path: Path, seed: int, count: int) -> None:
    """Write, apply deltas, commit in batches and as trees; some of it sets off waves."""
    rng = np.random.default_rng(seed)
    sizes = (1, 3, 8, 100, 1500, 70_000)
    arrays = {
        f"{dtype}/{size}": np.zeros(size, jnp.dtype(dtype)) for dtype in DTYPES for size in sizes
    }
    tree = {"w": np.zeros((40, 7), np.float32), "step": 0, "name": "a"}
    with mmsb.open(path, page_bytes=1024, snapshots=bool(seed % 2)) as bus:
        for name, array in arrays.items():
            bus.create(name, array.shape, array.dtype)
        bus.derive("twice", ["float32/100"], lambda x: x * 2)
        bus.derive("both", ["twice", "int16/3"], lambda x, y: x.sum() + y)
        names = list(arrays)
        for number in range(count):
            name, said = names[rng.integers(len(names))], {"step": number} if number % 3 else {}
            _change(rng, arrays[name])
            match rng.integers(5):
                case 0:
                    with bus.batch():
                        for other in names[:: rng.integers(1, 9)]:
                            _change(rng, arrays[other])
                            bus.write(other, arrays[other])
                        bus.write(name, arrays[name])
                case 1:
                    tree["w"] = tree["w"].copy()
                    _change(rng, tree["w"])
                    tree |= {"step": number, "name": "ab"[number % 2]}
                    bus.commit(tree, source="tree", **said)
                case 2:
                    region = bus.layout.region(name)
                    where = np.zeros(region.nbytes, bool)
                    where[rng.integers(0, where.size, rng.integers(1, 9))] = True
                    raw = arrays[name].view(np.uint8)
                    delta = mmsb.Delta.from_bytes(region, where, raw)
                    bus.apply(delta)
                    arrays[name] = np.array(bus.read(name))
                case _:
                    bus.write(name, arrays[name], source="hand" if number % 2 else "", **said)


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=LONG) for n in (0, *range(2, 40)))])
def test_plain_commits_have_the_bytes_of_all_others(tmp_path, monkeypatch, seed):
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    plain, found = commit_head.is_plain, []

    def counted(*arguments):
        found.append(plain(*arguments))
        return found[-1]

    monkeypatch.setattr(commit_head, "is_plain", counted)
    _run_randomly(tmp_path / "0", seed, 150)
    assert 20 < sum(found) < len(found)
    monkeypatch.setattr(commit_head, "is_plain", lambda *arguments: False)
    _run_randomly(tmp_path / "1", seed, 150)
    assert _records(tmp_path / "0") == _records(tmp_path / "1")
    with mmsb.open(tmp_path / "0", mode="r") as bus:
        assert bus.verify(deep=True)


def test_plain_commits_stand_alone_when_deltas_have_outgrown_the_array(tmp_path, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    for i, is_plain in enumerate((commit_head.is_plain, lambda *arguments: False)):
        monkeypatch.setattr(commit_head, "is_plain", is_plain)
        value = np.zeros(100, np.float32)
        with mmsb.open(tmp_path / str(i)) as bus:
            bus.create("x", (100,))
            for number in range(120):
                value[number % 100] = number
                bus.write("x", value)
    first, second = (_records(tmp_path / str(i)) for i in range(2))
    assert first == second
    records = (CommitRecord.decode(meta) for _, _, meta, _ in first)
    assert any((record.records["flags"] & FULL).any() for record in records)
