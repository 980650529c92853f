"""Entry 14: a long life. Memory stays flat, and so does what a commit takes."""

import gc
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

import mmsb_jax as mmsb
from tests.bus._script import run_script
from tests.torture._scale import scaled

BLOCKS = 20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """What the process holds in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def live(path: Path, commits: int) -> tuple[list[int], list[float]]:
    """Commit; memory behind each block, and what its quickest commits took, in microseconds.

    The quickest tenth: what other processes of the machine take does not count.
    """
    state, memory, times = {"w": np.zeros(2_000, np.float32), "n": 0}, [], []
    with mmsb.open(path) as bus:
        for block in range(BLOCKS):
            took = np.empty(commits // BLOCKS)
            for number in range(took.size):
                version = block * took.size + number + 1
                state["w"][version % 2_000] = version
                state["n"] = version
                begun = time.perf_counter_ns()
                bus.commit(state, step=version, source="soak")
                took[number] = time.perf_counter_ns() - begun
            memory.append(resident_bytes())
            times.append(float(np.quantile(took, 0.1)) / 1e3)
            print(
                f"{(block + 1) * took.size:>9,} commits: {memory[-1] / 1e6:6.0f} MB, "
                f"{times[-1]:5.0f} µs a commit",
                flush=True,
            )
        newest = bus.version
    with mmsb.open(path, mode="r") as bus:
        assert bus.version == newest == commits // BLOCKS * BLOCKS
        found = bus.checkout()
        assert (found["w"].tobytes(), found["n"]) == (state["w"].tobytes(), newest)
    return memory, times


def test_commits_without_end_leave_the_memory_flat(tmp_path):
    """A short life: no more than what the index of the newest segment takes."""
    code = """
    import json, sys
    from pathlib import Path
    from tests.torture.test_soak import live
    print(json.dumps(live(Path(sys.argv[1]), 2_000)[0]))
    """
    memory = json.loads(run_script(code, tmp_path / "run.mmsb").splitlines()[-1])
    assert memory[-1] - memory[4] < 20e6


@pytest.mark.long
def test_million_commits_leave_memory_and_commit_time_flat(tmp_path):
    memory, times = live(tmp_path / "run.mmsb", scaled(1_000_000, least=20_000))
    settled = memory[BLOCKS // 4]
    print(f"memory grew by {(memory[-1] - settled) / 1e6:.1f} MB since a quarter of it")
    assert memory[-1] < 1.1 * settled + 20e6
    assert min(times[-5:]) < 1.5 * min(times[:5])
