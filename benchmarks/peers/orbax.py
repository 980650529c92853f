"""Orbax, the library by which JAX programs save checkpoints."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mmsb_jax.bench.measure import Work


@contextlib.contextmanager
def save(folder: Path, states: Iterable[Any]) -> Iterator[Work]:
    """A synchronous save of the next of ``states``; the one before is removed."""
    turn = iter(states)
    with (
        tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name,
        ocp.StandardCheckpointer() as saver,
    ):
        place = Path(name, "state")

        def run() -> None:
            saver.save(place, next(turn))
            saver.wait_until_finished()

        yield Work("Orbax's save", run, after=lambda _: shutil.rmtree(place))


@contextlib.contextmanager
def save_without_waiting(folder: Path, states: Iterable[Any]) -> Iterator[Work]:
    """How long an asynchronous save of the next of ``states`` holds its caller."""
    turn = iter(states)
    with (
        tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name,
        ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()) as saver,
    ):
        place = Path(name, "state")

        def settle(_: object) -> None:
            saver.wait_until_finished()
            shutil.rmtree(place)

        yield Work(
            "Orbax's asynchronous save",
            lambda: saver.save(place, args=ocp.args.PyTreeSave(next(turn))),
            after=settle,
        )


@contextlib.contextmanager
def restore(folder: Path, state: Any) -> Iterator[Work]:
    """A restore of what was saved, from the page cache."""
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    with (
        tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name,
        ocp.StandardCheckpointer() as saver,
    ):
        place = Path(name, "state")
        saver.save(place, state)
        saver.wait_until_finished()
        yield Work("Orbax's restore", lambda: jax.block_until_ready(saver.restore(place, like)))


def saved_bytes(folder: Path, state: Any) -> int:
    """What its files of a state take."""
    with (
        tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name,
        ocp.StandardCheckpointer() as saver,
    ):
        saver.save(Path(name, "state"), state)
        saver.wait_until_finished()
        return sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())


@contextlib.contextmanager
def manager(folder: Path, interval: int) -> Iterator[ocp.CheckpointManager]:
    """What a training loop has: it saves without waiting, every ``interval`` steps."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=interval, enable_async_checkpointing=True
        )
        with ocp.CheckpointManager(Path(name), options=options) as made:
            yield made


def bytes_of_newest(made: ocp.CheckpointManager) -> int:
    """What the files of the newest save take."""
    place = Path(made.directory, str(made.latest_step()))
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
