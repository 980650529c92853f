"""Pages of the documentation whose examples run in their order, and print what the page says."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
_EXAMPLE = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


def examples_of(page: Path) -> list[tuple[str, str]]:
    """All that is Python on a page, each with what stands behind it as printed."""
    text = page.read_text()
    examples = _EXAMPLE.findall(text)
    assert len(examples) == text.count("```python")
    return examples


def printed_by(code: str, page: Path, names: dict[str, Any]) -> str:
    """What an example prints that is run among ``names``."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(page), "exec"), names)
    return printed.getvalue()


def run_page(page: Path) -> tuple[int, dict[str, Any]]:
    """Run all examples of a page; how many there are, and what they have left."""
    names, examples = dict[str, Any](), examples_of(page)
    for code, expected in examples:
        assert printed_by(code, page, names) == expected
    return len(examples), names
