"""Programs as state: what a jitted function was compiled to, and why it was compiled again.

`_captured` is what was compiled: `capture` logs a program, `load` gives one of any version, `diff`
says what differs between two. `_watching` is why: `watch` wraps a jitted function in a `Watched`,
which makes a `Compilation` of each call that compiles; `watch_all` hears of every function that a
thread compiles.

Public names are imported when they are first used: the command line reads programs without JAX.

>>> import jax, jax.numpy as jnp
>>> import mmsb_jax as mmsb
>>> bus, double = mmsb.open(), jax.jit(lambda x: x * 2)
>>> a, b = (mmsb.programs.capture(bus, "double", double.trace(jnp.ones(n))) for n in (4, 8))
>>> a.version, b.version, bool(mmsb.programs.diff(a, b))
(1, 2, True)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsb_jax.programs._captured.capture import capture
    from mmsb_jax.programs._captured.diff import ProgramChange, ProgramDiff, diff
    from mmsb_jax.programs._captured.load import load, names
    from mmsb_jax.programs._captured.program import Program
    from mmsb_jax.programs._captured.summary import ProgramCost, ProgramMemory
    from mmsb_jax.programs._watching.causes import Cause
    from mmsb_jax.programs._watching.compilation import Compilation, Explanation
    from mmsb_jax.programs._watching.everything import (
        CompiledFunction,
        CompiledFunctions,
        watch_all,
    )
    from mmsb_jax.programs._watching.watched import Watched, watch

_MODULES = {
    "_captured.capture": ("capture",),
    "_captured.diff": ("ProgramChange", "ProgramDiff", "diff"),
    "_captured.load": ("load", "names"),
    "_captured.program": ("Program",),
    "_captured.summary": ("ProgramCost", "ProgramMemory"),
    "_watching.causes": ("Cause",),
    "_watching.compilation": ("Compilation", "Explanation"),
    "_watching.everything": ("CompiledFunction", "CompiledFunctions", "watch_all"),
    "_watching.watched": ("Watched", "watch"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Cause",
    "Compilation",
    "CompiledFunction",
    "CompiledFunctions",
    "Explanation",
    "Program",
    "ProgramChange",
    "ProgramCost",
    "ProgramDiff",
    "ProgramMemory",
    "Watched",
    "capture",
    "diff",
    "load",
    "names",
    "watch",
    "watch_all",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'mmsb_jax.programs' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mmsb_jax.programs.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
