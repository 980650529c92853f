"""What this process computes with: what a step that is taken again may differ by."""

import os
import platform
from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax
import jaxlib
import numpy as np

_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")


def this_process(leaves: Iterable[Any]) -> dict[str, str]:
    """Versions, devices and settings, by name; empty texts for what is not set.

    Args:
        leaves: of a tree that is committed: where there are arrays of JAX among them, its devices
            are there to be named, and no process is made to take them.
    """
    found = {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "JAX": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        kinds = Counter(device.device_kind for device in jax.devices())
        found["platform"] = jax.default_backend()
        found["devices"] = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    for name in _SETTINGS:
        said = getattr(jax.config, name, None)
        found[name] = "" if said is None else str(said)
    return found | {name: os.environ.get(name, "") for name in _FLAGS}
