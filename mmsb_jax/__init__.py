"""Versioned state for JAX: every step of any pytree, bit for bit, at the price of what changed.

Public names are imported when they are first used, so that the command line and the store start
without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsb_jax._base.errors import (
        ArrayNotFoundError,
        ClosedError,
        CorruptionError,
        DeviceMemoryError,
        DigestMismatchError,
        DivergenceError,
        FormatError,
        GraphCycleError,
        InvalidDeltaError,
        KernelUnavailableError,
        LocationError,
        LockedError,
        MMSBError,
        RecompilationError,
        RecomputeError,
        StructureError,
        VersionError,
    )
    from mmsb_jax._bus.bus import Bus
    from mmsb_jax._bus.derive.derived import Derived
    from mmsb_jax._bus.engine.commit_info import CLEAR
    from mmsb_jax._bus.engine.session import Ref
    from mmsb_jax._bus.events.event_log import EventLog
    from mmsb_jax._bus.events.events import Subscription
    from mmsb_jax._bus.events.kinds import Event
    from mmsb_jax._bus.open import open
    from mmsb_jax._bus.query.bisection import Bisection
    from mmsb_jax._bus.replica.replica import Replica
    from mmsb_jax._bus.saving.keep import Best, Keep, KeepPolicy
    from mmsb_jax._bus.saving.policy import (
        AtMost,
        Every,
        Moment,
        OnPreemption,
        OnSignal,
        Saved,
        SavePolicy,
    )
    from mmsb_jax._bus.weights.load import from_safetensors
    from mmsb_jax._bus.weights.publisher import Published, Publisher
    from mmsb_jax._core.delta import Delta, apply, compose, diff, invert
    from mmsb_jax._core.digest import digest, update_digest
    from mmsb_jax._core.layout import Layout
    from mmsb_jax._core.pages import Pages
    from mmsb_jax._core.region import Region
    from mmsb_jax._core.replay import replay
    from mmsb_jax._core.table.page_table import PageTable
    from mmsb_jax._core.tlog import TLog
    from mmsb_jax._graph.dag.graph import PageGraph
    from mmsb_jax._graph.wave.compiled import CompiledWave, WaveResult
    from mmsb_jax._store.query.commit import Commit
    from mmsb_jax.orbax._intake import from_orbax

_MODULES = {
    "_base.errors": (
        "ArrayNotFoundError",
        "ClosedError",
        "CorruptionError",
        "DeviceMemoryError",
        "DigestMismatchError",
        "DivergenceError",
        "FormatError",
        "GraphCycleError",
        "InvalidDeltaError",
        "KernelUnavailableError",
        "LocationError",
        "LockedError",
        "MMSBError",
        "RecompilationError",
        "RecomputeError",
        "StructureError",
        "VersionError",
    ),
    "_bus.bus": ("Bus",),
    "_bus.engine.commit_info": ("CLEAR",),
    "_bus.derive.derived": ("Derived",),
    "_bus.events.event_log": ("EventLog",),
    "_bus.events.events": ("Subscription",),
    "_bus.events.kinds": ("Event",),
    "_bus.open": ("open",),
    "_bus.query.bisection": ("Bisection",),
    "_bus.replica.replica": ("Replica",),
    "_bus.weights.load": ("from_safetensors",),
    "_bus.weights.publisher": ("Published", "Publisher"),
    "_core.delta": ("Delta", "apply", "compose", "diff", "invert"),
    "_core.digest": ("digest", "update_digest"),
    "_bus.engine.session": ("Ref",),
    "_bus.saving.keep": ("Best", "Keep", "KeepPolicy"),
    "_bus.saving.policy": (
        "AtMost",
        "Every",
        "Moment",
        "OnPreemption",
        "OnSignal",
        "SavePolicy",
        "Saved",
    ),
    "_core.layout": ("Layout",),
    "_core.pages": ("Pages",),
    "_core.region": ("Region",),
    "_core.replay": ("replay",),
    "_core.table.page_table": ("PageTable",),
    "_core.tlog": ("TLog",),
    "_graph.dag.graph": ("PageGraph",),
    "_graph.wave.compiled": ("CompiledWave", "WaveResult"),
    "_store.query.commit": ("Commit",),
    "orbax._intake": ("from_orbax",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "CLEAR",
    "ArrayNotFoundError",
    "AtMost",
    "Best",
    "Bisection",
    "Bus",
    "ClosedError",
    "Commit",
    "CompiledWave",
    "CorruptionError",
    "Delta",
    "Derived",
    "DeviceMemoryError",
    "DigestMismatchError",
    "DivergenceError",
    "Event",
    "EventLog",
    "Every",
    "FormatError",
    "GraphCycleError",
    "InvalidDeltaError",
    "Keep",
    "KeepPolicy",
    "KernelUnavailableError",
    "Layout",
    "LocationError",
    "LockedError",
    "MMSBError",
    "Moment",
    "OnPreemption",
    "OnSignal",
    "PageGraph",
    "PageTable",
    "Pages",
    "Published",
    "Publisher",
    "RecompilationError",
    "RecomputeError",
    "Ref",
    "Region",
    "Replica",
    "SavePolicy",
    "Saved",
    "StructureError",
    "Subscription",
    "TLog",
    "VersionError",
    "WaveResult",
    "apply",
    "compose",
    "diff",
    "digest",
    "from_orbax",
    "from_safetensors",
    "invert",
    "open",
    "replay",
    "update_digest",
]


_PACKAGES = ("algebra", "kernels", "orbax", "programs", "testing")


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
