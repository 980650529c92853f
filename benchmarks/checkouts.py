"""Checkouts: budget 6."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import orbax.checkpoint as ocp

import mmsb_jax as mmsb
from benchmarks._measure import Row, median_ms
from benchmarks._trees import bf16_tree, changed


def rows() -> Iterator[Row]:
    """A version 100 commits past its snapshot."""
    tree = bf16_tree()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with mmsb.open(folder / "c.mmsb", snapshots=False) as bus:
            bus.commit(tree)
            bus.snapshot()
            # What a hundred commits change is small, as in fine-tuning at a low rate.
            for new in changed(tree, 0.001, 100):
                bus.commit(new)
            target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
            checkout_ms = median_ms(lambda: bus.checkout(version=101, like=target), 7, 1)
        with ocp.StandardCheckpointer() as saver:
            saver.save(folder / "orbax", tree)
            saver.wait_until_finished()
            found = []
            for _ in range(5):
                begun = time.perf_counter_ns()
                jax.block_until_ready(saver.restore(folder / "orbax", target))
                found.append((time.perf_counter_ns() - begun) / 1e6)
        restore_ms = statistics.median(found)
    yield Row("6", "checkout, 64 MB, 100 commits of 0.1 % past its snapshot, digest checked",
              checkout_ms, "ms", "Orbax restore", restore_ms, "×1", "÷3",
              checkout_ms <= restore_ms)  # fmt: skip
