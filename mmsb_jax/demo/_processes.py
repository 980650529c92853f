"""Children of the demo: run them, follow them, kill them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tick = Callable[[int], None]


def _start(log: Path | None, steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mmsb_jax.demo._child", str(log or "-"), str(steps)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(log: Path | None, steps: int, tick: Tick = lambda _: None) -> dict[str, Any]:
    """Train to the end; returns what the child measured."""
    measured: dict[str, Any] = {}
    with _start(log, steps) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("{"):
                measured = json.loads(line)
            else:
                tick(int(line))
    if child.returncode:
        raise RuntimeError(f"the training ended with code {child.returncode}")
    return measured


def run_and_kill(log: Path, steps: int, at: int, tick: Tick) -> int:
    """Train, and kill the child without warning once it has passed step ``at``."""
    last = 0
    with _start(log, steps) as child:
        assert child.stdout is not None
        for line in child.stdout:
            last = int(line)
            tick(last)
            if last >= at:
                os.kill(child.pid, signal.SIGKILL)
                break
    if child.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the training was to be killed, and ended with {child.returncode}")
    return last
