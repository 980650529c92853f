"""The arrays of programs in a log: what they are called, which there are, and what they say."""

from collections.abc import Callable
from typing import Any

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import ArrayNotFoundError, CorruptionError
from mmsb_jax._base.strict_json import parse_json
from mmsb_jax._store.format.record import PROGRAM_PREFIX
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.superseded import is_in, superseded_in
from mmsb_jax._store.state.state import StoredState, Table
from mmsb_jax.programs._captured.program import Program
from mmsb_jax.programs._captured.rows import to_text
from mmsb_jax.programs._captured.summary import Summary, decode_summary

SOURCE = "compile"
"""The source of commits that capture a program."""

MOST_NAME_BYTES = 200

BytesOf = Callable[[int, str], bytes]
"""The bytes of an array at a version; none where it is not there."""


def check_name(name: Any) -> str:
    """``name``, where a program may be called so."""
    if not isinstance(name, str):
        raise TypeError(f"name={show(name)}: expected the name of a program, a string")
    size = len(name.encode(errors="surrogatepass"))
    is_path = name in (".", "..") or "/" in name or "*" in name
    if not 0 < size <= MOST_NAME_BYTES or not name.isprintable() or is_path:
        raise ValueError(
            f"name={show(name)}: expected 1 to {MOST_NAME_BYTES} bytes of text that can be "
            f"printed, without '/' and '*', and not '.' or '..'"
        )
    return name


def array_of(name: str, part: str) -> str:
    """The array that holds a part of a program: a stage, ``"summary"`` or ``"export"``."""
    return f"{PROGRAM_PREFIX}{name}/{part}"


def names_in(table: Table) -> tuple[str, ...]:
    """The programs of a version, sorted."""
    ending = "/summary"
    return tuple(
        sorted(
            array.removeprefix(PROGRAM_PREFIX).removesuffix(ending)
            for array in table.ids
            if array.startswith(PROGRAM_PREFIX) and array.endswith(ending)
        )
    )


def find_program(log: Log, table: Table, bytes_of: BytesOf, name: str) -> Program:
    """A program as it is at the version of ``table``.

    Raises:
        ArrayNotFoundError: none of that name.
        VersionError: the bytes of the version cannot be had.
    """
    version = table.version
    if array_of(name, "summary") not in table.ids:
        known = ", ".join(map(repr, names_in(table)[:8])) or "none"
        raise ArrayNotFoundError(
            f"no program is called {name!r} at version {version}. Captured are: {known}"
        )
    summary = _summary_of(bytes_of(version, array_of(name, "summary")), name)
    read = lambda part: bytes_of(version, array_of(name, part))  # noqa: E731
    return Program(name, captured_at(log, table, name), summary, read)


def read_bytes(state: StoredState, array: str) -> bytes:
    """The bytes of an array; none where it is not there."""
    array_id = state.table.ids.get(array)
    return b"" if array_id is None else state.bytes_of(array_id).tobytes()


def _summary_of(raw: bytes, name: str) -> Summary:
    try:
        return decode_summary(to_text(raw))
    except ValueError as error:
        raise CorruptionError(
            f"the summary of program {name!r} does not parse: {error}. Something else has written "
            f"{array_of(name, 'summary')!r}: capture the program again."
        ) from error


def captures_in(log: Log, table: Table, name: str) -> list[int]:
    """The versions up to that of ``table``, ascending, that captured a program, and led to it.

    Cost: a look at the indexes, and a header each.
    """
    until, passed = table.version, superseded_in(table.graph)
    changed = set(log.select(array=array_of(name, "summary"), until=until))
    said = {
        version
        for version in log.select(source=SOURCE, until=until)
        if version not in changed and _names(log.record(version).note, name)
    }
    return [version for version in sorted(changed | said) if not is_in(passed, version)]


def captured_at(log: Log, table: Table, name: str) -> int:
    """The newest of `captures_in`."""
    return max(captures_in(log, table, name), default=table.version)


def _names(note: str, name: str) -> bool:
    """Whether the note of a commit says that it captured a program."""
    said = parse_json(note) if note else None
    return isinstance(said, dict) and said.get("program") == name
