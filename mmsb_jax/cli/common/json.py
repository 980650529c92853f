"""JSON that any reader parses and no terminal acts on."""

import json
import math
from typing import Any


def to_json(value: Any, indent: int | None = 2) -> str:
    """``value`` in printable ASCII; NaN and infinities as strings, by JavaScript's words.

    With ``indent`` None it is one line.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
    return value
