"""HTML, as a notebook shows it. Every text is escaped: nothing in it is markup."""

from collections.abc import Iterable, Sequence
from html import escape


def html_table(rows: Iterable[Sequence[str]], columns: Sequence[str] = ()) -> str:
    """A table, with a head where ``columns`` are named."""
    head = _row(columns, "th") if columns else ""
    return f"<table>{head}{''.join(_row(row, 'td') for row in rows)}</table>"


def html_list(items: Iterable[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def html_text(text: str) -> str:
    """A paragraph."""
    return f"<p>{escape(text)}</p>"


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
