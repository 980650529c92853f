"""A compilation as a commit."""

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mmsb_jax.programs._captured.arrays import SOURCE, array_of
from mmsb_jax.programs._captured.capture import capture
from mmsb_jax.programs._watching.compilation import Compilation

_MOST_CAUSES = 8


class _Recording(threading.local):
    """Whether this thread is about to record: who hears of the commit may compile, too."""

    is_going_on = False


_recording = _Recording()


def record(
    bus: Any, name: str, trace: Callable[[], Any] | None, compilation: Compilation
) -> int | None:
    """Commit a compilation; the version of the commit, whose note says why.

    None for one of a handler that hears of such a commit: it would hear of its own without end.

    The program is captured with it. Where that cannot be, there is a count of such compilations,
    the array ``~programs/NAME/compilations``.

    Args:
        bus: where to.
        name: of the program.
        trace: gives the `jax.stages.Traced` of the call; None where there is none: the arguments
            are mapped or differentiated.
        compilation: what is recorded.
    """
    if _recording.is_going_on:
        return None
    _recording.is_going_on = True
    try:
        return _record(bus, name, trace, compilation)
    finally:
        _recording.is_going_on = False


def _record(bus: Any, name: str, trace: Callable[[], Any] | None, compilation: Compilation) -> int:
    if trace is not None:
        return capture(bus, name, trace(), note=_note_of(name, compilation)).version
    array = array_of(name, "compilations")
    is_there = any(region.name == array for region in bus.layout.regions)
    with bus.batch(source=SOURCE, note=_note_of(name, compilation)):
        version = bus.version + 1  # a batch holds the bus
        if not is_there:
            bus.create(array, (), "int32")
        bus.write(array, np.int32(compilation.number))
    return version


def warn_of_fault(name: str, error: Exception) -> None:
    """Say that compilations of ``name`` are not recorded, and why."""
    warnings.warn(
        f"a compilation of {name} was not recorded in the bus: {type(error).__name__}: "
        f"{str(error).rstrip('.')}. This is said once; the function goes on.",
        stacklevel=5,
    )


def _note_of(name: str, compilation: Compilation) -> dict[str, Any]:
    return {
        "watched": name,
        "compilation": compilation.number,
        "what": compilation.what,
        "why": "; ".join(map(str, compilation.causes[:_MOST_CAUSES])),
        "ms": round(compilation.ms, 3),
        "site": compilation.site or "",
    }
