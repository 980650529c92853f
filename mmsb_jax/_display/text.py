"""Text: columns that stand below each other, and names that do no harm to a terminal."""

from collections.abc import Iterable, Sequence


def printable(text: str) -> str:
    """``text`` with every character that a terminal may act on written as its escape.

    Names and notes in a log come from whoever wrote it.

    >>> printable("w\\x1b[2J")
    'w\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cell(value: object) -> str:
    """A value in a table: thousands apart, a dash for None, nothing that a terminal acts on."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def aligned(rows: Iterable[Sequence[str]], is_right: Sequence[bool] = ()) -> list[str]:
    """A line a row, with the cells of each column below each other.

    Args:
        rows: rows of as many cells.
        is_right: whether a column stands to the right; all to the left for none.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = is_right or [False] * len(widths)
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in rows
    ]
