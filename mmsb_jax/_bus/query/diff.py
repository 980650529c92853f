"""What differs between two versions, and the delta that leads from one to the other."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import jax.numpy as jnp
import numpy as np

from mmsb_jax._base.errors import ClosedError, StructureError
from mmsb_jax._core.delta import Delta, diff
from mmsb_jax._core.layout import Layout
from mmsb_jax._core.pages import Pages
from mmsb_jax._core.settings import any_settings
from mmsb_jax._store.query.diff import StateDiff
from mmsb_jax._store.state.state import StoredState


@dataclass(frozen=True, kw_only=True)
class VersionDiff(StateDiff):
    """A `StateDiff` that can also be applied.

    ``bus.apply(bus.diff(a, b).delta)`` brings a bus that stands at ``a`` to the bytes of ``b``,
    which may be a version of another log.
    It can be pickled, with its delta where that has been asked for.
    """

    _make_delta: Callable[[], Delta] = field(repr=False, compare=False)

    @functools.cached_property
    def delta(self) -> Delta:
        """The delta from the first version to the second, in the rows of ``bus.layout``.

        Raises:
            StructureError: arrays were made, deleted or resized between the two, which no delta
                can say; or are not there any more.

        Cost: the bytes of the arrays, twice.
        """
        return self._make_delta()

    def __copy__(self) -> "VersionDiff":
        return self  # it does not change

    def __deepcopy__(self, memo: dict[int, Any]) -> "VersionDiff":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (_said_by(self), self.__dict__.get("delta"))


def _unpickled(said: dict[str, Any], delta: Delta | None) -> VersionDiff:
    """A difference from its pickle."""

    def make_delta() -> Delta:
        if delta is None:
            raise ClosedError(
                "this difference was unpickled, and its delta is made from a log. Open that and "
                "ask bus.diff again, or ask for .delta before it is pickled."
            )
        return delta

    return VersionDiff(**said, _make_delta=make_delta)


def _said_by(found: StateDiff) -> dict[str, Any]:
    return {f.name: getattr(found, f.name) for f in fields(StateDiff)}


def version_diff(
    found: StateDiff,
    states: Callable[[], tuple[StoredState, StoredState]],
    layout: Callable[[], Layout],
) -> VersionDiff:
    """``found`` with its delta, which is made when it is asked for."""
    return VersionDiff(**_said_by(found), _make_delta=lambda: _delta(*states(), layout()))


def _delta(old: StoredState, new: StoredState, layout: Layout) -> Delta:
    pools = []
    for state in (old, new):
        pool = np.zeros((layout.pages, layout.page_words), np.uint32)
        table = state.table
        regions = {region.name: region for region in layout.regions}
        for info in table.arrays.values():
            region = regions.get(info.name)
            if region is None or region.nbytes != info.nbytes:
                raise StructureError(
                    f"{info.name!r} is not at version {table.version} what it is now, and a delta "
                    f"cannot make, delete or resize arrays. Check both versions out instead."
                )
            rows = pool[region.page : region.page + region.pages]
            rows.reshape(-1).view(np.uint8)[: info.nbytes] = state.bytes_of(info.id)
        pools.append(pool)
    if old.table.ids.keys() != new.table.ids.keys():
        raise StructureError(
            f"versions {old.table.version} and {new.table.version} do not have the same arrays, "
            f"and a delta cannot make or delete arrays. Check both versions out instead."
        )
    with any_settings():
        zeros = jnp.zeros(layout.pages, jnp.uint32)
        old_pages, new_pages = (Pages(jnp.asarray(pool), zeros) for pool in pools)
        return diff(old_pages, new_pages)
