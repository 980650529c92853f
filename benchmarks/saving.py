"""What a run pays that does not log the bytes of each step, or of each part; and its disk."""

import itertools
from pathlib import Path
from typing import Any

import jax

import mmsb_jax as mmsb
from benchmarks.peers import Rows
from mmsb_jax.bench import works
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row, ratio_at_most
from mmsb_jax.bench.states import MB

_LAST = 5


def rows(folder: Path, long: bool) -> Rows:
    """Commits of digests, beside a digest; the disk of a run that keeps the newest."""
    yield _digests(folder)
    yield _parts(folder)
    yield _disk(folder, 5_000 if long else 1_000)


def _state(nbytes: int, number: int) -> dict[str, jax.Array]:
    """Float32 weights in which every word differs from those of another number."""
    keys = jax.random.split(jax.random.key(number), 8)
    return {
        f"w{i}": jax.random.normal(key, (nbytes // 8 // 4096, 1024)) for i, key in enumerate(keys)
    }


def _digests(folder: Path) -> Row:
    states = [_state(64 * MB, number) for number in range(2)]
    turn = itertools.cycle(states)
    layout = mmsb.Layout.of(states[0])
    packed = itertools.cycle([layout.pack(state) for state in states])
    with works.bus_in(folder, save=mmsb.Every(steps=1_000_000)) as bus:
        bus.commit(states[1])
        return compare(
            "saving/digest", "commit of the digests of 64 MB float32, every word changed",
            Work("bus.commit", lambda: bus.commit(next(turn))),
            Work("mmsb.digest of the same as pages",
                 lambda: jax.block_until_ready(mmsb.digest(next(packed), layout))),
            rounds=15, must=ratio_at_most(1.2),
        )  # fmt: skip


def _parts(folder: Path) -> Row:
    """A third of the state at ten times the rate of the rest, as weights beside Adam's moments."""
    states = [
        {"params": _state(8 * MB, number), "moments": _state(16 * MB, number + 8)}
        for number in range(7)
    ]
    often, seldom = mmsb.Every(steps=10), mmsb.Every(steps=100)

    def logged(save: Any) -> int:
        with works.bus_in(folder, save=save) as bus:
            pairs = zip(range(201), itertools.cycle(states), strict=False)
            return sum(bus.commit(state, step=step).logged_bytes for step, state in pairs)

    return Row(
        "saving/parts",
        "201 steps of 24 MB, every word changed: 8 MB of weights logged every 10, all every 100",
        "B", [logged({"params": often, "**": seldom})], "all of it every 10", [logged(often)],
        aim=ratio_at_most(0.5), note=f"all of it every 100: {logged(seldom) / MB:.0f} MB",
    )  # fmt: skip


def _disk(folder: Path, steps: int) -> Row:
    states = [_state(32 * MB, number) for number in range(4)]
    most = 0
    save, keep = mmsb.Every(steps=50), mmsb.Keep(last=_LAST)
    with works.bus_in(folder, save=save, keep=keep) as bus:
        for step, state in zip(range(steps), itertools.cycle(states), strict=False):
            bus.commit(state, step=step)
            if step % 50 == 0:
                files = [file for file in Path(str(bus.path)).rglob("*") if file.is_file()]
                most = max(most, sum(file.stat().st_size for file in files))
        runs = bus.stats().keep_runs
    return Row(
        "saving/disk",
        f"{steps:,} steps of 32 MB, every word changed, bytes every 50, the newest {_LAST} kept: "
        f"the most on the disk",
        "B", [most], f"{_LAST} states", [_LAST * 32 * MB], aim=ratio_at_most(2),
        note=f"given up {runs} times",
    )  # fmt: skip
