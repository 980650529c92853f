"""What a bus says of its derived arrays."""

from dataclasses import dataclass
from typing import Literal

from mmsb_jax._graph.run.node import When

Mode = Literal["immediate", "deferred"]


@dataclass(frozen=True, slots=True)
class Derived:
    """What a bus knows of a derived array.

    Attributes:
        name: what it is called.
        inputs: the names and patterns that it is made from.
        reads: the arrays that these stand for now.
        arrays: the arrays that it makes: one of its own name, or one a leaf of what the function
            returns.
        function: qualified name of the function.
        is_attached: whether the function is here; it cannot be stored.
        when: computed with each commit, or when read.
        is_stale: whether an input has changed since it was computed.
        runs: how often its function has run in this process.
        function_version: the commit from which on its function does what it does: another function,
            or other shapes of what it reads, make a new one; attaching the same one again does not.
            Where it is stale, its value may be older. None where the log does not say, since an
            earlier version of this library derived it.
    """

    name: str
    inputs: tuple[str, ...]
    reads: tuple[str, ...]
    arrays: tuple[str, ...]
    function: str
    is_attached: bool
    when: When
    is_stale: bool
    runs: int
    function_version: int | None
