"""Starting: budget 15."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks._measure import Row

_TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def rows() -> Iterator[Row]:
    """What the import costs beyond JAX and Equinox."""
    peers = "import jax, equinox"
    ours = f"{peers}; t = time.perf_counter(); import mmsb_jax; mmsb_jax.open, mmsb_jax.TLog"
    peer_s, our_s = (
        statistics.median(_seconds(_TIMED.format(code)) for _ in range(5)) for code in (peers, ours)
    )
    yield Row("15", "import mmsb_jax, all public names, beyond jax and equinox", our_s, "s",
              "import jax, equinox", peer_s, "≤ 0.3 s", "0.1 s", our_s <= 0.3)  # fmt: skip


def _seconds(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)
