"""``"fsync"``: a commit counts once it is synced."""

from mmsb_jax._store.writer.durability.base import DurabilityStrategy


class SyncedDurability(DurabilityStrategy):
    """Survives the end of the machine."""

    form = "'fsync'"
    syncs_each = True
