"""The core and waves on eight devices, in a process of its own that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._script import run_script


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_core_and_waves_on_eight_devices(axis_type):
    code = "import sys; from tests.core import _sharded; _sharded.main(sys.argv[1])"
    flags = "--xla_force_host_platform_device_count=8"
    assert run_script(code, axis_type, XLA_FLAGS=flags) == "done"


def test_parts_of_a_pool_one_after_another_are_the_whole():
    tree = {"a": np.arange(200, dtype=np.float32), "b": np.arange(90, dtype=np.int8)}
    layout = mmsb.Layout.of(tree, page_bytes=128)
    old, new = layout.pack(tree), layout.pack({name: x + (x % 5 == 0) for name, x in tree.items()})
    cut = 3
    parts = [
        [mmsb.Pages(p.words[rows], p.version[rows]) for rows in (slice(cut), slice(cut, None))]
        for p in (old, new)
    ]
    whole = mmsb.diff(old, new)
    applied, lanes, deltas = [], [], []
    for before, after, first in zip(*parts, (0, cut), strict=True):
        applied.append(mmsb.apply(before, whole, 3, first_page=first).words)
        lanes.append(mmsb.digest(after, layout, first_page=first))
        deltas.append(mmsb.diff(before, after, first_page=first))
    assert (jnp.concatenate(applied) == new.words).all()
    assert (sum(lanes) == mmsb.digest(new, layout)).all()
    assert (mmsb.apply(mmsb.apply(old, deltas[0]), deltas[1]).words == new.words).all()


@pytest.mark.parametrize("bad", [-1, 2**31, 1.5, True, "0"])
def test_number_of_the_first_page_that_is_none_is_refused(bad):
    pages = mmsb.Layout.of({"a": np.ones(3)}).pack({"a": np.ones(3)})
    with pytest.raises((TypeError, ValueError), match=r"first_page=.*: expected"):
        mmsb.apply(pages, mmsb.Delta.empty(), first_page=bad)


def test_batch_of_logs_is_refused_in_words():
    pages = mmsb.Layout.of({"a": np.ones(3)}).pack({"a": np.ones(3)})
    logs = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), mmsb.TLog.empty(2, 2))
    for wave in (None, lambda pages, delta, version: (pages, None)):
        with pytest.raises(mmsb.InvalidDeltaError, match=r"a batch of 3 logs .*jax.vmap"):
            mmsb.replay(pages, logs, wave=wave)
