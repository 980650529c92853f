"""``"os"``: a commit counts once the system has its bytes, and syncs them when it likes."""

from mmsb_jax._store.writer.durability.base import DurabilityStrategy


class SystemDurability(DurabilityStrategy):
    """Survives the end of the process."""

    form = "'os'"
