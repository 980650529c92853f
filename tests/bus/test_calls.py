"""How many functions of Python a small commit calls: they, and not its bytes, are what it costs."""

import sys

import numpy as np
import pytest

import mmsb_jax as mmsb

MOST = {"apart": 140, "source": 210}
"""Of a write to an array, and of one with a child behind it."""


def calls_of(work):
    """Calls of Python functions in one run; what is kept from run to run is there by then."""
    count = 0

    def watch(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("name", MOST)
def test_small_commit_calls_few_functions(name, tmp_path):
    with mmsb.open(tmp_path / "x.mmsb", snapshots=False) as bus:
        bus.create("apart", (256,))
        bus.create("source", (256,))
        bus.derive("child", ["source"], lambda x: x + 1)
        value = np.zeros(256, np.float32)
        for number in range(20):
            value[3] = number
            bus.write(name, value)
        value[3] = 77
        assert 0 < calls_of(lambda: bus.write(name, value)) <= MOST[name]
        assert bus.tree()[name][3] == 77
        assert bus.tree()["child"][3] == (78 if name == "source" else 1)
