"""Programs of a bus, by name and version."""

from mmsb_jax._base.arguments import check_kind
from mmsb_jax._base.errors import ArrayNotFoundError
from mmsb_jax._bus.bus import Bus
from mmsb_jax._bus.engine.session import Ref
from mmsb_jax._store.state.state import Table
from mmsb_jax.programs._captured.arrays import (
    BytesOf,
    check_name,
    find_program,
    names_in,
    read_bytes,
)
from mmsb_jax.programs._captured.program import Program


def load(bus: Bus, name: str, ref: Ref | None = None) -> Program:
    """A program as it is at a version.

    Args:
        bus: a bus, which may be a reader's, of a log that another version of JAX wrote.
        name: what it is called.
        ref: a version, a tag or a commit; the newest with bytes for None.

    Raises:
        ArrayNotFoundError: no program of that name there; the message says which there are.
        VersionError: no such version, or its bytes cannot be had.

    Cost: the summary is read, and each text when it is asked for.

    >>> import jax, jax.numpy as jnp
    >>> import mmsb_jax as mmsb
    >>> bus, f = mmsb.open(), jax.jit(jnp.sum)
    >>> for length in (4, 8):
    ...     _ = mmsb.programs.capture(bus, "f", f.trace(jnp.ones(length)))
    >>> mmsb.programs.load(bus, "f").version, mmsb.programs.load(bus, "f", 1).summary["arguments"]
    (2, {'float32[4]': 1})
    """
    check_kind("bus", bus, Bus)
    check_name(name)
    with bus._lock:
        table = _table_of(bus, ref)
        if table is None:
            raise ArrayNotFoundError(
                f"no program is called {name!r}: nothing was captured on this bus yet"
            )
        return find_program(bus._session.log, table, _bytes_of(bus), name)


def names(bus: Bus, ref: Ref | None = None) -> tuple[str, ...]:
    """The names of the programs of a version, sorted.

    Args:
        bus: a bus.
        ref: a version, a tag or a commit; the newest with bytes for None.

    Raises:
        VersionError: no such version, or its bytes cannot be had.

    >>> import jax, jax.numpy as jnp
    >>> import mmsb_jax as mmsb
    >>> bus = mmsb.open()
    >>> _ = mmsb.programs.capture(bus, "sum", jax.jit(jnp.sum).trace(jnp.ones(4)))
    >>> mmsb.programs.names(bus)
    ('sum',)
    """
    check_kind("bus", bus, Bus)
    with bus._lock:
        table = _table_of(bus, ref)
        return () if table is None else names_in(table)


def _table_of(bus: Bus, ref: Ref | None) -> Table | None:
    """The table of a version, not to be kept; None for the empty state."""
    session = bus._session
    session.settle()
    newest = session.log.last_saved(session.log.version)
    version = newest if ref is None else session.number_of("ref", ref)
    return session.state_now(version, lambda name: False).table if version else None


def _bytes_of(bus: Bus) -> BytesOf:
    """Reads arrays of a bus, which is held meanwhile."""

    def bytes_of(version: int, array: str) -> bytes:
        with bus._lock:
            bus._session.settle()
            return read_bytes(bus._session.state_now(version, array.__eq__), array)

    return bytes_of
