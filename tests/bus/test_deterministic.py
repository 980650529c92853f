"""The same commits at the same times give the same log, but for the ids of the logs."""

from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._bus.write.array_writer import ArrayWriter
from mmsb_jax._store.commit import head as commit_head
from mmsb_jax._store.format.record import FULL, CommitRecord
from tests.bus._records import records_of

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


@pytest.mark.parametrize("waits", [(True, True), (False, False), (True, False)])
def test_same_commits_at_the_same_times_give_the_same_log(tmp_path, monkeypatch, waits):
    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    for i, wait in enumerate(waits):
        _run(tmp_path / str(i), wait)
    first, second = (records_of(tmp_path / str(i)) for i in range(2))
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
    assert records_of(tmp_path / "0") == records_of(tmp_path / "1")


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
        bus.derive("mean", ["float32/100", "twice"], lambda x, y: (x + y).mean())
        bus.derive("sign", ["both"], jnp.sign, equal=lambda old, new: (old == new).all())
        names = list(arrays)
        for number in range(count):
            if number == count * 3 // 4:
                bus.derive("lazy", ["int16/100"], lambda x: x + 1, when="read")
            if number == count * 7 // 8:
                bus.read("lazy")
                bus.mode = "deferred"
            if number == count - 6:
                bus.mode = "immediate"
                bus.propagate()
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


@pytest.fixture
def way(monkeypatch):
    """Sends commits ``"straight"``, ``"plain"`` where they are, or the way of all ``"others"``."""
    plain, land_small = commit_head.plain_of, commit_head.Head.land_small
    taken: Counter[str] = Counter()

    def plain_of(*arguments: Any) -> Any:
        found = plain(*arguments) if taken["way"] < 2 else None
        taken["plain"] += found is not None
        return found

    def counted(*arguments: Any) -> Any:
        taken["straight"] += 1
        return land_small(*arguments)

    monkeypatch.setattr("time.time_ns", lambda: 10**18)
    monkeypatch.setattr(commit_head, "plain_of", plain_of)
    monkeypatch.setattr(commit_head.Head, "land_small", counted)
    straight = ArrayWriter._straight
    monkeypatch.setattr(
        ArrayWriter, "_straight", lambda self: None if taken["way"] else straight(self)
    )

    def choose(name: str) -> Counter[str]:
        taken.clear()
        taken["way"] = ["straight", "plain", "others"].index(name)
        return taken

    return choose


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=LONG) for n in (0, *range(2, 40)))])
def test_commits_have_the_same_bytes_whatever_way_they_take(tmp_path, way, seed):
    logs = {}
    for name in ("straight", "plain", "others"):
        taken = way(name)
        _run_randomly(tmp_path / name, seed, 150)
        logs[name] = records_of(tmp_path / name)
        assert (taken["straight"] > 20) == (name == "straight")
        assert name != "plain" or taken["plain"] > 20
    assert logs["straight"] == logs["others"]
    assert logs["plain"] == logs["others"]
    with mmsb.open(tmp_path / "straight", mode="r") as bus:
        assert bus.verify(deep=True)


def test_plain_commits_stand_alone_when_deltas_have_outgrown_the_array(tmp_path, way):
    logs = []
    for name in ("straight", "others"):
        way(name)
        value = np.zeros(100, np.float32)
        with mmsb.open(tmp_path / name) as bus:
            bus.create("x", (100,))
            for number in range(120):
                value[number % 100] = number
                bus.write("x", value)
        logs.append(records_of(tmp_path / name))
    assert logs[0] == logs[1]
    records = (CommitRecord.decode(meta) for _, _, meta, _ in logs[0])
    assert any((record.records["flags"] & FULL).any() for record in records)


@pytest.mark.parametrize("nbytes", [1, 5, 126, 128, 130, 300])
@pytest.mark.parametrize("value", [0, 7])
def test_delta_that_reaches_the_end_is_the_same_or_refused_whatever_way_it_takes(
    tmp_path, way, nbytes, value
):
    seen = []
    for name in ("straight", "others"):
        way(name)
        with mmsb.open(tmp_path / name, page_bytes=1024) as bus:
            bus.create("before", nbytes=7)
            bus.create("x", nbytes=nbytes)
            bus.write("x", np.full(nbytes, 9, np.uint8))
            page = bus.layout.region("x").page
            for byte in {0, nbytes - 1, nbytes, nbytes + 1, 127, 128, 255, 260, 1023}:
                mask = np.zeros((1, 32), np.uint32)
                mask.view(np.uint8)[0, byte % 128] = 0xFF
                data = np.full((1, 32), 0x01010101 * value, np.uint32) & mask
                rows = ([page], [byte // 128], mask, data, 1, False)
                leaves = jax.tree.leaves(mmsb.Delta.empty(1))
                said = mmsb.Delta(
                    *(jnp.asarray(r, x.dtype) for r, x in zip(rows, leaves, strict=True))
                )
                try:
                    commit = bus.apply(said)
                    seen.append((name, byte, commit.changed, bus.read("x").tolist()))
                except mmsb.InvalidDeltaError as error:
                    seen.append((name, byte, str(error)))
        seen.append((name, records_of(tmp_path / name)))
    half = len(seen) // 2
    assert [each[1:] for each in seen[:half]] == [each[1:] for each in seen[half:]]
    assert any("writes at byte" in str(each[2:]) for each in seen)


@pytest.mark.parametrize(
    "odd",
    [
        {"data": np.zeros((1, 32), np.int64)},
        {"mask": np.full((1, 32), -1, np.int32)},
        {"mask": np.full((1, 64), 2**32 - 1, np.uint32), "data": np.ones((1, 64), np.uint32)},
        {"page": np.zeros(0, np.int32)},
        {"block": np.zeros(2, np.int32)},
        {"count": np.int32(2)},
        {"count": np.int32(-1)},
        {"page": np.array([-1], np.int32)},
        {"block": np.array([7], np.int32)},
        {"overflow": np.bool_(True)},
    ],
    ids=lambda odd: next(iter(odd)),
)
def test_delta_that_is_not_sound_has_one_answer_whatever_way_it_takes(way, odd):
    seen = []
    for name in ("straight", "others"):
        way(name)
        with mmsb.open(page_bytes=1024) as bus:
            bus.create("x", nbytes=500)
            bus.write("x", np.full(500, 9, np.uint8))
            sound = mmsb.Delta.from_bytes(
                bus.layout.region("x"), np.arange(500) == 5, np.full(500, 1, np.uint8)
            )
            said = object.__new__(mmsb.Delta)  # as it would come from anywhere
            for field in ("page", "block", "mask", "data", "count", "overflow", "block_words"):
                object.__setattr__(said, field, odd.get(field, getattr(sound, field)))
            try:
                seen.append((bus.apply(said).changed, bus.read("x").tolist()))
            except Exception as error:
                seen.append((type(error), str(error)))
    assert seen[0] == seen[1]
