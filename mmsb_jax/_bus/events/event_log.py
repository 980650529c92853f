"""Events kept as rows, in a ring that can be an array of the bus."""

import threading
from typing import Any, Protocol

import numpy as np
import xxhash

from mmsb_jax._base.arguments import MOST, check_text, is_integer, show
from mmsb_jax._base.errors import ArrayNotFoundError
from mmsb_jax._bus.events.kinds import Event
from mmsb_jax._store.query.commit import Commit

_FIELDS = {"serial": "<u8", "version": "<u8", "time_ns": "<i8", "array": "<u8", "source": "<u8"}
EVENT_ROW = np.dtype([*_FIELDS.items(), ("kind", "S15"), ("changed", "i1")])
"""A row of an `EventLog`, 56 bytes: its number, from 1 on, and the fields of the event. Names are
hashed (`EventLog.hash_of`); ``changed`` is -1 for None."""

_LOG_SOURCE = "mmsb.EventLog"


class ArrayBus(Protocol):
    """What an `EventLog` asks of the bus that it is written to."""

    def create(self, name: str, *, nbytes: int) -> None:
        """As `Bus.create`."""

    def write(self, name: str, value: Any, *, source: str) -> Commit | None:
        """As `Bus.write`."""


class EventLog:
    """A handler that keeps the newest events as rows, and writes them into an array of a bus.

    What `write_to` commits is not recorded, by any log: a handler may write after each commit.
    Rows keep their places, so that a write changes only the bytes of new ones.

    Args:
        capacity: how many rows are kept.

    >>> import mmsb_jax as mmsb
    >>> log, bus = EventLog(capacity=2), mmsb.open()
    >>> for version in 1, 2, 3:
    ...     log(Event("changed", version, time_ns=0, array="params/w"))
    >>> commit = log.write_to(bus, "events")
    >>> EventLog.rows_of(bus.read("events"))["version"].tolist()
    [2, 3]
    """

    def __init__(self, capacity: int = 1024) -> None:
        if not is_integer(capacity) or not 1 <= capacity <= MOST:
            raise ValueError(
                f"capacity={show(capacity)}: expected at least 1 row, an integer up to {MOST}"
            )
        self._ring = np.zeros(capacity, EVENT_ROW)
        self._serial = self._written = 0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Keep an event, in the place of the oldest."""
        if event.commit is not None and event.commit.source == _LOG_SOURCE:
            return
        changed = -1 if event.changed is None else int(event.changed)
        names = self.hash_of(event.array), self.hash_of(event.source)
        row = (event.version, event.time_ns, *names, event.kind.encode(), changed)
        with self._lock:
            place = self._serial % self._ring.size
            self._serial += 1
            self._ring[place] = (self._serial, *row)

    def rows(self) -> np.ndarray:
        """The rows (``EVENT_ROW[n]``), oldest first; a copy."""
        with self._lock:
            return self.rows_of(self._ring)

    def write_to(self, bus: ArrayBus, name: str) -> Commit | None:
        """Commit the rows as the array ``name`` (uint8[56 * capacity]), which is made if missing.

        None where no row is new, and in a batch.

        Raises:
            StructureError: the array has another size.
        """
        with self._lock:
            raw, before, self._written = self._ring.tobytes(), self._written, self._serial
            if before == self._serial:
                return None
        try:
            try:
                return bus.write(name, raw, source=_LOG_SOURCE)
            except ArrayNotFoundError:
                bus.create(name, nbytes=len(raw))
                return bus.write(name, raw, source=_LOG_SOURCE)
        except BaseException:
            self._written = before
            raise

    @staticmethod
    def rows_of(array: Any) -> np.ndarray:
        """The rows (``EVENT_ROW[n]``) in what `write_to` wrote, oldest first.

        Raises:
            ValueError: its size is not that of rows.
        """
        try:
            ring = np.asarray(array).view(EVENT_ROW)
        except (TypeError, ValueError):
            raise ValueError(
                f"array={show(array)}: expected what write_to wrote, an array of a size of "
                f"uint8[{EVENT_ROW.itemsize} * capacity]"
            ) from None
        ring = ring[ring["serial"] > 0]
        return ring[np.argsort(ring["serial"])]

    @staticmethod
    def hash_of(name: str | None) -> int:
        """What stands for the name of an array in a row: its xxh3-64; 0 for None."""
        if name is not None:
            check_text("name", name, "the name of an array, or None")
        return 0 if name is None else xxhash.xxh3_64_intdigest(name.encode(errors="surrogatepass"))
