"""What `benchmarks.gpu` has measured, how it measures, and the file that it keeps."""

import functools
import importlib
import itertools
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmsb_jax._base.digest_mix import GOLDEN
from mmsb_jax.kernels import LINE_WORDS, TILE_LINES
from mmsb_jax.kernels.xla import mix

MB, GB = 1 << 20, 1 << 30
LINE_BYTES = 4 * LINE_WORDS
_ROUND_S = 0.08
"""Time that one round of calls takes, about."""


@dataclass(frozen=True)
class Figure:
    """One time.

    Attributes:
        section: what it is a part of.
        what: the work.
        form: who does it: ``kernel``, ``XLA``, or a part of the library.
        state_bytes: size of the state.
        ms: median time of a call, in milliseconds.
        spread_ms: longest less shortest round.
        model_bytes: bytes that the work has to move, read and written.
        note: what else there is to say.
    """

    section: str
    what: str
    form: str
    state_bytes: int
    ms: float
    spread_ms: float
    model_bytes: int
    note: str = ""

    @property
    def gb_per_s(self) -> float:
        """10⁹ bytes of the model a second."""
        return self.model_bytes / 1e6 / self.ms


@dataclass
class Run:
    """Where it runs, how large, and what was found.

    Attributes:
        is_gpu: whether the first device is a GPU.
        has_kernels: whether there are any; not where JAX is too old.
        usable: names of the kernels that gave the right bits.
        until: `time.monotonic` at which no section begins any more.
        copy_gb_per_s: rate of a copy, read and written bytes together; 0 before it is known.
        figures: the rows so far.
        remarks: what was left out, or failed.
        checks: what was found equal.
        has_failed: whether a section failed, or a kernel gave other bits.
    """

    is_gpu: bool
    has_kernels: bool
    until: float
    usable: set[str] = field(default_factory=set)
    copy_gb_per_s: float = 0.0
    figures: list[Figure] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    has_failed: bool = False

    def remark(self, text: str) -> None:
        """Say something that the reader of the figures has to know."""
        self.remarks.append(text)
        print(f"-- {text}", flush=True)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Bytes of the states that the kernels are tried on."""
        return (64 * MB, GB, 4 * GB) if self.is_gpu else (MB // 8,)

    @property
    def check_tiles(self) -> int:
        """Tiles of the states that are checked."""
        return 200 if self.is_gpu else 4

    def kernel(self, name: str) -> Callable[..., Any]:
        """A kernel by name."""
        where = "benchmarks._gpu_compact" if name == "compact" else "mmsb_jax.kernels.mosaic"
        kernel = getattr(importlib.import_module(where), name)
        if self.is_gpu:
            return kernel
        plgpu = importlib.import_module("jax.experimental.pallas.mosaic_gpu")
        return functools.partial(kernel, interpret=plgpu.InterpretGPUParams())

    def timed(self, call: Callable[[], Any]) -> tuple[float, float]:
        """(median, spread) in ms of a call that is dispatched again and again, then waited for."""
        jax.block_until_ready(call())
        begun = time.perf_counter()
        jax.block_until_ready(call())
        once_s = time.perf_counter() - begun
        if not self.is_gpu:
            return once_s * 1e3, 0.0
        repeats = min(100, max(1, int(_ROUND_S / once_s)))
        found = []
        for _ in range(5 if once_s < 0.5 else 2):
            begun = time.perf_counter()
            for _ in range(repeats):
                result = call()
            jax.block_until_ready(result)
            found.append((time.perf_counter() - begun) / repeats * 1e3)
        return statistics.median(found), max(found) - min(found)


Rows = Iterator[Figure]


# ------------------------------------------------------------------------------------------ inputs


@functools.partial(jax.jit, static_argnums=0)
def random_lines(lines: int, seed: int) -> jax.Array:
    """``uint32[lines, 32]``, any bits; unlike `jax.random.bits`, in no more memory than that."""
    row = lax.broadcasted_iota(jnp.uint32, (lines, LINE_WORDS), 0)
    column = lax.broadcasted_iota(jnp.uint32, (lines, LINE_WORDS), 1)
    word = row * jnp.uint32(LINE_WORDS) + column + jnp.uint32(seed) * jnp.uint32(GOLDEN)
    return mix(mix(word) ^ (row >> 16))


@jax.jit
def change_lines(lines: jax.Array, share: float, seed: int) -> jax.Array:
    """The lines with one word changed in a share of them."""
    is_hit = jax.random.uniform(jax.random.key(seed), lines.shape[:1]) < share
    column = jnp.arange(LINE_WORDS) == 7
    return lines ^ (is_hit[:, None] & column).astype(jnp.uint32)


def lines_of(state_bytes: int) -> int:
    """Whole tiles of a state, in lines."""
    return state_bytes // LINE_BYTES // TILE_LINES * TILE_LINES


def carrying(
    program: Callable[..., Any], held: tuple[Any, ...], news: Iterable[Any]
) -> Callable[[], Any]:
    """Calls of ``program(*held, new)``, whose results begin with the next ``held``."""
    kept, turn = [held], itertools.cycle(news)

    def call() -> Any:
        results = program(*kept[0], next(turn))
        kept[0] = results[: len(held)]
        return results

    return call


def copied(tree: Any) -> Any:
    """A copy to be donated."""
    return jax.tree.map(lambda x: x + jnp.zeros((), x.dtype), tree)


def segments(
    rng: np.random.Generator, entries: int, lines: int, pool: int
) -> tuple[np.ndarray, np.ndarray]:
    """(lines of the pool that are written, where the entries of each begin and end)."""
    cuts = np.sort(rng.choice(np.arange(1, entries), lines - 1, replace=False))
    starts = np.concatenate([[0], cuts, [entries]]).astype(np.int32)
    return np.sort(rng.choice(pool, lines, replace=False)).astype(np.int32), starts


# -------------------------------------------------------------------------------------- the report

COLUMNS = (
    "section", "what", "by", "state", "ms", "spread", "model, MB", "GB/s", "of the copy", "",
)  # fmt: skip


def in_a_line(error: Exception) -> str:
    """What an error says, in short."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def cells(run: Run, figure: Figure) -> tuple[str, ...]:
    return (
        figure.section,
        figure.what,
        figure.form,
        _size(figure.state_bytes),
        f"{figure.ms:.3f}",
        f"{figure.spread_ms:.3f}",
        f"{figure.model_bytes / 1e6:,.3f}",
        f"{figure.gb_per_s:,.1f}",
        f"{100 * figure.gb_per_s / run.copy_gb_per_s:.1f} %" if run.copy_gb_per_s else "–",
        figure.note,
    )


def _size(size: int) -> str:
    for unit, scale in (("GiB", GB), ("MiB", MB), ("KiB", 1 << 10)):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} B"


def keep(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")
    path = folder / f"gpu-{device}-jax{jax.__version__}.json"
    figures = [asdict(f) | {"gb_per_s": f.gb_per_s} for f in run.figures]
    report = {"machine": machine(), "copy_gb_per_s": run.copy_gb_per_s, "equal": run.checks,
              "remarks": run.remarks, "figures": figures}  # fmt: skip
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    lines = [f"Measured by `python -m benchmarks.gpu` on: {machine()}", ""]
    if run.checks:
        lines += [f"Found equal on fresh random inputs: {'; '.join(run.checks)}."]
    lines += [f"Remark: {text}." for text in run.remarks]
    lines += ["", *("| " + " | ".join(c) + " |" for c in (COLUMNS, ("---",) * len(COLUMNS)))]
    lines += ["| " + " | ".join(cells(run, figure)) + " |" for figure in run.figures]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")


def machine() -> dict[str, object]:
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "device": device.device_kind,
        "device_memory_gib": round(stats.get("bytes_limit", 0) / GB, 1),
        "runtime": re.sub(r"\s+", " ", device.client.platform_version),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
