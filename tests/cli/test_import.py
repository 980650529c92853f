"""The commands that read a log start without JAX."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from mmsb_jax.cli import main
main(sys.argv[1:], standalone_mode=False)
heavy = {"jax", "jaxlib", "equinox", "rich", "matplotlib"} & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


@pytest.mark.parametrize(
    "command",
    [
        ["log"],
        ["show"],
        ["diff", "1", "3"],
        ["verify"],
        ["stats"],
        ["checkout", "--out", "out.npz"],
        ["fork", "fork.mmsb"],
    ],
    ids=lambda command: command[0],
)
def test_command_imports_no_jax(small, tmp_path, command):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, command[0], small, *command[1:]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout
