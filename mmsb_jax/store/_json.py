"""JSON that stands in a log: UTF-8, and no deeper than what a program can go through."""

import json
from typing import Any

MAX_JSON_DEPTH = 128
"""Lists and objects within each other, in a note or an extra."""


def parse_json(raw: bytes | str) -> Any:
    """The value that ``raw`` is.

    Raises:
        ValueError: not JSON, not UTF-8, or too deep.
    """
    text = raw if isinstance(raw, str) else raw.decode()
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    check_depth(value, text)
    return value


def check_depth(value: Any, text: str) -> None:
    """Refuse ``value``, whose JSON is ``text``, where it is deeper than `MAX_JSON_DEPTH`.

    Raises:
        ValueError: it is.

    Cost: a search in the text; a walk where it opens more lists and objects than may be nested.
    """
    if text.count("[") + text.count("{") <= MAX_JSON_DEPTH:
        return
    level, depth = [value], 0
    while level := [item for container in level for item in _items(container)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise _too_deep()


def _items(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _too_deep() -> ValueError:
    return ValueError(f"lists and objects are nested deeper than {MAX_JSON_DEPTH}")


def check_texts(table: dict[str, Any]) -> None:
    """Refuse names and texts that cannot be written as UTF-8: halves of characters.

    Raises:
        ValueError: one of them.
    """
    for name, value in table.items():
        name.encode()
        if isinstance(value, str):
            value.encode()
