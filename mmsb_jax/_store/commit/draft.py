"""Drafts: what a commit is asked to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mmsb_jax._store.format.record import Op

WordPatch = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Words of an array (int64[n], ascending), mask of their bytes and these bytes (uint32[n])."""

ArrayContent = np.ndarray | WordPatch
"""What an array becomes: all of its bytes (uint8[nbytes]), or what of it has changed."""


@dataclass(slots=True)
class Draft:
    """What a commit is asked to do.

    Attributes:
        ops: changes of the table of arrays, in order.
        contents: array id → what it becomes: bytes are compared with those before.
        patches: array id → what is written to single bytes of it.
        values: constants: name → tagged value, None for one that goes.
        step, source, note, time_ns: what the caller says of it (`CommitRecord`).
        extra: the caller's blob.
        extra_is_json: whether the blob is JSON.
        nonfinite: gives array id → how many of its numbers are infinite or none; None where these
            were not counted.
    """

    ops: list[Op] = field(default_factory=list)
    contents: Mapping[int, ArrayContent] = field(default_factory=dict)
    patches: dict[int, WordPatch] = field(default_factory=dict)
    values: dict[str, str | None] = field(default_factory=dict)
    step: int | None = None
    source: str = ""
    note: str = ""
    time_ns: int | None = None
    extra: bytes | None = None
    extra_is_json: bool = False
    nonfinite: Callable[[], Mapping[int, int]] | None = None
