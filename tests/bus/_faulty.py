"""A bus on other files than those of `mmsb.open`."""

import mmsb_jax as mmsb
from mmsb_jax.bus._engine import Engine
from mmsb_jax.store._files import Files
from mmsb_jax.store._log import Log


def open_on(files: Files, durability: str = "os", snapshots: bool = True) -> mmsb.Bus:
    """The bus of the log in ``files``."""
    log = Log(files, "the log")
    return mmsb.Bus(log, Engine(files, log, None, durability, snapshots), files, None)
