"""XLA gives the bits of NumPy on fresh random inputs, and so do the kernels that are timed."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks._gpu_compact import compact_by_xla
from benchmarks._gpu_run import Rows, Run, in_a_line
from mmsb_jax.kernels import LINE_WORDS, TILE_LINES, laws, xla
from mmsb_jax.kernels.select import rank, select

Form = Callable[..., Any]
_SHARES = (0.0, 0.001, 0.05, 1.0)


def check_equality(run: Run) -> Rows:
    """Compare all forms; a kernel that gives other bits, or does not run, is not timed."""
    for name, check in _CHECKS.items():
        rng = np.random.default_rng()
        by_xla: Any = compact_by_xla if name == "compact" else getattr(xla, name, None)
        check(run, rng, by_xla)
        if not run.has_kernels or name == "select":
            run.checks.append(f"{name}: XLA = NumPy")
            continue
        try:
            check(run, rng, run.kernel(name))
        except Exception as error:  # the other kernels are still worth their times
            run.has_failed = True
            run.remark(f"the kernel {name} is left out: {in_a_line(error)}")
        else:
            run.usable.add(name)
            run.checks.append(f"{name}: kernel = XLA = NumPy")
    yield from ()


def _check_scan(run: Run, rng: np.random.Generator, form: Form) -> None:
    """Of whole tiles and of lines behind them, in the midst of a shadow that keeps the rest."""
    jitted = jax.jit(form)
    for share in _SHARES:
        old, new = laws.random_lines(rng, TILE_LINES * run.check_tiles + 5, share)
        around = rng.integers(0, 2**32, (TILE_LINES, LINE_WORDS), np.uint32)
        laws.scan_law(jitted, np.concatenate([around, old, around]), new, len(around))


def _check_digest(run: Run, rng: np.random.Generator, form: Form) -> None:
    for share in _SHARES:
        old, new = laws.random_lines(rng, TILE_LINES * run.check_tiles + 5, share)
        laws.digest_law(jax.jit(form), old, new, rng.integers(0, 2**32, 2, np.uint32))


def _check_fold(run: Run, rng: np.random.Generator, form: Form) -> None:
    entries, lines, pool = (20_000, 3_000, 9_000) if run.is_gpu else (80, 9, 32)
    for width in (LINE_WORDS, 128):
        before = rng.integers(0, 4, (pool, width), np.uint32)
        laws.fold_law(jax.jit(form), before, *laws.random_entries(rng, pool, lines, entries, width))


def _check_compact(run: Run, rng: np.random.Generator, form: Form) -> None:
    for share in _SHARES:
        old, new = laws.random_lines(rng, TILE_LINES * run.check_tiles, share)
        flags = (old != new).any(1).astype(np.int32)
        count = int(flags.sum())
        compact = jax.jit(functools.partial(form, capacity=max(64, count)))
        found = compact(flags, new, flags.reshape(-1, TILE_LINES).sum(1, dtype=np.int32))
        _assert_same([x[:count] for x in found], (np.flatnonzero(flags), new[flags > 0]))


def _check_select(run: Run, rng: np.random.Generator, form: Form) -> None:
    del form
    pick = jax.jit(functools.partial(select, size=256))
    for share in _SHARES:
        old, new = laws.random_lines(rng, TILE_LINES * run.check_tiles, share)
        _, bits, _ = jax.jit(xla.scan)(old, new, np.zeros(1, np.int32))
        ends, each = jax.jit(rank)(bits)
        expected = *np.nonzero(old != new), new[old != new]
        for start in range(0, min(len(expected[0]), 1024), 256):
            part = [x[start : start + 256] for x in expected]
            line, column = pick(bits, ends, each, np.int32(start))
            found = line, column, new[line, column]
            _assert_same([x[: len(part[0])] for x in found], part)


_CHECKS: dict[str, Callable[[Run, np.random.Generator, Form], None]] = {
    "scan": _check_scan,
    "digest_lines": _check_digest,
    "compact": _check_compact,
    "select": _check_select,
    "fold": _check_fold,
}


def _assert_same(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, list(found), list(expected))
