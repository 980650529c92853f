"""The durabilities there are, and which one a user has asked for."""

from mmsb_jax._base.arguments import show
from mmsb_jax._store.writer.durability.base import Durability, DurabilityStrategy
from mmsb_jax._store.writer.durability.fsync import SyncedDurability
from mmsb_jax._store.writer.durability.group import GroupedDurability
from mmsb_jax._store.writer.durability.system import SystemDurability

_STRATEGIES: tuple[type[DurabilityStrategy], ...] = (
    SystemDurability,
    SyncedDurability,
    GroupedDurability,
)


def durability_strategy(durability: Durability) -> type[DurabilityStrategy]:
    """What ``durability`` asks for.

    Raises:
        ValueError: it is none.
    """
    for strategy in _STRATEGIES:
        if strategy.takes(durability):
            return strategy
    *most, last = (strategy.form for strategy in _STRATEGIES)
    raise ValueError(f"durability={show(durability)}: expected {', '.join(most)} or {last}")
