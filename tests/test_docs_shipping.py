"""docs/shipping.md is true: its examples run in their order, and print what the page says."""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "shipping.md"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_page_examples_print_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # they open a log
    code = "\n".join(FENCE.findall(PAGE.read_text()))
    test = doctest.DocTestParser().get_doctest(code, {"__name__": "page"}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 30
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    runner = doctest.DocTestRunner(optionflags=options)
    said: list[str] = []
    runner.run(test, out=said.append, clear_globs=False)
    for name in ("reader", "bus", "copy", "late", "replica"):
        test.globs[name].close()
    assert runner.failures == 0, "".join(said)
