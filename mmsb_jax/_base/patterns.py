"""Patterns for names of arrays: ``params/**``, ``*/weight``. Imports nothing heavy."""

import re
from collections.abc import Iterable

_TOKENS = re.compile(r"\*\*/|/\*\*\Z|\*\*|\*|\?|[^*?/]+|/")
_WILDCARDS: dict[str, str] = {
    "**/": r"(?:.*/)?",
    "/**": r"(?:/.*)?",
    "**": r".*",
    "*": r"[^/]*",
    "?": r"[^/]",
}


def matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    """A compiled pattern that fully matches the names that any of ``patterns`` selects.

    ``*`` is any run of characters inside a key, ``**`` any run of keys, ``?`` one character.
    A pattern without wildcards selects that array and everything below that path.
    """
    # DOTALL: a key may hold a newline.
    return re.compile("|".join(f"(?:{_translate(pattern)})" for pattern in patterns), re.DOTALL)


def _translate(pattern: str) -> str:
    if not re.search(r"[*?]", pattern):
        return re.escape(pattern.rstrip("/")) + r"(?:/.*)?"
    tokens = _TOKENS.findall(pattern)
    return "".join(_WILDCARDS.get(token) or re.escape(token) for token in tokens)
