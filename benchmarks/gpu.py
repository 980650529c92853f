"""The hot path on a GPU: ``python -m benchmarks.gpu [--budget SECONDS] [--out FOLDER]``.

Each row is a time beside the bytes that the work has to move, and the rate that follows beside the
rate of a plain copy in the same run. The first sections time the library as it is. Then the kernels
(`mmsb_jax.kernels`) stand beside their XLA forms, once they were found to give the same bits; one
that does not is left out.

Without a GPU it runs small, with the kernels interpreted: a trial of the program, whose times say
nothing. With JAX 0.10 the kernels are left out: it has no ``plgpu.kernel`` of this form.
"""

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.__main__ import RESULTS
from benchmarks._gpu_compact import compact_by_xla
from benchmarks._gpu_equality import check_equality
from benchmarks._gpu_library import commits, core, released, transfers
from benchmarks._gpu_run import (
    GB,
    LINE_BYTES,
    Figure,
    Rows,
    Run,
    carrying,
    cells,
    change_lines,
    copied,
    in_a_line,
    keep,
    lines_of,
    machine,
    random_lines,
    segments,
)
from mmsb_jax.kernels import LINE_WORDS, TILE_LINES, xla
from mmsb_jax.kernels.select import rank, select, take

_FIRST: Any = np.zeros(1, np.int32)
_SEED: Any = np.array([1, 2], np.uint32)
_COLUMN: Any = np.arange(LINE_WORDS, dtype=np.uint32)

# ----------------------------------------------------------------------------------------- ceiling


def ceiling(run: Run) -> Rows:
    """A copy that XLA makes, and what a launch costs at least."""
    tiny = jnp.zeros(8, jnp.int32)
    add_one = jax.jit(lambda x: x + jnp.ones((), x.dtype))
    ms, spread = run.timed(lambda: add_one(tiny))
    yield Figure("ceiling", "a program of 32 bytes, dispatched", "XLA", 32, ms, spread, 64)
    begun = time.perf_counter()
    for _ in range(50):
        np.asarray(add_one(tiny))
    ms = (time.perf_counter() - begun) / 50 * 1e3
    yield Figure("ceiling", "the same, its result on the host", "XLA", 32, ms, 0, 64)
    for state_bytes in run.state_sizes:
        whole = random_lines(lines_of(state_bytes), 0)
        ms, spread = run.timed(lambda whole=whole: add_one(whole))
        figure = Figure("ceiling", "copy", "XLA", state_bytes, ms, spread, 2 * whole.nbytes)
        run.copy_gb_per_s = figure.gb_per_s  # the largest is the last
        yield figure


# ----------------------------------------------------------------------------------------- kernels


def scan(run: Run) -> Rows:
    """Compare with the shadow, and bring it forward."""
    compare = jax.jit(lambda shadow, new: xla.scan(shadow, new, _FIRST)[1:])
    programs = {"XLA": jax.jit(xla.scan, donate_argnums=0)}
    if "scan" in run.usable:
        programs["kernel"] = jax.jit(run.kernel("scan"), donate_argnums=0)
    for state_bytes, share in itertools.product(run.state_sizes, (0.0, 0.0001, 0.01, 0.1, 1.0)):
        old = random_lines(lines_of(state_bytes), 1)
        new = change_lines(old, share, 2)
        least = 2 * state_bytes + state_bytes // LINE_WORDS + int(share * state_bytes)
        for form, program in programs.items():

            def step(shadow: Any, lines: Any, program: Any = program) -> Any:
                return program(shadow, lines, _FIRST)

            ms, spread = run.timed(carrying(step, (copied(old),), (new, old)))
            what = f"scan, {share:.2%} of the lines changed"
            yield Figure("scan", what, form, state_bytes, ms, spread, least)
        ms, spread = run.timed(lambda old=old, new=new: compare(old, new))
        yield Figure("scan", "compare alone", "XLA", state_bytes, ms, spread,
                     2 * state_bytes + state_bytes // LINE_WORDS)  # fmt: skip


def digest(run: Run) -> Rows:
    """Digest the lines, and compare with those before."""
    lanes_of = jax.jit(lambda lines: xla.lanes(lines, _COLUMN, *_SEED))
    programs = {"XLA": jax.jit(xla.digest_lines, donate_argnums=(1, 2))}
    if "digest_lines" in run.usable:
        programs["kernel"] = jax.jit(run.kernel("digest_lines"), donate_argnums=(1, 2))
    row_sum = jax.jit(lambda lines: (lines * jnp.uint32(3)).sum(1, dtype=jnp.uint32))
    alone = {
        "digest, two mixes, alone": lanes_of,
        "a sum of each line: the limit": row_sum,
    }
    for state_bytes in run.state_sizes:
        old = random_lines(lines_of(state_bytes), 1)
        new = change_lines(old, 0.01, 2)
        lane_bytes = old.shape[0] * 4
        for form, program in programs.items():

            def step(one: Any, other: Any, lines: Any, program: Any = program) -> Any:
                return program(lines, one, other, _SEED)

            ms, spread = run.timed(carrying(step, copied(lanes_of(old)), (new, old)))
            yield Figure("digest", "digest and compare, 1% of the lines changed", form,
                         state_bytes, ms, spread, state_bytes + 3 * lane_bytes)  # fmt: skip
        for what, program in alone.items():
            ms, spread = run.timed(lambda new=new, program=program: program(new))
            yield Figure("digest", what, "XLA", state_bytes, ms, spread, state_bytes + lane_bytes)


def compaction(run: Run) -> Rows:
    """Changed lines, one behind the other."""
    for state_bytes in run.state_sizes[:2]:
        lines = random_lines(lines_of(state_bytes), 1)
        for share in (0.0, 0.001, 0.01, 0.1):
            is_hit = jax.random.uniform(jax.random.key(3), lines.shape[:1]) < share
            flags = is_hit.astype(jnp.int32)
            counts = flags.reshape(-1, TILE_LINES).sum(1, dtype=jnp.int32)
            capacity = max(1024, 1 << int(1.2 * share * lines.shape[0]).bit_length())
            least = lines.shape[0] * 4 + 2 * int(share * state_bytes)
            forms = {"XLA": compact_by_xla}
            if "compact" in run.usable:
                forms["kernel"] = run.kernel("compact")
            for form, function in forms.items():
                program = jax.jit(functools.partial(function, capacity=capacity))
                call = functools.partial(program, flags, lines, counts)
                ms, spread = run.timed(call)
                yield Figure("compaction", f"{share:.1%} of the lines", form, state_bytes, ms,
                             spread, least)  # fmt: skip


def selection(run: Run) -> Rows:
    """Changed words alone, by their rank: XLA's work (gathers of a search)."""
    count = jax.jit(rank)
    pick = jax.jit(_picked, static_argnames="size")
    for state_bytes in run.state_sizes[:2]:
        lines = random_lines(lines_of(state_bytes), 1)
        for share in (0.003, 0.03):
            bits = _random_bits(lines.shape[0], share, 5)
            ms, spread = run.timed(lambda bits=bits: count(bits))
            yield Figure("selection", f"rank, {share:.1%} of the words", "XLA", state_bytes, ms,
                         spread, lines.shape[0] * 12)  # fmt: skip
            ends, each = count(bits)
            total = int(ends[-1])
            for size in (1 << 14, 1 << 17, 1 << 20) if run.is_gpu else (1 << 8,):
                call = functools.partial(pick, lines, bits, ends, each, np.int32(0), size=size)
                ms, spread = run.timed(call)
                yield Figure(
                    "selection", f"{size:,} of {share:.1%} of the words", "XLA", state_bytes, ms,
                    spread, size * 8, f"all {total:,}: {ms * -(-total // size):.2f} ms",
                )  # fmt: skip


def _picked(lines: Any, bits: Any, ends: Any, each: Any, start: Any, size: int) -> Any:
    line, column = select(bits, ends, each, start, size)
    return line, column, take(lines, line, column)


@functools.partial(jax.jit, static_argnums=0)
def _random_bits(lines: int, share: float, seed: int) -> jax.Array:
    is_hit = jax.random.uniform(jax.random.key(seed), (lines, LINE_WORDS)) < share
    place = jnp.uint32(1) << jnp.arange(LINE_WORDS, dtype=jnp.uint32)
    return jnp.where(is_hit, place, jnp.uint32(0)).sum(1, dtype=jnp.uint32)


def fold(run: Run) -> Rows:
    """Entries of a log into their lines: few a line, many, and nearly all into one."""
    cases = ((10_000, 9_000), (335_000, 300_000), (335_000, 3_000), (50_000, 1_000))
    pool = GB // LINE_BYTES if run.is_gpu else 64
    for entries, lines in cases if run.is_gpu else ((60, 9),):
        rng = np.random.default_rng(entries)
        rows, starts = segments(rng, entries, lines, pool)
        is_skewed = entries == 50_000
        if is_skewed:
            starts[:-1] = np.arange(lines)
        data = random_lines(entries, 2)
        rest = [jax.device_put(x) for x in (rows, starts)] + [data, jnp.full_like(data, 2**32 - 1)]
        programs = {"XLA": xla.fold}
        if "fold" in run.usable:
            programs["kernel"] = run.kernel("fold")
        for form, program in programs.items():
            donating = jax.jit(program, donate_argnums=0)

            def step(before: Any, _: Any, donating: Any = donating, rest: Any = rest) -> Any:
                return donating(before, *rest)

            ms, spread = run.timed(carrying(step, (random_lines(pool, 1),), (None,)))
            longest = int(np.diff(starts).max())
            yield Figure(
                "fold", f"{entries:,} entries, {lines:,} lines, the longest {longest:,}", form,
                pool * LINE_BYTES, ms, spread, 2 * LINE_BYTES * (entries + lines),
                f"{entries / ms / 1e3:.1f} M entries/s",
            )  # fmt: skip


# -------------------------------------------------------------------------------------------- main

SECTIONS: tuple[Callable[[Run], Rows], ...] = (
    ceiling, commits, transfers, released, core,
    check_equality, scan, fold, digest, compaction, selection,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run it, print the rows, keep the figures; 1 where something is not equal, or fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--budget", type=float, default=900, help="seconds; default %(default)s")
    parser.add_argument("--out", type=Path, help="where figures go; benchmarks/results on a GPU")
    asked = parser.parse_args(arguments)
    begun = time.monotonic()
    is_gpu = jax.devices()[0].platform == "gpu"
    print(machine())
    has_kernels = jax.__version_info__ >= (0, 11)
    run = Run(is_gpu, has_kernels, begun + asked.budget)
    if not has_kernels:
        run.remark(f"the kernels are left out: they need JAX 0.11, this is {jax.__version__}")
    if not is_gpu:
        run.remark("no GPU: it runs small, kernels are interpreted, and the times say nothing")
    out = asked.out or (RESULTS if is_gpu else None)
    for section in SECTIONS:
        _run_section(run, section)
        if out is not None:
            keep(run, out)
    print(f"{time.monotonic() - begun:.0f} s")
    return int(run.has_failed)


def _run_section(run: Run, section: Callable[[Run], Rows]) -> None:
    name = section.__name__
    if time.monotonic() > run.until:
        return run.remark(f"{name}: left out for want of time")
    begun = time.monotonic()
    try:
        for figure in section(run):
            run.figures.append(figure)
            print(" | ".join(cells(run, figure)), flush=True)
            if time.monotonic() > run.until:
                return run.remark(f"{name}: ended early for want of time")
    except Exception as error:  # a section that fails does not take the others with it
        run.has_failed = True
        return run.remark(f"{name} failed: {in_a_line(error)}")
    return print(f"-- {name}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
