"""Tables for people. Every cell is shown as it is: nothing in it is markup."""

import sys
from collections.abc import Iterable, Sequence

from mmsb_jax._display.text import aligned, cell
from mmsb_jax.cli.common.command import printing, say

_FOLDED = {"array", "constant", "note", "source", "value"}
_LEAST_FOLDED_WIDTH = 10


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on stdout. Numbers stand to the right, and have their thousands apart.

    In a terminal long names and notes are folded; elsewhere a row is one line.
    """
    rows = list(rows)
    is_number = [any(isinstance(row[i], int) for row in rows) for i in range(len(columns))]
    cells = [tuple(map(cell, row)) for row in rows]
    if sys.stdout.isatty():
        _print_folded(columns, cells, is_number)
        return
    for line in aligned([columns, *cells], is_number):
        say(line)


def _print_folded(
    columns: Sequence[str], cells: Sequence[Sequence[str]], is_number: Sequence[bool]
) -> None:
    # Imported here: only a terminal needs it.
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    least_width = 0
    for column, *rest, right in zip(columns, *cells, is_number, strict=True):
        text, width = Text(column), max(map(cell_len, (column, *rest)))
        if column in _FOLDED:
            table.add_column(text, overflow="fold")
            width = min(width, _LEAST_FOLDED_WIDTH)
        else:
            table.add_column(text, justify="right" if right else "left", no_wrap=True)
        least_width += width + 2
    for row in cells:
        table.add_row(*map(Text, row))  # Text: a string would be read as markup
    console = Console(file=sys.stdout)
    # Rather a line that the terminal breaks than a number that is cut.
    console.width = max(console.width, least_width)
    with printing():
        console.print(table)


def print_facts(facts: dict[str, object]) -> None:
    """A name and a value a line; values of None are left out."""
    facts = {name: value for name, value in facts.items() if value is not None}
    width = max(map(len, facts))
    for name, value in facts.items():
        say(f"{name:<{width}}  {cell(value)}")
