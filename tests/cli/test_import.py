"""The commands start without JAX, and never import it; the demo alone does."""

import json
import subprocess
import sys
from pathlib import Path

from tests.cli._commands import COMMANDS, words

SCRIPT = """
import io, json, sys
from contextlib import redirect_stdout
from mmsb_jax.cli import main
for name, words in json.loads(sys.argv[1]).items():
    with redirect_stdout(io.StringIO()) as told:
        main(words, standalone_mode=False)
    heavy = {"jax", "jaxlib", "equinox", "rich", "matplotlib"} & sys.modules.keys()
    if heavy or not told.getvalue():
        sys.exit(f"{name} imported: {heavy}, told: {told.getvalue()!r}")
    print(name)
"""


def test_commands_import_no_jax(mmsb, recorder, small, tmp_path):
    """One after the other in one process: what one has imported stays."""
    recorder.close()
    assert mmsb("export", small, tmp_path / "stream").code == 0
    log = Path(small).name
    calls = {name: words(name, log, out=f"out of {name}") for name in COMMANDS}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(calls)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == list(COMMANDS)
