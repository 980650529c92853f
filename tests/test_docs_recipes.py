"""docs/recipes.md is true: its examples run in their order, and print what the page says."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
LONGEST = 30
EIGHT_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}


def test_page_examples_print_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, names = PAGE.read_text(), dict[str, Any]()
    examples = EXAMPLE.findall(text)
    assert len(examples) == text.count("```python") >= 15
    for code, expected in examples:
        assert len(code.splitlines()) <= LONGEST
        assert printed_by(code, names, expected) == expected


def printed_by(code: str, names: dict[str, Any], expected: str) -> str:
    """What an example prints; one that names a file is written there, and run if it prints."""
    file = FILE.match(code)
    if file is None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        return printed.getvalue()
    Path(file[1]).write_text(code)
    if not expected:
        return ""
    environment = os.environ | EIGHT_DEVICES
    command = [sys.executable, file[1]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
