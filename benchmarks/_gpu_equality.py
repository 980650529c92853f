"""XLA gives the bits of NumPy on fresh random inputs, and so do the kernels that are timed."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import _gpu_reference as reference
from benchmarks._gpu_reference import LINE_WORDS, TILE_LINES
from benchmarks._gpu_run import Rows, Run, in_a_line, segments

Form = Callable[..., Any]
_SHARES = (0.0, 0.001, 0.05, 1.0)


def check_equality(run: Run) -> Rows:
    """Compare all forms; a kernel that gives other bits, or does not run, is not timed."""
    for name, check in _CHECKS.items():
        rng = np.random.default_rng()
        check(run, rng, getattr(reference, name))
        if run.module is None or not hasattr(run.module, name):
            run.checks.append(f"{name}: XLA = NumPy")
            continue
        try:
            check(run, rng, run.kernel(name))
            if name == "scan":
                _check_scan_of_a_part(run, rng)
        except Exception as error:  # the other kernels are still worth their times
            run.has_failed = True
            run.remark(f"the kernel {name} is left out: {in_a_line(error)}")
        else:
            run.usable.add(name)
            run.checks.append(f"{name}: kernel = XLA = NumPy")
    yield from ()


def _inputs(
    run: Run, rng: np.random.Generator, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lines before, lines after, whether each word differs)."""
    old = rng.integers(0, 2**32, (TILE_LINES * run.check_tiles, LINE_WORDS), np.uint32)
    is_hit = rng.random(old.shape) < share
    return old, np.where(is_hit, old ^ rng.integers(1, 2**32, old.shape, np.uint32), old), is_hit


def _check_scan(run: Run, rng: np.random.Generator, form: Form) -> None:
    for share in _SHARES:
        old, new, _ = _inputs(run, rng, share)
        _assert_same(jax.jit(form)(old, new), reference.numpy_scan(old, new))


def _check_scan_of_a_part(run: Run, rng: np.random.Generator) -> None:
    """The kernel leaves the rest of the shadow; larger tiles say the same."""
    old, new, _ = _inputs(run, rng, 0.05)
    expected = reference.numpy_scan(old, new)
    around = rng.integers(0, 2**32, (2, TILE_LINES, LINE_WORDS), np.uint32)
    shadow = np.concatenate([around[0], old, around[1]])
    found = jax.jit(run.kernel("scan"))(shadow, new, np.array([TILE_LINES], np.int32))
    _assert_same(found, (np.concatenate([around[0], new, around[1]]), *expected[1:]))
    found = jax.jit(run.kernel("scan", tile_lines=2 * TILE_LINES))(old, new)
    _assert_same(found, (*expected[:2], expected[2].reshape(-1, 2).sum(1)))


def _check_digest(run: Run, rng: np.random.Generator, form: Form) -> None:
    for share in _SHARES:
        old, new, is_hit = _inputs(run, rng, share)
        flags = is_hit.any(1).astype(np.int32)
        expected = *jax.jit(reference.digest)(new), flags, flags.reshape(-1, TILE_LINES).sum(1)
        _assert_same(jax.jit(form)(new, *jax.jit(reference.digest)(old)), expected)


def _check_compact(run: Run, rng: np.random.Generator, form: Form) -> None:
    for share in _SHARES:
        _, new, is_hit = _inputs(run, rng, share)
        flags = is_hit.any(1).astype(np.int32)
        count = int(flags.sum())
        compact = jax.jit(functools.partial(form, capacity=max(64, count)))
        found = compact(flags, new, flags.reshape(-1, TILE_LINES).sum(1, dtype=np.int32))
        _assert_same([x[:count] for x in found], (np.flatnonzero(flags), new[flags > 0]))


def _check_select(run: Run, rng: np.random.Generator, form: Form) -> None:
    select = jax.jit(functools.partial(form, size=256))
    for share in _SHARES:
        old, new, is_hit = _inputs(run, rng, share)
        bits = reference.numpy_scan(old, new)[1]
        ends, each = jax.jit(reference.rank)(bits)
        expected = np.flatnonzero(is_hit), new[is_hit]
        for start in range(0, min(len(expected[0]), 1024), 256):
            part = [x[start : start + 256] for x in expected]
            found = select(new, bits, ends, each, start)
            _assert_same([x[: len(part[0])] for x in found], part)


def _check_fold(run: Run, rng: np.random.Generator, form: Form) -> None:
    entries, lines, pool = (20_000, 3_000, 9_000) if run.is_gpu else (80, 9, 32)
    rows, starts = segments(rng, entries, lines, pool)
    data, before = (rng.integers(0, 2**32, (n, LINE_WORDS), np.uint32) for n in (entries, pool))
    mask = rng.integers(0, 2, (entries, LINE_WORDS, 4), np.uint8) * np.uint8(255)
    arguments = before, rows, starts, data, mask.view(np.uint32)[..., 0]
    _assert_same([jax.jit(form)(*arguments)], [reference.numpy_fold(*arguments)])


_CHECKS: dict[str, Callable[[Run, np.random.Generator, Form], None]] = {
    "scan": _check_scan,
    "digest_update": _check_digest,
    "compact": _check_compact,
    "select": _check_select,
    "fold": _check_fold,
}


def _assert_same(found: Any, expected: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, list(found), list(expected))
