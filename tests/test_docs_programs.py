"""docs/programs.md is true: its examples run in their order, and print what the page says."""

from tests._pages import DOCS, run_page


def test_page_examples_print_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count, _ = run_page(DOCS / "programs.md")
    assert count == 11
