"""What the demo reads from a log: costs, accuracies, and whether two runs are the same."""

import hashlib
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsb_jax import Bus
from mmsb_jax.demo import _training as training

Contents = dict[str, tuple[str, bytes]]


@dataclass(frozen=True)
class Cost:
    """What the commits of a run take in its log.

    Attributes:
        state_bytes: bytes of a full copy.
        logged: bytes that each version takes; the first is a full copy.
        changed: bytes that differ from the version before, for each version but the first.
    """

    state_bytes: int
    logged: list[int]
    changed: list[int]

    @classmethod
    def of(cls, bus: Bus) -> "Cost":
        """The cost of all versions of a log."""
        commits = list(bus.log())
        logged = [commit.logged_bytes for commit in commits]
        changed = [commit.changed_bytes for commit in commits[1:]]
        return cls(bus.stats().state_bytes, logged, changed)

    @property
    def logged_bytes(self) -> int:
        """Bytes of the whole log's commits."""
        return sum(self.logged)

    @property
    def full_bytes(self) -> int:
        """Bytes of as many full copies."""
        return self.state_bytes * len(self.logged)

    @property
    def changed_share(self) -> float:
        """Median share of the bytes that change in a step."""
        return statistics.median(self.changed) / self.state_bytes


@dataclass(frozen=True)
class Curve:
    """Accuracies of a run at some of its versions."""

    versions: list[int]
    accuracies: list[float]

    @classmethod
    def of(cls, bus: Bus, versions: Iterable[int], dtype: Any = jnp.float32) -> "Curve":
        """The accuracy of the parameters at each version, from the log alone."""
        chosen = list(versions)
        like = training.start(training.adam(), dtype)["params"]
        accuracy = training.make_accuracy(training.load()[1])
        found = (bus.checkout(version=v, arrays=["params/**"], like=like) for v in chosen)
        return cls(chosen, [accuracy(params) for params in found])


def contents(bus: Bus) -> Contents:
    """(type, bytes) of every leaf of the newest version, by name, and of what stood beside it."""
    found = {name: (_type_of(leaf), _bytes_of(leaf)) for name, leaf in bus.tree().items()}
    (newest,) = bus.log(since=bus.version)
    return found | {"(extra)": ("JSON", json.dumps(newest.extra).encode())}


def differing(one: Contents, other: Contents) -> list[str]:
    """Names whose types or bytes are not the same."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def sha256(state: Contents) -> str:
    """A digest of all names, types and bytes."""
    digest = hashlib.sha256()
    for name, (kind, data) in sorted(state.items()):
        digest.update(f"{name}\0{kind}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _type_of(leaf: Any) -> str:
    dtype = getattr(leaf, "dtype", None)
    return type(leaf).__name__ if dtype is None else f"{dtype}{list(np.shape(leaf))}"


def _bytes_of(leaf: Any) -> bytes:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()
