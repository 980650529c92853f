"""The causes of a compilation: how a call differs from the nearest earlier one."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmsb_jax.programs._watching.signature import FACTS, Facts, Signature
from mmsb_jax.programs._watching.values import StaticValue, cut, cut_middle

MOST_CAUSES = 16
"""Causes that are kept of one compilation; the rest are counted."""

_MOST_LEAVES_NAMED = 3

_ONCE = "put it in its place once, before the loop: jax.device_put(x, sharding)"
_ADVICE = {
    "shape": "pad to one of a few sizes: each shape is a program of its own",
    "dtype": "convert once, before the loop",
    "weak type": "pass jnp.asarray(value, dtype) each time: Python numbers are of a weak type",
    "structure": "pass the same keys and types of nodes each time",
    "passed": "pass it the same way each time: by position, or by keyword",
    "device": _ONCE,
    "sharding": _ONCE,
    "memory kind": _ONCE,
    "committed": _ONCE,
    "layout": _ONCE,
    "static value": "pass what changes often as an array, and not as a static argument",
    "configuration": "set it once, before the first call",
    "mesh": "enter the mesh once, around the loop: with jax.set_mesh(mesh)",
    "function object": "call jax.jit once, outside of the loop, and keep what it returns",
}
_BY_IDENTITY = "give its class __eq__ and __hash__, as a frozen dataclass has, or keep one object"


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason why a call compiled a program.

    Attributes:
        kind: ``"first call"``, ``"shape"``, ``"dtype"``, ``"weak type"``, ``"structure"``,
            ``"passed"`` (by position or by keyword), ``"static value"``, ``"device"``,
            ``"sharding"``, ``"memory kind"``, ``"committed"``,
            ``"layout"``, ``"transformation"``, ``"configuration"``, ``"mesh"``,
            ``"function object"``, ``"nothing seen"``, or ``"more"``: how many are not listed.
        where: the argument with its path, or the name of a setting; empty where there is none.
        before: as it was in the nearest earlier call; empty where there is none.
        after: as it is now.
        others: arrays beside this one of which the same is so.
        advice: what is usually done about it; None where there is no such thing.

    >>> from mmsb_jax.programs import Cause
    >>> print(Cause("shape", "argument x", "(8, 16)", "(9, 16)"))
    argument x: shape (8, 16) -> (9, 16)
    """

    kind: str
    where: str
    before: str
    after: str
    others: int = 0
    advice: str | None = None

    def __str__(self) -> str:
        if not self.where:
            return self.after
        more = f" and {self.others:,} more" if self.others else ""
        kind = "" if self.where.startswith(self.kind) else f"{self.kind} "
        return f"{self.where}{more}: {kind}{self.before} -> {self.after}"


def first_call(same_code: int) -> tuple[Cause, ...]:
    """Why a function was compiled that was not called before.

    Args:
        same_code: other function objects of the same code that were.
    """
    if not same_code:
        return (Cause("first call", "", "", "first call"),)
    others = "another was" if same_code == 1 else f"{same_code:,} others were"
    text = f"another function object: of the same code {others} compiled before"
    return (Cause("function object", "", "", text, advice=_ADVICE["function object"]),)


def explain_call(now: Signature, earlier: Sequence[Signature]) -> tuple[Cause, ...]:
    """How a call differs from the nearest of ``earlier`` ones, which are at least one."""
    pairs: dict[tuple[int, int], int] = {}
    nearest = min(reversed(earlier), key=lambda before: _distance(before, now, pairs))
    causes = _grouped(_differences(nearest, now))
    return tuple(causes) if causes else (_unseen(now),)


def _distance(before: Signature, now: Signature, pairs: dict[tuple[int, int], int]) -> int:
    """In how many things two calls differ; ``pairs`` remembers it of two objects."""
    count = sum(1 for _ in _of_arguments(before, now)) + sum(1 for _ in _of_settings(before, now))
    if before.paths is now.paths or before.paths == now.paths:
        both = zip(before.facts, now.facts, strict=True)
    else:
        known = dict(zip(before.paths, before.facts, strict=True))
        both = [(known.get(p), facts) for p, facts in zip(now.paths, now.facts, strict=True)]
        count += len(known.keys() - set(now.paths))
    for old, new in both:
        if old is not new:
            key = id(old), id(new)
            if key not in pairs:
                pairs[key] = 1 if old is None else sum(1 for _ in _of_pair("", old, new))
            count += pairs[key]
    shared = now.trees.keys() & before.trees.keys()
    return count + sum(1 for name in shared if before.trees[name] != now.trees[name])


def _grouped(differences: Iterator[Cause]) -> list[Cause]:
    """The first few; what is so of several arrays in one argument is one cause."""
    groups: dict[tuple[str, str, str, str], list[Cause]] = {}
    for cause in differences:
        argument = re.split(r"[.\[]", cause.where, maxsplit=1)[0]
        groups.setdefault((cause.kind, argument, cause.before, cause.after), []).append(cause)
    causes = [
        Cause(first.kind, first.where, first.before, first.after, len(rest), first.advice)
        for first, *rest in groups.values()
    ]
    if len(causes) > MOST_CAUSES:
        left = len(causes) - MOST_CAUSES + 1
        causes[MOST_CAUSES - 1 :] = [Cause("more", "", "", f"and {left:,} more differences")]
    return causes


def _unseen(now: Signature) -> Cause:
    seen = {facts[FACTS.index("transformation")] for facts in now.facts}
    transformations = sorted({fact.text for fact in seen if fact is not None} - {"none"})
    if transformations:
        text = (
            f"the same arguments under {' and '.join(transformations)}: what is mapped or "
            f"differentiated has another size, axis or order"
        )
    else:
        text = (
            "nothing that the arguments show: the caches were cleared (jax.clear_caches, "
            "clear_cache) or full, or a context was entered or left that does not show: "
            "`with mesh:`, set_xla_metadata, compute_on"
        )
    return Cause("nothing seen", "", "", text)


def _differences(before: Signature, now: Signature) -> Iterator[Cause]:
    yield from _of_arguments(before, now)
    yield from _of_structure(before, now)
    yield from _of_facts(before, now)
    yield from _of_settings(before, now)


def _of_arguments(before: Signature, now: Signature) -> Iterator[Cause]:
    """Which arguments are given, and how; and the static ones."""
    for name in sorted({**before.given, **now.given}):
        where = f"argument {name}"
        old, new = (signature.given.get(name, "not given") for signature in (before, now))
        statics = before.statics.get(name), now.statics.get(name)
        if statics[0] is not None or statics[1] is not None:
            if statics[0] != statics[1]:
                yield _of_static(where, *statics)
            elif old != new:
                yield Cause("passed", where, old, new, advice=_ADVICE["passed"])
        elif old != new:
            yield Cause("passed", where, old, new, advice=_ADVICE["passed"])


def _of_static(where: str, old: StaticValue | None, new: StaticValue | None) -> Cause:
    before, after = ("not given" if value is None else value.text for value in (old, new))
    by_identity = any(value is not None and value.is_by_identity for value in (old, new))
    advice = _BY_IDENTITY if by_identity else _ADVICE["static value"]
    if before == after:
        after = f"another {after.removeprefix('a ')}"
    return Cause("static value", where, before, after, advice=advice)


def _of_structure(before: Signature, now: Signature) -> Iterator[Cause]:
    for name, tree in now.trees.items():
        old = before.trees.get(name)
        if old is None or old == tree:
            continue
        came, went = (
            _leaves_beyond(name, one, other) for one, other in ((now, before), (before, now))
        )
        is_other = bool(came or went)
        texts = (_with(went, came), _with(came, went)) if is_other else _other_node(old, tree)
        yield Cause("structure", f"argument {name}", *texts, advice=_ADVICE["structure"])


def _leaves_beyond(name: str, one: Signature, other: Signature) -> list[str]:
    """The paths in an argument of ``one`` that ``other`` does not have."""
    known = set(other.paths)
    inside = (name, f"{name}[", f"{name}.")
    return [
        path.removeprefix(name) or "a leaf"
        for path in one.paths
        if path not in known and (path == name or path.startswith(inside[1:]))
    ]


def _with(there: Sequence[str], missing: Sequence[str]) -> str:
    if there:
        return f"with {_listed(there)}"
    return f"without {_listed(missing)}"


def _listed(paths: Sequence[str]) -> str:
    more = len(paths) - _MOST_LEAVES_NAMED
    return ", ".join(paths[:_MOST_LEAVES_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _other_node(old: Any, new: Any) -> tuple[str, str]:
    """The first node that differs between two structures with the same paths."""
    kinds = [tree.node_data() for tree in (old, new)]
    names = ["a leaf" if kind is None else kind[0].__qualname__ for kind in kinds]
    if names[0] != names[1]:
        return names[0], names[1]
    pairs = list(zip(old.children(), new.children(), strict=False))
    for one, other in pairs:
        if one != other:
            return _other_node(one, other)
    return f"a {names[0]}", f"a {names[1]} with other static fields"


def _of_facts(before: Signature, now: Signature) -> Iterator[Cause]:
    known = dict(zip(before.paths, before.facts, strict=True))
    for path, facts in zip(now.paths, now.facts, strict=True):
        others = known.get(path)
        if others is not None and others is not facts:
            yield from _of_pair(path, others, facts)


def _of_pair(path: str, before: Facts, now: Facts) -> Iterator[Cause]:
    """What differs of one array."""
    for kind, old, new in zip(FACTS, before, now, strict=True):
        if old is not None and new is not None and old.key != new.key:
            after = new.text if new.text != old.text else f"another {new.text}"
            yield Cause(
                kind, f"argument {cut_middle(path)}", old.text, after, advice=_ADVICE.get(kind)
            )
    yield from _of_place(path, _place_of(before), _place_of(now))


def _place_of(facts: Facts) -> tuple[str, str] | None:
    """Whether on one device or sharded, and how."""
    for kind in ("device", "sharding"):
        fact = facts[FACTS.index(kind)]
        if fact is not None:
            return kind, fact.text
    return None


def _of_place(
    path: str, old: tuple[str, str] | None, new: tuple[str, str] | None
) -> Iterator[Cause]:
    """From one device to several, or back."""
    if old is not None and new is not None and old[0] != new[0]:
        yield Cause(
            "sharding", f"argument {cut_middle(path)}", old[1], new[1], advice=_ADVICE["sharding"]
        )


def _of_settings(before: Signature, now: Signature) -> Iterator[Cause]:
    for name, value in now.settings.items():
        old = before.settings.get(name, "")
        if old != value:
            kind = "mesh" if name == "mesh" else "configuration"
            where = "mesh in scope" if name == "mesh" else f"configuration {name}"
            yield Cause(kind, where, cut(old), cut(value), advice=_ADVICE[kind])
