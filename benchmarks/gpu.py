"""The hot path on a GPU: ``python -m benchmarks.gpu [--budget SECONDS] [--out FOLDER]``.

Each row is a time beside the bytes that the work has to move, and the rate that follows beside the
rate of a plain copy in the same run. The first sections time the library as it is. Then kernels
(`benchmarks._gpu_kernels`) stand beside their XLA forms (`benchmarks._gpu_reference`), once they
were found to give the same bits; one that does not is left out.

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
from jax.sharding import SingleDeviceSharding

from benchmarks import _gpu_reference as reference
from benchmarks.__main__ import RESULTS
from benchmarks._gpu_equality import check_equality
from benchmarks._gpu_library import commits, core, released, transfers
from benchmarks._gpu_reference import LINE_WORDS, TILE_LINES
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
    changed_bits = jax.jit(reference.changed_bits)
    update = jax.jit(reference.update, donate_argnums=0)

    def two(shadow: Any, new: Any) -> Any:
        found = changed_bits(shadow, new)
        return update(shadow, new), *found

    programs = {
        "XLA, two programs": two,
        "XLA, one with a barrier": jax.jit(reference.scan, donate_argnums=0),
    }
    if "scan" in run.usable:
        for lines in (64, 128):
            kernel = jax.jit(run.kernel("scan", tile_lines=lines), donate_argnums=0)
            programs[f"kernel, tiles of {lines} lines"] = kernel
    for state_bytes, share in itertools.product(run.state_sizes, (0.0, 0.01, 1.0)):
        old = random_lines(lines_of(state_bytes), 1)
        new = change_lines(old, share, 2)
        least = 2 * state_bytes + state_bytes // LINE_WORDS + int(share * state_bytes)
        for form, program in programs.items():
            ms, spread = run.timed(carrying(program, (copied(old),), (new, old)))
            what = f"scan, {share:.0%} of the lines changed"
            yield Figure("scan", what, form, state_bytes, ms, spread, least)
        ms, spread = run.timed(lambda old=old, new=new: changed_bits(old, new))
        yield Figure("scan", "compare alone", "XLA", state_bytes, ms, spread,
                     2 * state_bytes + state_bytes // LINE_WORDS)  # fmt: skip


def digest(run: Run) -> Rows:
    """Digest the lines, and compare with those before."""
    lanes_of = jax.jit(reference.digest)
    programs = {"XLA": jax.jit(reference.digest_update)}
    if "digest_update" in run.usable:
        programs["kernel"] = jax.jit(run.kernel("digest_update"), donate_argnums=(1, 2))
    row_sum = jax.jit(lambda lines: (lines * jnp.uint32(3)).sum(1, dtype=jnp.uint32))
    alone = {
        "digest, two mixes, alone": lanes_of,
        "digest, one mix, alone": jax.jit(reference.digest_one_mix),
        "a sum of each line: the limit": row_sum,
    }
    for state_bytes in run.state_sizes:
        old = random_lines(lines_of(state_bytes), 1)
        new = change_lines(old, 0.01, 2)
        lane_bytes = old.shape[0] * 4
        for form, program in programs.items():

            def step(one: Any, other: Any, lines: Any, program: Any = program) -> Any:
                return program(lines, one, other)

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
            forms = {"XLA": reference.compact}
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
    rank = jax.jit(reference.rank)
    select = jax.jit(reference.select, static_argnames="size")
    for state_bytes in run.state_sizes[:2]:
        lines = random_lines(lines_of(state_bytes), 1)
        for share in (0.003, 0.03):
            bits = _random_bits(lines.shape[0], share, 5)
            ms, spread = run.timed(lambda bits=bits: rank(bits))
            yield Figure("selection", f"rank, {share:.1%} of the words", "XLA", state_bytes, ms,
                         spread, lines.shape[0] * 12)  # fmt: skip
            ends, each = rank(bits)
            total = int(ends[-1])
            for size in (1 << 14, 1 << 17, 1 << 20) if run.is_gpu else (1 << 8,):
                call = functools.partial(select, lines, bits, ends, each, np.int32(0), size=size)
                ms, spread = run.timed(call)
                yield Figure(
                    "selection", f"{size:,} of {share:.1%} of the words", "XLA", state_bytes, ms,
                    spread, size * 8, f"all {total:,}: {ms * -(-total // size):.2f} ms",
                )  # fmt: skip


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
        programs = {"XLA": reference.fold}
        if "fold" in run.usable:
            programs["kernel"] = run.kernel("fold")
        for form, program in programs.items():
            donating = jax.jit(program, donate_argnums=0)

            def step(before: Any, _: Any, donating: Any = donating, rest: Any = rest) -> Any:
                return (donating(before, *rest),)

            ms, spread = run.timed(carrying(step, (random_lines(pool, 1),), (None,)))
            longest = int(np.diff(starts).max())
            yield Figure(
                "fold", f"{entries:,} entries, {lines:,} lines, the longest {longest:,}", form,
                pool * LINE_BYTES, ms, spread, 2 * LINE_BYTES * (entries + lines),
                f"{entries / ms / 1e3:.1f} M entries/s",
            )  # fmt: skip


# ----------------------------------------------------------------- a commit on the device, of parts


def device_commit(run: Run) -> Rows:
    """Scan, count, rank, select, and the changed words on the host: what `bus.commit` could do."""
    rank = jax.jit(reference.rank)
    chunk = 1 << 18 if run.is_gpu else 1 << 8
    select = jax.jit(functools.partial(reference.select, size=chunk))
    form = "kernel" if "scan" in run.usable else "XLA"
    function = run.kernel("scan") if form == "kernel" else reference.scan
    scan = jax.jit(function, donate_argnums=0)
    pinned = SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    for state_bytes, share in itertools.product(run.state_sizes[:2], (0.0, 0.0015, 0.011)):
        old = random_lines(lines_of(state_bytes), 1)
        new = _change_words(old, 1 - (1 - share) ** 2, 2)  # two bfloat16 elements a word
        for way, place in (("np.asarray", None), ("pinned_host", pinned)):
            shadow, times = copied(old), []
            for tree in (new, old, new, old, new, old):
                begun = time.perf_counter()
                shadow, bits, counts = scan(shadow, tree)
                total = int(counts.sum())
                parts = []
                if total:
                    ends, each = rank(bits)
                    starts = map(np.int32, range(0, total, chunk))
                    parts = [select(shadow, bits, ends, each, start) for start in starts]
                moved = _bytes_brought(parts, place)
                times.append((time.perf_counter() - begun) * 1e3)
            times = sorted(times[2:])
            yield Figure(
                "commit of parts", f"{share:.2%} of the elements changed", f"{form}, {way}",
                state_bytes, times[len(times) // 2], times[-1] - times[0], 2 * state_bytes,
                f"{total:,} words, {moved / 1e6:,.1f} MB to the host",
            )  # fmt: skip


def _bytes_brought(parts: list[Any], place: Any) -> int:
    """Bytes that came to the host: into its pinned memory, or as `np.asarray` brings them."""
    arrays = jax.tree.leaves(parts)
    if place is not None:
        arrays = jax.device_put(arrays, place)
    for array in arrays:
        array.copy_to_host_async()
    return sum(np.asarray(array).nbytes for array in arrays)


@jax.jit
def _change_words(lines: jax.Array, share: float, seed: int) -> jax.Array:
    is_hit = jax.random.uniform(jax.random.key(seed), lines.shape) < share
    return lines ^ is_hit.astype(jnp.uint32)


# -------------------------------------------------------------------------------------------- main

SECTIONS: tuple[Callable[[Run], Rows], ...] = (
    ceiling, commits, transfers, released, core,
    check_equality, scan, fold, digest, compaction, selection, device_commit,
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
    run = Run(is_gpu, None, begun + asked.budget)
    if _has_kernels():
        from benchmarks import _gpu_kernels

        run.module = _gpu_kernels
    else:
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


def _has_kernels() -> bool:
    """Whether JAX has Mosaic's kernels in the form that they are written in."""
    return tuple(map(int, jax.__version__.split(".")[:2])) >= (0, 11)


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
