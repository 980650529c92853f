"""safetensors: one file of raw arrays."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mmsb_jax.bench.measure import Work


@contextlib.contextmanager
def save(folder: Path, states: Iterable[Any]) -> Iterator[Work]:
    """A file of the next of ``states``, synced."""
    turn = iter(states)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name, "state.safetensors")

        def run() -> None:
            save_file({name: np.asarray(x) for name, x in next(turn).items()}, path)
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

        yield Work("safetensors + fsync", run)
