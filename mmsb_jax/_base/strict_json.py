"""JSON that stands in a log: UTF-8, and not nested deeper than a program can go."""

import json
from typing import Any

MAX_JSON_DEPTH = 128
"""Lists and objects within each other, in a note or an extra."""


def parse_json(raw: bytes | str) -> Any:
    """The value that ``raw`` is.

    Cost: where it has more lists and objects than may be nested, a walk through the value.
    """
    text = raw if isinstance(raw, str) else raw.decode()
    try:
        value = json.loads(text)
    except RecursionError:
        raise too_deep() from None
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH:
        _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise too_deep()
        level = [inner for item in level for inner in _inside(item)]


def _inside(value: dict[str, Any] | list[Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def too_deep() -> ValueError:
    """The error for lists and objects that are nested too deep."""
    return ValueError(f"lists and objects are nested deeper than {MAX_JSON_DEPTH}")


def check_texts(table: dict[str, Any]) -> None:
    """Refuse what JSON can spell and UTF-8 cannot, among the names and texts of ``table``."""
    for name, value in table.items():
        name.encode()
        if isinstance(value, str):
            value.encode()
