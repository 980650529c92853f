"""Keeping what a function was compiled to: beside compiling it, and beside its plain text."""

import functools
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import zstandard

import mmsb_jax as mmsb
from benchmarks.peers import Rows
from mmsb_jax.bench import works
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row, ratio_at_most

_LAYERS = 200
_WIDTH = 64
_STAGES = ("jaxpr", "stablehlo", "hlo")


def rows(folder: Path, long: bool) -> Rows:
    """A program of 200 layers: captured first, again, with another shape; bytes of each."""
    yield _time(folder, 9 if long else 3)
    yield from _bytes(folder)
    yield _write(folder)


def _stage(batch: int) -> Any:
    """The gradient of a network, traced anew: nothing that JAX knows of an earlier one is used."""

    def loss(params: Any, x: Any) -> Any:
        for w in params:
            x = jnp.tanh(x @ w) + x
        return (x**2).sum()

    shapes = [jax.ShapeDtypeStruct((_WIDTH, _WIDTH), jnp.float32)] * _LAYERS
    traced = jax.jit(jax.value_and_grad(loss)).trace
    return traced(shapes, jax.ShapeDtypeStruct((batch, _WIDTH), jnp.float32))


def _time(folder: Path, rounds: int) -> Row:
    # With numbers of their own, so that no cache of compiled programs has one.
    batches = itertools.count(1000 + time.time_ns() % 1_000_000)
    compiled: list[Any] = []

    def compile_one() -> None:
        compiled[:] = [_stage(next(batches))]
        compiled[0].lower().compile()

    compile_one()
    with works.bus_in(folder) as bus:
        capture = functools.partial(mmsb.programs.capture, bus, "train")
        return compare(
            "programs/capture", f"capture of a program of {_LAYERS} layers that is compiled",
            Work("capture", lambda: capture(compiled[0])),
            Work("tracing and compiling it", compile_one),
            rounds=rounds, must=ratio_at_most(1), aim=ratio_at_most(0.2),
        )  # fmt: skip


def _bytes(folder: Path) -> Rows:
    batches = {"first": 32, "again": 32, "shape": 48, "other": 128}
    whats = {
        "first": f"bytes logged of a program of {_LAYERS} layers",
        "again": "the same program again",
        "shape": "with another batch size",
        "other": "with one for which XLA makes something else of it",
    }
    with works.bus_in(folder) as bus:
        for name, batch in batches.items():
            program = mmsb.programs.capture(bus, "train", _stage(batch))
            texts = [(program.text(stage) or "").encode() for stage in _STAGES]
            packed = sum(len(zstandard.compress(text)) for text in texts)
            assert bus.latest is not None
            yield Row(
                f"programs/{name}", whats[name], "B", [bus.latest.logged_bytes],
                "its texts, compressed by zstd", [packed],
                must=ratio_at_most(1 if name != "first" else 1.5),
                note=f"{sum(map(len, texts)):,} bytes of text",
            )  # fmt: skip


def _write(folder: Path) -> Row:
    with works.bus_in(folder) as beside, works.bus_in(folder) as alone:
        mmsb.programs.capture(beside, "train", _stage(32))
        with works.small_write(beside) as write, works.small_write(alone) as plain:
            return compare(
                "programs/write", "a write of 1 KB on a bus with a program",
                write, Work("on a bus without", plain.run, calls=plain.calls),
                rounds=9, must=ratio_at_most(1.25),
            )  # fmt: skip
