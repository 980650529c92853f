"""Checkpoints of Orbax in and out, and its manager over a log.

`CheckpointManager` (in `_manager`) has the surface of Orbax's over a `Bus`;
`ManagerOptions` (`_options`) is what its options are to a log, `items_of` (`_arguments`) what its
arguments are. `from_orbax` (`_intake`) reads checkpoints into a log; `Bus.to_orbax` writes them.
"""

from mmsb_jax.orbax._manager import CheckpointManager

__all__ = ["CheckpointManager"]
