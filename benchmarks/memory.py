"""Memory of the host beyond the caller's arrays: its peak, and what stays, beside the state.

Each case is a process of its own (``python -m benchmarks.memory CASE FOLDER BYTES``) which says
what it took. The peak is ``VmHWM``, set back before the work: ``ru_maxrss`` would begin with the
peak of the process that started it.
"""

import ctypes
import gc
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import jax

import mmsb_jax as mmsb
from benchmarks.peers import LeftOut, Rows
from mmsb_jax.bench.row import Bound, Row, figure_at_most, ratio_at_most
from mmsb_jax.bench.states import MB, bf16_state, changes

_STATUS = Path("/proc/self/status")
_LEAVES = 64


def rows(folder: Path, long: bool) -> Rows:
    """Commits, a snapshot, and ways back."""
    if not _STATUS.exists():
        yield LeftOut("peaks of memory", "there is no /proc here")
        return
    nbytes = (2048 if long else 256) * MB
    state = f"{nbytes >> 20:,} MB"

    def row(
        slug: str, what: str, took: int, must: Bound | None = None, aim: Bound | None = None,
        of: int = nbytes, beside: str = "the state",
    ) -> Row:  # fmt: skip
        return Row(f"memory/{slug}", what, "B", [took], beside, [of], must, aim)

    commit = _run("commit", folder, nbytes)
    what = f"commits of {state}, 1 % changed"
    head_and_coding = figure_at_most(nbytes + 0.2e9)
    yield row("commit-peak", f"{what}: peak", commit["peak"], head_and_coding)
    yield row("commit-after", f"{what}: what stays", commit["now"], aim=ratio_at_most(1.2))
    no_wait = _run("no_wait", folder, nbytes)
    what = f"{what}, without waiting"
    yield row(
        "no-wait-peak", f"{what}: peak", no_wait["peak"], ratio_at_most(3), ratio_at_most(2.2)
    )
    yield row(
        "no-wait-after", f"{what}: what stays", no_wait["now"],
        ratio_at_most(2), ratio_at_most(1.2),
    )  # fmt: skip
    yield row(
        "snapshot-peak", f"snapshot of {state}: peak", _run("snapshot", folder, nbytes)["peak"],
        figure_at_most(0.3e9),
    )  # fmt: skip
    yield row(
        "one-array-peak", f"checkout of a {_LEAVES}th of an old version of {state}: peak",
        _run("one_array", folder, nbytes)["peak"], of=nbytes // _LEAVES, beside="that array",
    )  # fmt: skip
    restart = _run("restart", folder, nbytes)
    yield row("restart-peak", f"open and resume {state}: peak", restart["peak"])


def _run(case: str, folder: Path, nbytes: int) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory", case, str(folder), str(nbytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# ----------------------------------------------------------------------------- within the process


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    assert found
    return int(found[1]) * 1024


class Memory:
    """What the process weighs beyond what it weighed when this was made."""

    def __init__(self) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed would be used again, and not be seen
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")

    def taken(self) -> dict[str, int]:
        """The most that it was, and what it is."""
        return {
            "peak": _status("VmHWM") - self._before,
            "now": _status("VmRSS") - self._before,
        }


def _commit(folder: Path, nbytes: int, wait: bool = True) -> dict[str, int]:
    state = bf16_state(nbytes, _LEAVES)
    states = [state, *changes(state, 0.01, 1)]
    memory = Memory()
    with mmsb.open(folder / f"commit-{wait}.mmsb", snapshots=False) as bus:
        for new in itertools.islice(itertools.cycle(states), 6):
            landing = bus.commit(new, wait=wait)
            if not wait:
                landing.result()
        bus.sync()
        return memory.taken()


def _no_wait(folder: Path, nbytes: int) -> dict[str, int]:
    return _commit(folder, nbytes, wait=False)


def _log(folder: Path, name: str, nbytes: int) -> mmsb.Bus:
    """A bus of a state behind a snapshot, and three commits more."""
    bus = mmsb.open(folder / f"{name}.mmsb", snapshots=False)
    state = bf16_state(nbytes, _LEAVES)
    bus.commit(state)
    bus.snapshot()
    for new in changes(state, 0.01, 3):
        bus.commit(new)
    return bus


def _snapshot(folder: Path, nbytes: int) -> dict[str, int]:
    with _log(folder, "snapshot", nbytes) as bus:
        memory = Memory()
        bus.snapshot()
        return memory.taken()


def _one_array(folder: Path, nbytes: int) -> dict[str, int]:
    with _log(folder, "one", nbytes) as bus:
        memory = Memory()
        bus.checkout(version=3, arrays=["layer07"])
        return memory.taken()


def _restart(folder: Path, nbytes: int) -> dict[str, int]:
    with _log(folder, "restart", nbytes) as bus:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), bus.tree())
    del bus
    memory = Memory()
    with mmsb.open(folder / "restart.mmsb", snapshots=False) as bus:
        state = jax.block_until_ready(bus.resume(like))
        found = memory.taken()
    del state
    return found


_CASES = {
    "commit": _commit,
    "no_wait": _no_wait,
    "snapshot": _snapshot,
    "one_array": _one_array,
    "restart": _restart,
}

if __name__ == "__main__":
    print(json.dumps(_CASES[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
