"""Rules, links and stale marks as the log keeps them: entries of the graph in the table.

Functions cannot be stored. What is kept of one is its qualified name, beside what it reads and
makes, so that a bus that is opened again knows what follows from what, and marks it stale.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmsb_jax._base.errors import CorruptionError, StructureError
from mmsb_jax._core.tree.leaves import qualified_name
from mmsb_jax._graph.run.node import Rule
from mmsb_jax._graph.wave.node_table import Mark
from mmsb_jax._store.format.record import GRAPH_PREFIX, MAX_NAME_BYTES

_RULE, _LINK, _STALE = (f"{GRAPH_PREFIX}{kind}/" for kind in ("derive", "link", "stale"))
_MARKS = ("new", "dirty", "pending")

Edge = tuple[str, str, str]
"""(from, to, kind)."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A rule as it is found in the log.

    Attributes:
        rule: without its function.
        serial: its number among the rules.
        arrays: what it makes.
        fingerprint: a hash of what its function did.
        since: the version from which on its function does that; None where that was not recorded.
    """

    rule: Rule
    serial: int
    arrays: tuple[str, ...]
    fingerprint: str
    since: int | None


def rule_entry(
    rule: Rule, serial: int, arrays: tuple[str, ...], fingerprint: str, since: int | None = None
) -> tuple[str, str]:
    """Name and text of the entry of a rule."""
    equal = rule.equal if isinstance(rule.equal, str) else f"function {qualified_name(rule.equal)}"
    said = {
        "inputs": rule.inputs,
        "function": rule.function_name,
        "fingerprint": fingerprint,
        "when": rule.when,
        "equal": equal,
        "pagewise": rule.pagewise,
        "arrays": arrays,
        "serial": serial,
    }
    if since is not None:
        said["since"] = since
    return _RULE + rule.name, json.dumps(said, separators=(",", ":"))


def in_force_since(
    entries: Mapping[str, str], name: str, fingerprint: str, version: int
) -> int | None:
    """From which version on the function of a rule does what it does.

    Args:
        entries: those of the graph before a commit.
        name: the rule.
        fingerprint: a hash of what its function does from that commit on.
        version: that of the commit.
    """
    text = entries.get(_RULE + name)
    known = None if text is None else _rule_of(name, text)
    if known is not None and known.fingerprint == fingerprint:
        return known.since
    return version


def link_entry(edge: Edge) -> tuple[str, str]:
    """Name and text of the entry of a link."""
    return _LINK + json.dumps(edge[:2], separators=(",", ":")) + edge[2], edge[2]


def mark_entry(name: str, mark: Mark | None) -> tuple[str, str | None]:
    """Name and text of the entry of a stale mark; None takes it away."""
    return _STALE + name, mark


def mark_of(own: Mark | None, is_awaited: bool, is_covered: bool) -> Mark | None:
    """The mark of a derived array, or of one that waits for its user, as the log keeps it.

    Args:
        own: why the value of a derived array is not that of its inputs.
        is_awaited: whether it waits to be written.
        is_covered: whether it follows from one that waits.
    """
    if is_awaited:
        return "dirty"
    return own or ("pending" if is_covered else None)


def gone(name: str) -> dict[str, None]:
    """The entries to take away with a rule."""
    return {_RULE + name: None, _STALE + name: None}


def check_results(rule: Rule, arrays: Iterable[str]) -> None:
    """Refuse results whose names no log can hold."""
    for name in arrays:
        fault = fault_of_name(name)
        if fault:
            raise StructureError(
                f"{rule.title} makes an array {name[:80]!r}…: {fault}. Give the results shorter "
                f"keys, of whole characters."
            )


def fault_of_name(name: str) -> str | None:
    """Why no log can hold an array of that name; None for a good one."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "its name holds half a surrogate pair, which is no text in UTF-8"
    if not 0 < size <= MAX_NAME_BYTES:
        return f"its name has {size:,} bytes, and 1 to {MAX_NAME_BYTES:,} can be recorded"
    return None


def is_of_graph(entries: Iterable[str]) -> bool:
    """Whether any of some names of constants is that of a rule, a link or a mark."""
    return any(name.startswith((_RULE, _LINK, _STALE)) for name in entries)


def rules_in(entries: Mapping[str, str]) -> list[Recorded]:
    """The rules of a table, in the order in which they were made."""
    found = [_rule_of(name, text) for name, text in _named(entries, _RULE)]
    return sorted(found, key=lambda recorded: recorded.serial)


def links_in(entries: dict[str, str]) -> list[Edge]:
    """The links of a table."""
    edges = []
    for name, kind in _named(entries, _LINK):
        pair = _parsed(name.removesuffix(kind), name)
        if not isinstance(pair, list) or list(map(type, pair)) != [str, str]:
            raise _broken(name)
        edges.append((pair[0], pair[1], kind))
    return edges


def marks_in(entries: dict[str, str]) -> dict[str, Mark]:
    """The stale marks of a table."""
    marks: dict[str, Any] = dict(_named(entries, _STALE))
    for name, mark in marks.items():
        if mark not in _MARKS:
            raise _broken(name)
    return marks


def _named(entries: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str]]:
    for name, text in entries.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), text


def _rule_of(name: str, text: str) -> Recorded:
    said = _parsed(text, name)
    try:
        texts = [*said["inputs"], *said["arrays"], said["function"], said["when"], said["equal"]]
        texts.append(said["fingerprint"])
        if not all(isinstance(part, str) for part in texts) or type(said["serial"]) is not int:
            raise _broken(name)
        rule = Rule(
            name=name,
            inputs=tuple(said["inputs"]),
            function=None,
            function_name=said["function"],
            when="read" if said["when"] == "read" else "commit",
            equal=said["equal"],
            pagewise=bool(said["pagewise"]),
        )
        return Recorded(
            rule, said["serial"], tuple(said["arrays"]), said["fingerprint"], _since(said, name)
        )
    except (KeyError, TypeError) as error:
        raise _broken(name) from error


def _since(said: dict[str, Any], name: str) -> int | None:
    since = said.get("since")
    if since is not None and (type(since) is not int or since < 1):
        raise _broken(name)
    return since


def _parsed(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(name) from error


def _broken(name: str) -> CorruptionError:
    return CorruptionError(
        f"what the log holds of the graph does not parse at {name!r}. Restore the log from a copy."
    )
