"""The operations by their laws, in each form; how a form is chosen, and refused."""

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmsb_jax as mmsb
from mmsb_jax.kernels import digest_lines, fold, laws, scan, xla

HAS_MOSAIC = jax.__version_info__ >= (0, 11)
needs_mosaic = pytest.mark.skipif(not HAS_MOSAIC, reason="kernels need JAX 0.11")
SHARES = (0.0, 0.01, 1.0)
SEED = np.array([3, 4], np.uint32)
SHAPES = {
    "scan": [((4097, 32), "uint32"), ((300, 32), "uint32")],
    "fold": [
        ((4096, 32), "uint32"),
        ((64,), "int32"),
        ((65,), "int32"),
        ((1000, 32), "uint32"),
        ((1000, 32), "uint32"),
    ],
    "digest_lines": [
        ((4097, 32), "uint32"),
        ((4097,), "uint32"),
        ((4097,), "uint32"),
        ((2,), "uint32"),
    ],
}
OPERATIONS = {"scan": scan, "fold": fold, "digest_lines": digest_lines}


def interpreted(name):
    """A kernel on the CPU, by an interpreter that sees races."""
    from jax.experimental.pallas import mosaic_gpu

    from mmsb_jax.kernels import mosaic

    parameters = mosaic_gpu.InterpretGPUParams(detect_races=True)
    return jax.jit(functools.partial(getattr(mosaic, name), interpret=parameters))


@functools.cache
def form(name, which):
    return jax.jit(getattr(xla, name)) if which == "xla" else interpreted(name)


FORMS = ["xla", pytest.param("mosaic", marks=needs_mosaic)]


# ------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("which", FORMS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("lines", "first", "pool"), [(1, 0, 1), (63, 5, 70), (200, 70, 300)])
def test_scan(which, share, lines, first, pool):
    rng = np.random.default_rng(lines)
    shadow, _ = laws.random_lines(rng, pool, 0)
    _, new = laws.random_lines(rng, lines, 0)
    differs = rng.random(new.shape) < share
    new = np.where(differs, new, shadow[first : first + lines])
    laws.scan_law(form("scan", which), shadow, new, first)


@pytest.mark.parametrize("which", FORMS)
@pytest.mark.parametrize("width", [32, 128])
@pytest.mark.parametrize(("segments", "entries"), [(1, 1), (9, 80), (12, 4)])
def test_fold(which, width, segments, entries):
    rng = np.random.default_rng(entries)
    pool = rng.integers(0, 4, (24, width), np.uint32) * np.uint32(0x01010101)
    rows, starts, data, mask = laws.random_entries(rng, 24, segments, entries, width)
    laws.fold_law(form("fold", which), pool, rows, starts, data, mask)


@pytest.mark.parametrize("which", FORMS)
def test_fold_leaves_out_rows_outside_of_the_pool(which):
    rng = np.random.default_rng(0)
    pool, _ = laws.random_lines(rng, 8, 0)
    rows, starts, data, mask = laws.random_entries(rng, 8, 4, 30)
    rows[-2:] = 8, 2**31 - 1
    laws.fold_law(form("fold", which), pool, rows, starts, data, mask)


@settings(max_examples=8)  # each compiles for its sizes
@given(st.integers(0, 2**32 - 1), st.integers(1, 16), st.integers(1, 60))
def test_fold_is_an_action(seed, segments, entries):
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 4, (16, 32), np.uint32)
    rows, starts, data, mask = laws.random_entries(rng, 16, segments, entries)
    cut = starts[:-1] + (rng.random(segments) * (starts[1:] - starts[:-1] + 1)).astype(np.int32)
    laws.fold_is_an_action(fold, pool, rows, (starts, data, mask), cut)


@pytest.mark.parametrize("which", FORMS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("lines", [1, 64, 150])
def test_digest(which, share, lines):
    before, after = laws.random_lines(np.random.default_rng(lines), lines, share)
    laws.digest_law(form("digest_lines", which), before, after, SEED)


@settings(max_examples=40)
@given(st.integers(0, 31), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_digest_of_a_line_shows_a_word_that_changed(column, before, after):
    lines = np.zeros((2, 32), np.uint32)
    lines[:, column] = before, after
    none = np.zeros(2, np.uint32)
    lanes = digest_lines(lines, none, none, SEED)[:2]
    assert all(int(lane[0]) == int(lane[1]) for lane in lanes) == (before == after)


def test_two_signs_that_flip_show():
    """A sum of words with odd factors, without a mix, would keep its value."""
    before = np.zeros((1, 32), np.uint32)
    after = before.copy()
    after[0, [3, 9]] = 0x80000000
    laws.digest_law(digest_lines, before, after, SEED)


def test_other_seeds_give_other_lanes():
    lines, _ = laws.random_lines(np.random.default_rng(0), 64, 0)
    none = np.zeros(64, np.uint32)
    one, other = (digest_lines(lines, none, none, seed)[:2] for seed in (SEED, SEED + 1))
    assert not np.any(np.asarray(one) == np.asarray(other))


# ------------------------------------------------------------------------------ transformations


@pytest.mark.parametrize("which", FORMS)
def test_scan_of_a_batch(which):
    pairs = [laws.random_lines(np.random.default_rng(k), 64, 0.05) for k in range(3)]
    shadows, news = map(np.stack, zip(*pairs, strict=True))
    first = np.zeros((3, 1), np.int32)
    found = jax.vmap(form("scan", which))(shadows, news, first)
    for k in range(3):
        laws.scan_law(lambda *_, k=k: [part[k] for part in found], shadows[k], news[k])


def test_scan_of_shards():
    """Each of eight devices scans the lines that it has; in a process of its own."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.kernels._sharded"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


# -------------------------------------------------------------------------------- which form it is


def lowered(name, platform, implementation):
    """A program for a platform, as text; no device of it is needed."""
    operands = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in SHAPES[name]]
    run = functools.partial(OPERATIONS[name], implementation=implementation)
    device = jax.sharding.AbstractDevice(
        device_kind="NVIDIA H100 80GB HBM3", platform="gpu", num_cores=132
    )
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        return jax.jit(run).trace(*operands).lower(lowering_platforms=(platform,)).as_text()


def kernels_in(text):
    return re.findall(r"mmsb_(?:scan|fold|digest)", text) and "mosaic_gpu" in text


@needs_mosaic
@pytest.mark.parametrize("name", OPERATIONS)
def test_kernel_is_in_a_program_for_cuda(name):
    assert kernels_in(lowered(name, "cuda", "mosaic"))


@needs_mosaic
@pytest.mark.parametrize("name", OPERATIONS)
def test_xla_has_none(name):
    assert not kernels_in(lowered(name, "cuda", "xla"))
    for implementation in (None, "xla", ("mosaic", "xla")):
        assert not kernels_in(lowered(name, "cpu", implementation))


@needs_mosaic
@pytest.mark.parametrize("name", OPERATIONS)
def test_named_kernel_is_refused_where_it_does_not_run(name):
    with pytest.raises(mmsb.KernelUnavailableError, match="the program is for cpu"):
        lowered(name, "cpu", "mosaic")


def test_named_kernel_is_refused_at_a_call():
    shadow = jnp.zeros((64, 32), jnp.uint32)
    reason = "the program is for cpu" if HAS_MOSAIC else "needs JAX 0.11 or newer"
    with pytest.raises(mmsb.KernelUnavailableError, match=reason):
        scan(shadow, shadow, implementation="mosaic")


@needs_mosaic
def test_lines_of_another_width_are_refused_by_the_kernel_alone():
    pool = jnp.zeros((8, 8), jnp.uint32)
    operands = jnp.array([1]), jnp.array([0, 1]), pool[:1], pool[:1]
    with pytest.raises(mmsb.KernelUnavailableError, match="lines have 8 words"):
        fold(pool, *operands, implementation="mosaic")
    assert fold(pool, *operands)[0].shape == (8, 8)


def test_sequence_is_tried_in_order():
    before, after = laws.random_lines(np.random.default_rng(0), 64, 0.1)
    run = functools.partial(scan, implementation=("mosaic", "xla"))
    laws.scan_law(lambda *operands: run(*operands[:2]), before, after)
    with pytest.raises(mmsb.KernelUnavailableError):
        scan(before, after, implementation=("mosaic",))


@pytest.mark.parametrize("implementation", ["triton", (), ("xla", "cuda"), 3])
def test_unknown_form_is_refused(implementation):
    shadow = jnp.zeros((64, 32), jnp.uint32)
    with pytest.raises((ValueError, TypeError), match="implementation="):
        scan(shadow, shadow, implementation=implementation)


@pytest.mark.parametrize(
    ("shadow", "new", "said"),
    [
        ((64, 32), (65, 32), "65 lines for a shadow of 64"),
        ((64, 31), (64, 31), r"shadow is uint32\[64, 31\]"),
        ((64, 32), (64,), r"new is uint32\[64\]"),
    ],
)
def test_what_are_no_lines_is_refused(shadow, new, said):
    with pytest.raises(ValueError, match=said):
        scan(jnp.zeros(shadow, jnp.uint32), jnp.zeros(new, jnp.uint32))


def test_nothing_is_scanned_and_folded():
    none = jnp.zeros((0, 32), jnp.uint32)
    shadow = jnp.ones((3, 32), jnp.uint32)
    assert [len(part) for part in scan(shadow, none)] == [3, 0, 0]
    after, last = fold(shadow, jnp.zeros(2, jnp.int32), jnp.zeros(3, jnp.int32), none, none)
    assert after is shadow
    assert last.tolist() == [-1, -1]


def test_donated_shadow_is_not_copied():
    """One program scans several leaves into one shadow; XLA must not copy it once a leaf."""
    lines, leaves = 4096, 8

    def commit(shadow, first, news):
        found = []
        for k, new in enumerate(news):
            shadow, bits, counts = scan(shadow, new, first + k * lines)
            found += [bits, counts]
        return shadow, found

    shadow = jax.ShapeDtypeStruct((lines * leaves, 32), jnp.uint32)
    news = [jax.ShapeDtypeStruct((lines, 32), jnp.uint32)] * leaves
    first = jax.ShapeDtypeStruct((), jnp.int32)
    program = jax.jit(commit, donate_argnums=0).lower(shadow, first, news).compile()
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes == lines * leaves * 128
    assert memory.temp_size_in_bytes < lines * leaves * 128 / 4


def test_pallas_is_not_imported_on_a_cpu():
    program = (
        "import sys, jax.numpy as jnp; from mmsb_jax.kernels import scan;"
        "scan(jnp.zeros((64, 32), jnp.uint32), jnp.zeros((64, 32), jnp.uint32));"
        "sys.exit(any('pallas' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# ------------------------------------------------------------------------------------- bad operands


LINES = jnp.zeros((64, 32), jnp.uint32)
ENTRIES = (jnp.array([1, 2]), jnp.array([0, 1, 2]), LINES[:2], LINES[:2])
LANES = (jnp.zeros(64, jnp.uint32), jnp.zeros(64, jnp.uint32), jnp.zeros(2, jnp.uint32))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: scan(LINES, LINES[:8], first=60), r"first=60: expected 0 to 56"),
        (lambda: scan(LINES, LINES[:8], first=-1), r"first=-1: expected 0 to 56"),
        (lambda: scan(LINES, LINES[:8], first=1.0), r"first=1.0: expected the number"),
        (lambda: scan([1], LINES), r"shadow is list: expected an array of uint32"),
        (lambda: fold(LINES, [1, 2], *ENTRIES[1:]), r"rows is list: expected an array"),
        (lambda: fold(LINES, ENTRIES[0], ENTRIES[0], *ENTRIES[2:]), r"one start more"),
        (lambda: fold(LINES, *ENTRIES[:3], LINES[:1]), r"data and mask of one shape"),
        (lambda: fold(LINES, *ENTRIES[:2], *[LINES[:2, :16]] * 2), r"as wide as"),
        (
            lambda: fold(LINES, *ENTRIES[:2], LINES[:2].astype(int), LINES[:2]),
            r"data is int",
        ),
        (lambda: digest_lines(LINES, *LANES[:2], 1), r"seed is int: expected an array"),
        (lambda: digest_lines(LINES, *LANES[:2], LANES[0]), r"seed is uint32\[64\]"),
        (lambda: digest_lines(LINES, LANES[2], *LANES[1:]), r"first is uint32\[2\]"),
    ],
)
def test_operands_that_do_not_fit_are_refused(call, said):
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises((TypeError, ValueError), match=said):
            call()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
