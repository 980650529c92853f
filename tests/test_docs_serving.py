"""docs/serving.md is true: its examples run in their order, and print what the page says."""

from tests._pages import DOCS, run_page
from tests.bus._pull import Server


def test_page_examples_print_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count, names = run_page(DOCS / "serving.md")
    assert count == 5
    served = Server().pull(tmp_path / "weights", 3).arrays()
    views = {path: names["bus"].read(path).tobytes() for path in names["served"]}
    assert served == {names["name"](path): raw for path, raw in views.items()}
    names["bus"].close()
