"""Room: what a log claims may be any size, what this machine can hold is not."""

import contextlib
import functools
import os
from collections.abc import Iterator

from mmsb_jax._base.errors import DeviceMemoryError


@functools.cache
def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_room(nbytes: int, what: str) -> None:
    """Refuse more than the memory of the machine, before anything of it is allocated."""
    if nbytes > _machine_bytes():
        raise no_room(nbytes, what)


@contextlib.contextmanager
def room_for(what: str) -> Iterator[None]:
    """Inside, memory that is refused is the library's error, and says what it was for."""
    try:
        yield
    except DeviceMemoryError:
        raise
    except MemoryError as error:
        raise DeviceMemoryError(
            f"{what}: the system gives no more memory; this machine has {_machine_bytes():,} bytes "
            f"in all. Free some, or read a part of the state (arrays=[…])."
        ) from error


def no_room(nbytes: int, what: str) -> DeviceMemoryError:
    """The error for bytes that the machine cannot hold."""
    return DeviceMemoryError(
        f"{what}: {nbytes:,} bytes are needed, and this machine has {_machine_bytes():,} in all. "
        f"Read a part of the state (arrays=[…]), or use a larger machine."
    )
