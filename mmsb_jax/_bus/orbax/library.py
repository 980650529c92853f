"""Orbax itself, which is installed or is not."""

import importlib
from typing import Any


def import_orbax() -> Any:
    """The module ``orbax.checkpoint``."""
    try:
        return importlib.import_module("orbax.checkpoint")
    except ImportError as error:
        raise ImportError(
            f"Orbax cannot be imported ({error}). Install it: pip install 'mmsb-jax[orbax]'"
        ) from error
