"""docs/recipes.md is true: its examples run in their order, and print what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests._pages import DOCS, examples_of, printed_by

PAGE = DOCS / "recipes.md"
FILE = re.compile(r"# (\w+\.py)\n")
LONGEST = 30
EIGHT_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def test_page_examples_print_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, examples = dict[str, Any](), examples_of(PAGE)
    assert len(examples) >= 15
    for code, expected in examples:
        assert len(code.splitlines()) <= LONGEST
        file = FILE.match(code)
        if file is None:
            assert printed_by(code, PAGE, names) == expected
        else:
            Path(file[1]).write_text(code)
            assert not expected or printed_by_file(file[1]) == expected


def printed_by_file(name: str) -> str:
    """What an example that names a file prints, run there."""
    environment = os.environ | EIGHT_DEVICES
    command = [sys.executable, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
