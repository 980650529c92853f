"""A commit as users see it."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from mmsb_jax._base.errors import ClosedError, CorruptionError, MMSBError, StructureError
from mmsb_jax._base.strict_json import MAX_JSON_DEPTH, parse_json, too_deep
from mmsb_jax._base.texts import MAX_DIGITS, MAX_INTEGER, encoded
from mmsb_jax._store.format.record import EXTRA_IS_JSON
from mmsb_jax._store.log.in_force import extra_in_force
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.patches import Patch, patches_of


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """One atomic entry of the log.

    Attributes:
        version: its number, from 1 on, without gaps.
        step: the caller's own number; None where none was given.
        time_ns: when it was committed, in nanoseconds since 1970.
        source: who committed it; empty where nothing was said.
        note: what the caller wrote down; None where nothing was.
        changed: names of the arrays with a changed byte, sorted.
        changed_bytes: bytes that differ from the version before.
        logged_bytes: bytes that it takes in the log, all its frames together.
        saved: whether the bytes of all arrays were logged (a compaction may have dropped them
            since). Else ``changed`` goes by digests, and `Bus.checkout` gives no more than the
            arrays that have bytes there: those that no commit without theirs has changed.
        saved_arrays: the arrays whose bytes it logged: ``changed`` where it is ``saved``, some of
            them where it was saved in part, none where it holds digests alone.
            ``changed_bytes`` counts in these.

    It can be pickled: what it says, `extra` among it, goes along, and `durable` stays what it was
    then. `patches` are in the log alone.
    """

    version: int
    step: int | None
    time_ns: int
    source: str
    note: Any
    changed: tuple[str, ...]
    changed_bytes: int
    logged_bytes: int
    saved: bool
    saved_arrays: tuple[str, ...]
    _extra: Callable[[], Any] = field(repr=False)
    _patches: Callable[[], Iterator[Patch]] = field(repr=False)
    _durable_version: Callable[[], int] = field(repr=False)

    @property
    def extra(self) -> Any:
        """The JSON value or bytes that the caller gave beside the tree; None for none.

        Read from the log each time it is asked for.
        """
        return self._extra()

    def patches(self) -> Iterator[Patch]:
        """What it did, array by array: ``(name, indices, values)``.

        ``indices`` are the elements in which a byte changed, in row-major order, ascending;
        ``values`` are what they are now, in the array's own dtype (bfloat16 as `ml_dtypes` has
        it). Of an array that it made, or gave another shape, they are all. Put into the state
        before, they give the state after.

        Raises:
            VersionError: its data were compacted away.
            CorruptionError: what was written does not read back.

        Cost: what it logged. Of arrays of which most changed, or whose elements are larger than 4
        bytes, a checkout of the version before and one of this.

        >>> import numpy as np
        >>> import mmsb_jax as mmsb
        >>> bus = mmsb.open()
        >>> _ = bus.commit({"w": np.zeros(100, np.float32)})
        >>> commit = bus.commit({"w": np.eye(1, 100, 7, np.float32)[0]})
        >>> [(name, i.tolist(), v.tolist()) for name, i, v in commit.patches()]
        [('w', [7], [1.0])]
        """
        return self._patches()

    @property
    def durable(self) -> bool:
        """Whether it would survive a power cut now."""
        return self.version <= self._durable_version()

    def __copy__(self) -> "Commit":
        return self  # it does not change

    def __deepcopy__(self, memo: dict[int, Any]) -> "Commit":
        return replace(self, note=copy.deepcopy(self.note, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        said = [getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")]
        try:
            extra, fault = self.extra, ""
        except MMSBError as error:  # the bus was closed, or its data were compacted away
            extra, fault = None, str(error)
        return _unpickled, (said, extra, fault, self.durable)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Commit) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.version, self.time_ns))

    def _key(self) -> tuple[Any, ...]:
        note = encode_json(self.note, "note")
        return (self.version, self.step, self.time_ns, self.source, note, self.changed)


def _unpickled(said: list[Any], extra: Any, fault: str, durable: bool) -> Commit:
    """A commit from its pickle."""
    version = said[0]

    def get_extra() -> Any:
        if fault:
            raise ClosedError(
                f"the extra of version {version} was not there to be pickled: {fault}"
            )
        return extra

    def no_patches() -> Iterator[Patch]:
        raise ClosedError(
            f"version {version} was unpickled, and what it did is in its log alone: open that, and "
            f"ask the commit of next(bus.log(since={version}))"
        )

    return Commit(
        *said,
        _extra=get_extra,
        _patches=no_patches,
        _durable_version=lambda: version if durable else 0,
    )


def encode_json(value: Any, name: str) -> str:
    """``value`` as JSON; 0-d arrays and NumPy scalars become numbers."""
    if value is None:
        return ""

    def number(item: Any) -> Any:
        if getattr(item, "shape", None) == () and hasattr(item, "item"):
            try:
                return item.item()
            except (NotImplementedError, TypeError):  # a key of JAX has a shape, and is no number
                pass
        raise _no_json(name, f"a {type(item).__name__}")

    _check(value, name, MAX_JSON_DEPTH)
    return json.dumps(value, default=number, separators=(",", ":"))


def _check(value: Any, name: str, levels: int) -> None:
    """Refuse what JSON would turn into something else, or what cannot be read back.

    That is, keys that are no strings, halves of characters, integers of too many digits; no more
    than ``levels`` lists and objects may lie within each other.
    """
    if isinstance(value, str):
        encoded(value, f"{name} holds a string that cannot be written:")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise StructureError(
            f"{name} holds an int of more than {MAX_DIGITS} digits. Give it as a string (hex)."
        )
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise _no_json(name, f"a dict with the key {key!r}")
            encoded(key, f"{name} holds a key that cannot be written:")
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    if not levels:
        raise ValueError(f"{name}: {too_deep()}")
    for item in value:
        _check(item, name, levels - 1)


def _no_json(name: str, what: str) -> TypeError:
    return TypeError(
        f"{name} holds {what}. Expected JSON (None, bool, int, float, str, lists, dicts with str "
        f"keys) and 0-d arrays."
    )


def _decode_json(text: str | bytes, version: int, name: str) -> Any:
    """The value that `encode_json` wrote."""
    try:
        return parse_json(text) if text else None
    except ValueError as error:
        raise CorruptionError(f"the {name} of version {version} is not JSON: {error}") from error


def read_commit(log: Log, version: int, durable_version: Callable[[], int]) -> Commit:
    """The commit of ``version``; reads its frame's meta and no payload."""
    record, row = log.record(version), log.row(version)
    changed = tuple(log.arrays_of(record))
    aside = sorted(map(log.name_of, record.aside["id"].tolist()))
    return Commit(
        version=version,
        step=record.step,
        time_ns=record.time_ns,
        source=record.source,
        note=_decode_json(record.note, version, "note"),
        changed=changed,
        changed_bytes=record.changed_bytes,
        logged_bytes=row.logged_bytes,
        saved=record.is_saved,
        saved_arrays=changed if record.is_saved else tuple(aside),
        _extra=lambda: read_extra(log, version),
        _patches=lambda: patches_of(log, version),
        _durable_version=durable_version,
    )


class ExtraInForce(NamedTuple):
    """The ``extra`` in force at a version, and the commit that gave it; 0 where none has."""

    version: int
    value: Any


def read_extra_in_force(log: Log, version: int) -> ExtraInForce:
    """What the newest commit up to ``version`` that says an ``extra`` has said."""
    if not version:
        return ExtraInForce(0, None)
    known = extra_in_force(log, version)
    blob = known.blob
    value = _decode_json(blob, known.version, "extra") if blob and known.is_json else blob
    return ExtraInForce(known.version, value)


def read_extra(log: Log, version: int) -> Any:
    """What the caller gave beside the tree of ``version``: JSON, bytes, or None."""
    blob, flags = log.extra(version)
    return _decode_json(blob, version, "extra") if blob and flags & EXTRA_IS_JSON else blob
