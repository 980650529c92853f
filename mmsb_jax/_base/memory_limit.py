"""Room: what a log claims may be any size, what this machine can hold is not."""

import functools
import os

from mmsb_jax._base.errors import DeviceMemoryError


@functools.cache
def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_room(nbytes: int, what: str) -> None:
    """Refuse more than the memory of the machine, before anything of it is allocated."""
    if nbytes > _machine_bytes():
        raise no_room(nbytes, what)


class _Room:
    """What `room_for` returns."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Nothing is taken."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and is_out_of_memory(error):
            raise DeviceMemoryError(
                f"{self._what}: a device has no memory left ({str(error).splitlines()[0]:.200}). "
                f"Nothing has changed: free some, or put what is read elsewhere (like=, bus.move)."
            ) from error
        if isinstance(error, MemoryError) and not isinstance(error, DeviceMemoryError):
            raise DeviceMemoryError(
                f"{self._what}: the system gives no more memory; this machine has "
                f"{_machine_bytes():,} bytes in all. Free some, or read a part of the state "
                f"(arrays=[…])."
            ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no room, as the runtime of JAX says it."""
    return not isinstance(error, DeviceMemoryError) and "RESOURCE_EXHAUSTED" in str(error)


def room_for(what: str) -> _Room:
    """Inside, memory that is refused is the library's error, and says what it was for."""
    return _Room(what)


def no_room(nbytes: int, what: str) -> DeviceMemoryError:
    """The error for bytes that the machine cannot hold."""
    return DeviceMemoryError(
        f"{what}: {nbytes:,} bytes are needed, and this machine has {_machine_bytes():,} in all. "
        f"Read a part of the state (arrays=[…]), or use a larger machine."
    )
