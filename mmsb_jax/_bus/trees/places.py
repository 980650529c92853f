"""Places: in which memory, or on which devices, a bus puts the arrays of JAX that it makes."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Sharding, SingleDeviceSharding

from mmsb_jax._base.arguments import show
from mmsb_jax._base.errors import ArrayNotFoundError, StructureError
from mmsb_jax._base.patterns import matcher
from mmsb_jax._core.layout import array_not_found
from mmsb_jax._core.tree.leaves import LeafSpec

ArrayPlace = Sharding | str | None
"""A sharding; the memory kind of the default device; None for the default device's own."""


class Places:
    """Where arrays go, by name: the newest rule that matches.

    Args:
        memory_kind: for all of them, as for `mmsb_jax.open`.
    """

    def __init__(self, memory_kind: str | None = None) -> None:
        check_place("memory_kind", memory_kind)
        self._default: ArrayPlace = memory_kind
        self._rules: dict[str, tuple[re.Pattern[str], ArrayPlace]] = {}

    @property
    def is_default(self) -> bool:
        """Whether all go where JAX puts what it is not told."""
        return self._default is None and not self._rules

    def move(
        self, patterns: Sequence[str], place: ArrayPlace, arrays: Mapping[str, LeafSpec]
    ) -> tuple[str, ...]:
        """Let the arrays that patterns select go to a place from now on; which of ``arrays`` do.

        Raises:
            ArrayNotFoundError: a pattern that selects none.
            StructureError: one that cannot lie there. Nothing has changed.
        """
        selecting = {pattern: matcher([pattern]) for pattern in patterns}
        for pattern, selects in selecting.items():
            if not any(map(selects.fullmatch, arrays)):
                error = array_not_found(pattern, list(arrays))
                raise ArrayNotFoundError(f"arrays={pattern!r} selects nothing: {error}")
        selected = tuple(filter(matcher(list(selecting)).fullmatch, arrays))
        for name in selected:
            sharding_at(place, name, arrays[name])
        for pattern, selects in selecting.items():
            self._rules.pop(pattern, None)
            self._rules[pattern] = selects, place
        return selected

    def of(self, name: str, spec: LeafSpec) -> Sharding | None:
        """Where an array goes; None for the default.

        Raises:
            StructureError: it cannot lie there.
        """
        if self.is_default or not (spec.kind == "jax" or spec.kind.startswith("key:")):
            return None
        place = self._default
        for selects, ruled in reversed(self._rules.values()):
            if selects.fullmatch(name):
                place = ruled
                break
        return sharding_at(place, name, spec)


def sharding_at(place: ArrayPlace, name: str, spec: LeafSpec) -> Sharding | None:
    """A place as a sharding of one array; None for the default."""
    if place is None:
        return None
    if isinstance(place, str):
        return SingleDeviceSharding(_default_device(), memory_kind=place)
    shape = spec.shape[:-1] if spec.kind.startswith("key:") else spec.shape
    try:
        if len(getattr(place, "spec", ())) > len(shape):
            raise ValueError(f"its axes are of more dimensions than {len(shape)}")
        place.shard_shape(shape)
    except (ValueError, IndexError, TypeError) as error:
        raise StructureError(
            f"{name!r} is {spec}, which cannot lie in {place}: {error}. Move it elsewhere."
        ) from error
    return place


def check_place(parameter: str, place: Any) -> None:
    """Refuse what is no place here."""
    if place is None:
        return
    if isinstance(place, str):
        kinds = sorted(memory.kind for memory in _default_device().addressable_memories())
        if place not in kinds:
            raise ValueError(
                f"{parameter}={show(place)}: expected {', '.join(map(repr, kinds))}, which "
                f"{_default_device()} has"
            )
        return
    if not isinstance(place, Sharding):
        raise TypeError(
            f"{parameter}={show(place)}: expected a memory kind such as 'pinned_host', a "
            f"jax.sharding.Sharding, or None for the default device"
        )
    if not place.is_fully_addressable:
        raise ValueError(
            f"{parameter}={show(place)}: it has devices of other processes; expected devices that "
            f"are here"
        )


_DEFAULT_DEVICE = "jax_default_device"


def _default_device() -> Any:
    """The device on which JAX puts what it is not told."""
    device = getattr(jax.config, _DEFAULT_DEVICE)
    return device if isinstance(device, jax.Device) else jax.local_devices(backend=device)[0]


PlaceOf = Callable[[str, LeafSpec], Sharding | None]
"""`Places.of`."""
