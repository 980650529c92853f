"""What is said of a program beside its texts: figures of its cost and memory, what it is made of.

It is a dict that JSON can hold. What a backend does not say is None.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from mmsb_jax._base.strict_json import parse_json

Summary = dict[str, Any]

FIGURES = {
    "jax": "JAX",
    "jaxlib": "jaxlib",
    "platform": "platform",
    "device_kind": "device kind",
    "devices": "devices",
    "arguments": "arguments",
    "results": "results",
    "donated": "donated arguments",
    "flops": "flops",
    "transcendentals": "transcendentals",
    "bytes_accessed": "bytes accessed",
    "argument_bytes": "argument bytes",
    "output_bytes": "output bytes",
    "alias_bytes": "aliased bytes",
    "temp_bytes": "temporary bytes",
    "generated_code_bytes": "generated code bytes",
    "fusions": "fusions",
}
"""What a table of a program shows: keys of a summary, and what they are called there."""

_OPERATION = re.compile(r"(?m)^\s*(?:ROOT )?%?[\w.\-]+ = \S.*?\s([a-z][\w\-]*)\(")
_MOST_LISTED = 6


@dataclass(frozen=True, slots=True)
class ProgramCost:
    """What one run of a program takes, as XLA estimates it; None for what it does not say.

    Attributes:
        flops: operations on floating-point numbers.
        transcendentals: of these, how many are exponentials, sines and the like.
        bytes_accessed: bytes read and written, those of inner results too.
    """

    flops: float | None
    transcendentals: float | None
    bytes_accessed: float | None


@dataclass(frozen=True, slots=True)
class ProgramMemory:
    """The memory that a program takes on a device, in bytes; None for what XLA does not say.

    Attributes:
        argument_bytes: its arguments.
        output_bytes: its results.
        alias_bytes: of these, what lies where donated arguments were.
        temp_bytes: what it needs meanwhile.
        generated_code_bytes: its code.
    """

    argument_bytes: int | None
    output_bytes: int | None
    alias_bytes: int | None
    temp_bytes: int | None
    generated_code_bytes: int | None


def operations_in(hlo: str) -> dict[str, int]:
    """How many operations of each kind are in a text of HLO, the inner ones of fusions too."""
    return dict(sorted(Counter(_OPERATION.findall(hlo)).items()))


def count_types(types: Iterable[str]) -> dict[str, int]:
    """How many arrays of each type there are."""
    return dict(Counter(types))


def describe_text(text: str) -> dict[str, Any]:
    """What a summary says of the text of a stage: equal texts are told from others by it."""
    return {"characters": len(text), "xxh3_128": xxhash.xxh3_128_hexdigest(text.encode())}


def encode_summary(summary: Summary) -> str:
    """A summary as JSON, an entry a line."""
    return json.dumps(summary, indent=0, sort_keys=True, allow_nan=False)


def decode_summary(text: str) -> Summary:
    """The summary that `encode_summary` wrote, whatever a later version has added.

    Raises:
        ValueError: it is none.
    """
    summary = parse_json(text)
    tables = {"arguments", "results", "operations", "stages"}
    if not isinstance(summary, dict) or not all(
        isinstance(summary.get(key), dict) for key in tables
    ):
        raise ValueError("it is no summary of a program")
    return summary


def show_figure(value: Any) -> str:
    """A figure in a table: thousands apart, types with how many there are."""
    match value:
        case None:
            return "–"
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}"
        case Mapping():
            return show_counts(value)
    return str(value)


def show_counts(counts: Mapping[str, int]) -> str:
    """``200 float32[64,64], 1 float32[8]``: those of which there are most, and how many more."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{count:,} {kind}" for kind, count in ordered[:_MOST_LISTED]]
    if len(counts) > _MOST_LISTED:
        listed.append(f"… {len(counts) - _MOST_LISTED} more")
    return ", ".join(listed) or "none"
