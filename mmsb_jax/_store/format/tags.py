"""Tags: names for versions. A tag is an entry of the log without a version of its own."""

import json
from collections.abc import Mapping

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import StructureError, VersionError
from mmsb_jax._base.strict_json import parse_json
from mmsb_jax._store.format.frame import BadFrameError, check_text

MAX_TAG_BYTES = 255

TagChanges = dict[str, int | None]
"""Name → the version that it names from now on; None takes the name away."""


def check_tag(name: object) -> str:
    """``name``, where it may name a version."""
    if not isinstance(name, str):
        raise TypeError(f"tag={show(name)}: expected a string")
    size = len(name.encode(errors="surrogatepass"))
    if not 0 < size <= MAX_TAG_BYTES or not name.isprintable() or name.isdecimal():
        raise ValueError(
            f"tag={name[:80]!r} ({size} bytes): expected 1 to {MAX_TAG_BYTES} bytes of text that "
            f"can be printed, and not digits alone: those would be a version"
        )
    return name


def encode_tags(changes: Mapping[str, int | None]) -> bytes:
    """The meta of a frame that makes ``changes``."""
    for name, version in changes.items():
        check_text("the name of a tag", name, MAX_TAG_BYTES)
        if not _is_version(version):
            raise StructureError(f"tag {name!r} of {version!r:.80}: expected a version, or None")
    return json.dumps(changes, sort_keys=True).encode()


def decode_tags(raw: bytes) -> TagChanges:
    """The changes in a frame's meta."""
    try:
        changes = parse_json(raw)
        if not isinstance(changes, dict) or not all(map(_is_version, changes.values())):
            raise BadFrameError("the tags are not a table of names and versions")
        longest = max((len(name.encode()) for name in changes), default=0)
    except ValueError as error:
        raise BadFrameError(f"the tags do not parse: {error}") from error
    if longest > MAX_TAG_BYTES:
        raise BadFrameError(f"a tag of {longest} bytes; at most {MAX_TAG_BYTES} expected")
    return changes


def _is_version(value: object) -> bool:
    return value is None or (type(value) is int and 0 < value < 2**63)


def no_tag(name: str, tags: Mapping[str, int]) -> VersionError:
    """The error for a name that no version has."""
    known = ", ".join(map(repr, sorted(tags)[:8])) or "none"
    return VersionError(f"no version is tagged {name!r}. There are {len(tags)} tags: {known}")
