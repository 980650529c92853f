"""The exception tree. Every error says what arrived, what was expected, and what to do."""

from collections.abc import Mapping
from typing import Any


def _public(module: str) -> str:
    """Where users find what is in a module: so that a traceback says ``mmsb_jax.VersionError``."""
    return module.partition("._")[0] if module.startswith("mmsb_jax.") else module


class MMSBError(Exception):
    """Base of every error that this library raises on purpose."""

    __module__ = _public(__name__)

    def __init_subclass__(cls) -> None:
        cls.__module__ = _public(cls.__module__)


class ArrayNotFoundError(MMSBError, KeyError):
    """A name that no array has (or had, at the version asked for)."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which makes a sentence unreadable.
        return str(self.args[0]) if self.args else ""


class StructureError(MMSBError, ValueError):
    """A tree, shape, dtype or leaf that differs from what is recorded, or cannot be recorded."""


class InvalidDeltaError(MMSBError, ValueError):
    """A delta that does not fit the arrays it is meant for, or that overflowed its capacity."""


class DeviceMemoryError(MMSBError, MemoryError):
    """The device or the host has no room for what was asked."""


class KernelUnavailableError(MMSBError, RuntimeError):
    """A kernel for the GPU that was asked for by name, and cannot be had here."""


class LocationError(MMSBError, OSError):
    """A path that cannot hold a log: a URL, a network file system, no permission, not a log.

    ``errno`` is that of the system, where it refused; the text says what it means.
    """

    def __str__(self) -> str:
        # OSError puts its number before the sentence.
        return str(self.args[-1]) if self.args else ""


class FormatError(MMSBError, ValueError):
    """A log written by a newer format, or with a feature that this version must not ignore."""


class CorruptionError(MMSBError):
    """Bytes that were written durably and do not read back as they were written."""


class GraphCycleError(MMSBError, ValueError):
    """An edge that would close a cycle; the message shows the cycle."""


class RecomputeError(MMSBError):
    """A derived array whose function failed; the message names the array and the function."""


class RecompilationError(MMSBError, RuntimeError):
    """A watched function that has compiled more often than it may.

    Attributes:
        name: the function's.
        max_compiles: how often it may compile.
        compilations: each with its causes, the newest last.
    """

    def __init__(self, name: str, max_compiles: int, compilations: tuple[Any, ...]) -> None:
        super().__init__(name, max_compiles, compilations)
        self.name, self.max_compiles, self.compilations = name, max_compiles, compilations

    def __str__(self) -> str:
        times = "once" if self.max_compiles == 1 else f"{self.max_compiles:,} times"
        lines = [f"  {each}" for each in self.compilations[-8:]]
        advice = dict.fromkeys(text for each in self.compilations for text in each.advice)
        return "\n".join(
            [
                f"{self.name} was to compile {times} at most, and has compiled again:",
                *lines,
                *(f"  advice: {text}" for text in advice),
            ]
        )


class LockedError(MMSBError):
    """Another live process is writing this log; the message names it."""


class ClosedError(MMSBError):
    """A bus that was closed, poisoned by a failed write, or inherited through a fork."""


class DivergenceError(MMSBError, ValueError):
    """Two histories that are not one: commits that do not continue those that are here."""


class VersionError(MMSBError, LookupError):
    """A version, step or time that the log does not have; the message names the nearest."""


class DigestMismatchError(MMSBError, ValueError):
    """A step that was taken again, and gives another state than the one that is recorded.

    Attributes:
        version: the version whose digests it does not give.
        step: the step of that commit; None where it has none.
        arrays: the names of the arrays that differ.
        then, now: what is known of the process that made the version, and that is other in this
            one, by name: versions of JAX and jaxlib, devices, flags.
    """

    def __init__(
        self,
        version: int,
        step: int | None,
        arrays: tuple[str, ...],
        then: Mapping[str, str] | None = None,
        now: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(version, step, arrays, then, now)
        self.version, self.step, self.arrays = version, step, arrays
        self.then, self.now = dict(then or {}), dict(now or {})

    def __str__(self) -> str:
        what = f"version {self.version}" if self.step is None else f"step {self.step}"
        first = ", ".join(self.arrays[:8])
        more = f" and {len(self.arrays) - 8} more" if len(self.arrays) > 8 else ""
        return (
            f"{what} taken again gives other bytes than were recorded (version {self.version}), of "
            f"{len(self.arrays)} arrays: {first}{more}. {self._cause()}"
        )

    def _cause(self) -> str:
        if not self.then:
            return (
                "The function depends on more than its arguments, or is another than it was; or "
                "the machine, JAX or XLA's flags are."
            )
        told = ", ".join(
            f"{name} {was or 'not set'}, now {self.now.get(name) or 'not set'}"
            for name, was in self.then.items()
        )
        return f"It was made by another process: {told}. Or the function is another than it was."
