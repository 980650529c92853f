"""docs/page-table.md is true: its examples run in their order, and print what the page says."""

import contextlib
import io
from pathlib import Path
from typing import Any

from tests.test_docs_training import EXAMPLE

PAGE = Path(__file__).parents[1] / "docs" / "page-table.md"


def test_page_examples_print_what_the_page_says():
    text, names = PAGE.read_text(), dict[str, Any]()
    examples = EXAMPLE.findall(text)
    assert len(examples) == text.count("```python") == 3
    for code, expected in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        assert printed.getvalue() == expected
