"""What a log costs a training, beside Orbax: ``python -m benchmarks.training [--size 20m]``.

The language model of `mmsb_jax.demo.language`, by three optimisers, with parameters (and what the
optimisers keep of them) in float32 and in bfloat16. Each pair is a process, in which every way to
keep the state has a turn: the step alone, a commit with bytes behind each step, commits of digests,
bytes every 50 steps, and Orbax's asynchronous saves behind each step and every 50.

The steps alone have a turn before each of these and one behind the last: what a way adds is beyond
the mean of the two beside it, and the slowest and the fastest tell how steady the machine was.

Behind each step: the clock begins and ends with a commit under way, so that what it does behind the
next step counts, and once. Every 50 steps: of the time of `_WINDOW` steps, in which one save falls
and lands, what is beyond the steps alone is divided among 50, with that of 49 commits of digests.
Memory is the peak of the process in a turn, beyond that of the steps alone.
"""

import argparse
import contextlib
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.table import Table

import mmsb_jax as mmsb
from benchmarks.__main__ import RESULTS, machine
from benchmarks.memory import Memory
from mmsb_jax.bench.row import shown
from mmsb_jax.demo.language import _training as training
from mmsb_jax.demo.language._model import SIZES, ModelSize

_OPTIMIZERS = {
    "SGD, momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "Adam": optax.adam,
    "Adafactor": optax.adafactor,
}
_DTYPES = ("float32", "bfloat16")
_INTERVAL = 50
_WARM, _STEPS, _WINDOW = 2, 4, 6
_NEVER = 1_000_000
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Turn:
    """What some steps cost, with one way to keep their state.

    Attributes:
        seconds: of all steps.
        steps: how many.
        saved_bytes: bytes that a step with bytes took on the disk; 0 where none has.
        other_bytes: those that another took.
        peak_bytes: the most that the process weighed beyond what it weighed before.
    """

    seconds: float
    steps: int
    saved_bytes: float
    other_bytes: float
    peak_bytes: int

    @property
    def step_s(self) -> float:
        """Seconds of one step."""
        return self.seconds / self.steps


@dataclass(frozen=True)
class Price:
    """What a way to keep the state costs a step.

    Attributes:
        optimizer, dtype: of the training.
        state_bytes: bytes of the state.
        alone_s: seconds of a step alone, the fastest and the slowest turn of those in the process.
        beside_s: the same, the mean of the turns before this way and behind it.
        way: how the state is kept.
        added_s: seconds that this adds to a step.
        step_bytes: bytes of the disk that a step takes.
        memory_bytes: peak of the memory beyond that of the steps alone.
    """

    optimizer: str
    dtype: str
    state_bytes: int
    alone_s: tuple[float, float]
    beside_s: float
    way: str
    added_s: float
    step_bytes: float
    memory_bytes: int


# --------------------------------------------------------------------------------- in one process

Save = Callable[[int, Any], Any]
"""Keeps a state behind a step."""


@dataclass(frozen=True)
class Keeper:
    """A way to keep states: ``save`` each, ``settle`` until all are there, and what they took."""

    save: Save
    settle: Callable[[], Any]
    took: Callable[[], tuple[float, float]]


@contextlib.contextmanager
def _by_nothing(folder: Path) -> Iterator[Keeper]:
    del folder
    yield Keeper(lambda step, state: None, lambda: None, lambda: (0, 0))


@contextlib.contextmanager
def _by_commits(folder: Path, save: Any) -> Iterator[Keeper]:
    path = folder / "log.mmsb"
    with mmsb.open(path, save=save) as bus:

        def took() -> tuple[float, float]:
            later = [
                (commit.saved, commit.logged_bytes) for commit in bus.commits if commit.version > 1
            ]
            saved, others = ([n for is_saved, n in later if is_saved is w] for w in (True, False))
            return statistics.mean(saved or [0]), statistics.mean(others or [0])

        yield Keeper(
            lambda step, state: bus.commit(
                state, step=step, extra={"next": step}, note={"loss": state["loss"]}, wait=False
            ),
            bus.sync,
            took,
        )
    shutil.rmtree(path)


@contextlib.contextmanager
def _by_orbax(folder: Path, interval: int) -> Iterator[Keeper]:
    import orbax.checkpoint as ocp

    from benchmarks.peers import orbax

    with orbax.manager(folder, interval) as manager:
        yield Keeper(
            lambda step, state: manager.save(step, args=ocp.args.StandardSave(state)),
            manager.wait_until_finished,
            lambda: (orbax.bytes_of_newest(manager), 0),
        )


_WAYS: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "commits, bytes every step": (lambda folder: _by_commits(folder, None), False),
    "commits, bytes every 50": (lambda folder: _by_commits(folder, mmsb.Every(steps=50)), True),
    "commits, digests alone": (lambda folder: _by_commits(folder, mmsb.Every(steps=_NEVER)), False),
    "Orbax, every step": (lambda folder: _by_orbax(folder, 1), False),
    "Orbax, every 50": (lambda folder: _by_orbax(folder, _INTERVAL), True),
}
"""How to begin each, and whether a window with one save is measured."""


def measure(optimizer: str, dtype: str, size: ModelSize, folder: Path) -> list[Price]:
    """What every way to keep the state costs one training."""
    made = _OPTIMIZERS[optimizer](size.rate)
    step = training.make_step(size, made)
    start = jax.jit(lambda: training.start(size, made, jnp.dtype(dtype)))
    state_bytes = sum(x.nbytes for x in jax.tree.leaves(start()))

    def turn(begin: Callable[[Path], Any], is_window: bool) -> Turn:
        return _turn(step, jax.block_until_ready(start()), begin(folder), is_window)

    jax.block_until_ready(step(start(), {"next": 0}))  # compiles
    alone, turns = [turn(_by_nothing, False)], dict[str, Turn]()
    for way, (begin, is_window) in _WAYS.items():
        turns[way] = turn(begin, is_window)
        alone.append(turn(_by_nothing, False))
    steps_s = [one.step_s for one in alone]
    beside_s = dict(zip(_WAYS, map(statistics.mean, itertools.pairwise(steps_s)), strict=True))
    digests = "commits, digests alone"
    of_digests_s = turns[digests].step_s - beside_s[digests]

    def price(way: str, one: Turn) -> Price:
        alone_s = beside_s[way]
        added_s, step_bytes = one.step_s - alone_s, one.saved_bytes or one.other_bytes
        if _WAYS[way][1]:
            other_s = of_digests_s if one.other_bytes else 0
            save_s = one.seconds - one.steps * alone_s - (one.steps - 1) * other_s
            added_s = (save_s + (_INTERVAL - 1) * other_s) / _INTERVAL
            step_bytes = (one.saved_bytes + (_INTERVAL - 1) * one.other_bytes) / _INTERVAL
        return Price(
            optimizer=optimizer,
            dtype=dtype,
            state_bytes=state_bytes,
            alone_s=(min(steps_s), max(steps_s)),
            beside_s=alone_s,
            way=way,
            added_s=added_s,
            step_bytes=step_bytes,
            memory_bytes=one.peak_bytes - min(each.peak_bytes for each in alone),
        )

    return [price(way, one) for way, one in turns.items()]


def _turn(step: training.Step, state: Any, begun: Any, is_window: bool) -> Turn:
    count = _WINDOW if is_window else _STEPS
    extra = {"next": _INTERVAL - _WARM - 2}  # the window has the save near its beginning
    memory = Memory()
    with begun as keeper:

        def take(count: int) -> None:
            nonlocal state, extra
            for _ in range(count):
                state, extra = step(state, extra)
                keeper.save(extra["next"], state)
            jax.block_until_ready(state)

        take(_WARM)
        keeper.settle()  # it has compiled what it needs
        if not is_window:
            take(1)
        begun_s = time.perf_counter()
        take(count)
        if is_window:
            keeper.settle()
        seconds = time.perf_counter() - begun_s
        keeper.settle()
        saved, other = keeper.took()
        return Turn(seconds, count, saved, other, memory.taken()["peak"])


# ------------------------------------------------------------------------------------- the report

_COLUMNS = (
    "optimiser", "parameters", "state", "a step alone", "kept by", "adds to a step", "of the step",
    "bytes a step", "of the state", "memory", "in states",
)  # fmt: skip


def _cells(price: Price, is_first: bool) -> tuple[str, ...]:
    head = (
        price.optimizer,
        price.dtype,
        shown(price.state_bytes, "B"),
        " to ".join(shown(seconds, "s") for seconds in price.alone_s),
    )
    return (
        *(head if is_first else ("",) * len(head)),
        price.way,
        shown(price.added_s, "s"),
        f"{price.added_s / price.beside_s:.1%}",
        shown(price.step_bytes, "B"),
        f"{price.step_bytes / price.state_bytes:.2%}",
        shown(price.memory_bytes, "B"),
        f"{price.memory_bytes / price.state_bytes:.1f}",
    )


def main() -> int:
    """Run it, print the table, keep the figures."""
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model")
    parser.add_argument("--folder", help="where the logs are written; a temporary one by default")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    asked = parser.parse_args()
    if asked.case:
        optimizer, dtype = asked.case
        prices = measure(optimizer, dtype, SIZES[asked.size], Path(asked.folder))
        print(json.dumps([asdict(price) for price in prices]))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 200)
    table, rows = Table(*_COLUMNS), list[Price]()
    for optimizer in _OPTIMIZERS:
        for dtype in _DTYPES:
            begun_s = time.monotonic()
            with (
                console.status(f"{optimizer}, {dtype} …"),
                tempfile.TemporaryDirectory(dir=asked.folder, ignore_cleanup_errors=True) as folder,
            ):
                prices = _in_a_process(optimizer, dtype, asked.size, folder)
            for i, price in enumerate(prices):
                table.add_row(*_cells(price, i == 0))
            rows += prices
            console.print(f"{optimizer}, {dtype}: {time.monotonic() - begun_s:.0f} s")
    console.print(table)
    _keep(rows, asked.size, console)
    return 0


def _in_a_process(optimizer: str, dtype: str, size: str, folder: str) -> list[Price]:
    command = [sys.executable, "-m", "benchmarks.training", "--size", size, "--folder", folder]
    done = subprocess.run(
        [*command, "--case", optimizer, dtype],
        cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return [Price(**price | {"alone_s": tuple(price["alone_s"])}) for price in found]


def _keep(rows: list[Price], size: str, console: Console) -> None:
    path = RESULTS / f"training-{size}-{jax.default_backend()}-jax{jax.__version__}.json"
    report = {"machine": machine(), "prices": [asdict(price) for price in rows]}
    path.write_text(json.dumps(report, indent=1) + "\n")
    lines = [f"Measured by `python -m benchmarks.training --size {size}` on: {machine()}", ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in (_COLUMNS, ("---",) * len(_COLUMNS))]
    lines += [f"| {' | '.join(_cells(price, True))} |" for price in rows]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
    console.print(f"kept in {path} and beside it as Markdown")


if __name__ == "__main__":
    sys.exit(main())
