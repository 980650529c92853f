"""docs/graph.md is true: its examples run in their order, and print what the page says."""

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "graph.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections() -> Iterator[tuple[str, str]]:
    """(heading, examples) of the page; all but the examples is blank, so that lines keep theirs."""
    text = PAGE.read_text()
    code, end = "", 0
    for fence in FENCE.finditer(text):
        code += "\n" * text.count("\n", end, fence.start(1)) + fence[1]
        end = fence.end(1)
    lines, heading, start = code.splitlines(keepends=True), "", 0
    for number, line in enumerate([*text.splitlines(), "## "]):
        if line.startswith("## "):
            yield heading, "\n" * start + "".join(lines[start:number])
            heading, start = line.removeprefix("## "), number


(_, IMPORTS), *FOUND = sections()
EXAMPLES = {heading: code for heading, code in FOUND if code.strip()}


def test_page_python_is_all_examples():
    assert len(EXAMPLES) > 10
    assert all(fence.startswith(">>> ") for fence in FENCE.findall(PAGE.read_text()))


@pytest.mark.filterwarnings("ignore:derived .* is stale")  # the page says so
@pytest.mark.parametrize("heading", EXAMPLES)
def test_page_examples_print_what_the_page_says(heading: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some of them open a log
    code = IMPORTS + EXAMPLES[heading].removeprefix("\n" * IMPORTS.count("\n"))
    test = doctest.DocTestParser().get_doctest(code, {"__name__": "page"}, heading, str(PAGE), 0)
    printed: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    outcome = runner.run(test, out=printed.append)
    assert outcome.attempted > IMPORTS.count(">>>")
    assert not outcome.failed, "".join(printed)
