"""Weights into a directory that servers pull from: ``python -m benchmarks.publishing``.

32 MB of bfloat16, of which random elements change by one step of their last bit, as they do under
small learning rates; bytes and time of a push, beside a file of all weights, synced.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table
from safetensors.numpy import save_file

import mmsb_jax as mmsb

_SHARES = (0.0015, 0.011, 0.073)
_TENSORS, _ELEMENTS, _ROUNDS = 16, 1_000_000, 7
Weights = dict[str, np.ndarray]


def main() -> None:
    """Measure each share of changed elements, and print a table."""
    table = Table("changed", "push MB", "push ms", "commit ms", "full MB", "full ms")
    for share in _SHARES:
        table.add_row(f"{share:.2%}", *(f"{figure:.3f}" for figure in measured(share)))
    Console().print(table)


def measured(share: float) -> tuple[float, ...]:
    """Medians over some pushes."""
    rng = np.random.default_rng(0)
    weights = {
        f"layer.{i}": (rng.standard_normal(_ELEMENTS) / 50).astype(ml_dtypes.bfloat16)
        for i in range(_TENSORS)
    }
    rows: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory() as folder, mmsb.open(Path(folder) / "run.mmsb") as bus:
        publisher = bus.publish(Path(folder) / "weights", anchor_every=1000)
        bus.commit(weights)
        publisher.push()
        for _ in range(_ROUNDS):
            weights = {name: _changed(rng, array, share) for name, array in weights.items()}
            commit_ms, _ = _timed(lambda weights=weights: bus.commit(weights))
            push_ms, pushed = _timed(publisher.push)
            path = Path(folder) / "full.safetensors"
            full_ms, _ = _timed(lambda weights=weights, path=path: _write_full(weights, path))
            sizes = pushed.nbytes / 1e6, path.stat().st_size / 1e6
            rows.append((sizes[0], push_ms, commit_ms, sizes[1], full_ms))
    return tuple(statistics.median(column) for column in zip(*rows, strict=True))


def _changed(rng: np.random.Generator, array: np.ndarray, share: float) -> np.ndarray:
    bits = array.view(np.uint16).copy()
    chosen = rng.random(bits.size) < share
    bits[chosen] += rng.choice(np.array([1, 65535], np.uint16), int(chosen.sum()))
    return bits.view(ml_dtypes.bfloat16)


def _write_full(weights: Weights, path: Path) -> None:
    save_file(weights, path)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _timed(call: Callable[[], mmsb.Published | object]) -> tuple[float, mmsb.Published]:
    begun = time.perf_counter()
    found = call()
    return (time.perf_counter() - begun) * 1e3, found  # type: ignore[return-value]


if __name__ == "__main__":
    main()
