"""Versioned state for JAX: every step of any pytree, bit for bit, at the price of what changed.

Public names are imported when they are first used, so that the command line and the store start
without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsb_jax._errors import (
        ArrayNotFoundError,
        ClosedError,
        CorruptionError,
        DeviceMemoryError,
        DivergenceError,
        FormatError,
        GraphCycleError,
        InvalidDeltaError,
        LocationError,
        LockedError,
        MMSBError,
        RecomputeError,
        StructureError,
        VersionError,
    )
    from mmsb_jax.bus._bus import Bus
    from mmsb_jax.bus._commit import CLEAR
    from mmsb_jax.bus._deriving import Derived
    from mmsb_jax.bus._event_log import EventLog
    from mmsb_jax.bus._events import Event, Subscription
    from mmsb_jax.bus._open import open
    from mmsb_jax.bus._replica import Replica
    from mmsb_jax.core._delta import Delta, apply, compose, diff, invert
    from mmsb_jax.core._digest import digest, update_digest
    from mmsb_jax.core._layout import Layout
    from mmsb_jax.core._pages import Pages
    from mmsb_jax.core._region import Region
    from mmsb_jax.core._replay import replay
    from mmsb_jax.core._tlog import TLog
    from mmsb_jax.graph._graph import PageGraph
    from mmsb_jax.store._commit import Commit

_MODULES = {
    "_errors": (
        "ArrayNotFoundError",
        "ClosedError",
        "CorruptionError",
        "DeviceMemoryError",
        "DivergenceError",
        "FormatError",
        "GraphCycleError",
        "InvalidDeltaError",
        "LocationError",
        "LockedError",
        "MMSBError",
        "RecomputeError",
        "StructureError",
        "VersionError",
    ),
    "bus._bus": ("Bus",),
    "bus._commit": ("CLEAR",),
    "bus._deriving": ("Derived",),
    "bus._event_log": ("EventLog",),
    "bus._events": ("Event", "Subscription"),
    "bus._open": ("open",),
    "bus._replica": ("Replica",),
    "core._delta": ("Delta", "apply", "compose", "diff", "invert"),
    "core._digest": ("digest", "update_digest"),
    "core._layout": ("Layout",),
    "core._pages": ("Pages",),
    "core._region": ("Region",),
    "core._replay": ("replay",),
    "core._tlog": ("TLog",),
    "graph._graph": ("PageGraph",),
    "store._commit": ("Commit",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "CLEAR",
    "ArrayNotFoundError",
    "Bus",
    "ClosedError",
    "Commit",
    "CorruptionError",
    "Delta",
    "Derived",
    "DeviceMemoryError",
    "DivergenceError",
    "Event",
    "EventLog",
    "FormatError",
    "GraphCycleError",
    "InvalidDeltaError",
    "Layout",
    "LocationError",
    "LockedError",
    "MMSBError",
    "PageGraph",
    "Pages",
    "RecomputeError",
    "Region",
    "Replica",
    "StructureError",
    "Subscription",
    "TLog",
    "VersionError",
    "apply",
    "compose",
    "diff",
    "digest",
    "invert",
    "open",
    "replay",
    "update_digest",
]


_PACKAGES = ("algebra", "testing")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"mmsb_jax.{name}")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'mmsb_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mmsb_jax.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
