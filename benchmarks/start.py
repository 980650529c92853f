"""Starting: what importing the library costs, and a command."""

import subprocess
import sys
from pathlib import Path

from benchmarks.peers import Rows
from mmsb_jax.bench.measure import Work, compare
from mmsb_jax.bench.row import Row, figure_at_most

_PEERS = "import jax, equinox"
_OURS = f"{_PEERS}; begun = time.perf_counter(); import mmsb_jax; mmsb_jax.open, mmsb_jax.TLog"


def rows(folder: Path, long: bool) -> Rows:
    """In processes of their own."""
    del folder
    rounds = 9 if long else 3
    yield _import(rounds)
    yield _command(rounds)


def _import(rounds: int) -> Row:
    """The process says itself what it took."""
    ours, peers = (
        [_said(f"begun = time.perf_counter(); {code}") for _ in range(rounds)]
        for code in (_OURS, _PEERS)
    )
    return Row(
        "start/import", "import mmsb_jax, all public names, beyond jax and equinox", "s",
        ours, _PEERS, peers, figure_at_most(0.3), figure_at_most(0.1),
    )  # fmt: skip


def _command(rounds: int) -> Row:
    command = "from mmsb_jax.cli import main; main(['--help'], standalone_mode=False)"
    return compare(
        "start/command", "a process that runs a command which needs no JAX",
        Work("mmsb --help", lambda: _run("-c", command)),
        Work("a process that imports click and numpy", lambda: _run("-c", "import click, numpy")),
        rounds=rounds,
    )  # fmt: skip


def _said(code: str) -> float:
    """Seconds."""
    return float(_run("-c", f"import time; {code}; print(time.perf_counter() - begun)"))


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
    return done.stdout
