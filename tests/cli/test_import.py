"""The commands start without JAX, and never import it; the demo alone does."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli._commands import COMMANDS, words

SCRIPT = """
import sys
from mmsb_jax.cli import main
main(sys.argv[1:], standalone_mode=False)
heavy = {"jax", "jaxlib", "equinox", "rich", "matplotlib"} & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_command_imports_no_jax(mmsb, recorder, small, tmp_path, command):
    recorder.close()
    assert mmsb("export", small, tmp_path / "stream").code == 0
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words(command, Path(small).name)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout
