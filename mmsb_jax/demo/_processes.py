"""Children of the demo: run them, follow them, kill them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mmsb_jax._base.errors import MMSBError

Tick = Callable[[int], None]


def run_to_end(log: Path, steps: int, tick: Tick) -> None:
    """Train to the end; ``tick`` is told each step."""
    with _start(log, steps, stdin=subprocess.DEVNULL) as child:
        for step in _steps_of(child):
            tick(step)
    if child.returncode:
        raise MMSBError(f"the training ended with code {child.returncode}")


def run_and_kill(log: Path, steps: int, at: int, tick: Tick) -> int:
    """Train, and kill without warning once step ``at`` is reported; returns the step reported."""
    last = 0
    with _start(log, steps, stdin=subprocess.PIPE) as child:
        for last in _steps_of(child):
            tick(last)
            if last >= at:
                os.kill(child.pid, signal.SIGKILL)
                break
    if child.returncode != -signal.SIGKILL:
        raise MMSBError(f"the training was to be killed, and ended with {child.returncode}")
    return last


def _start(log: Path, steps: int, stdin: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mmsb_jax.demo._child", str(log), str(steps)]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True)


def _steps_of(child: subprocess.Popen[str]) -> Iterator[int]:
    assert child.stdout is not None
    return map(int, child.stdout)
