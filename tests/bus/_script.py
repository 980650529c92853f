"""Code that needs a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command_of(code: str, *arguments: object) -> list[str]:
    """How ``code`` is run in a new Python."""
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def run_script(code: str, *arguments: object, **environment: str) -> str:
    """Run ``code`` in a new Python, where it finds the library and the tests; what it printed."""
    run = subprocess.run(
        command_of(code, *arguments),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()
