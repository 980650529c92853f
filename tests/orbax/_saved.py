"""Checkpoints that Orbax writes, by each of its ways."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import orbax.checkpoint.experimental.v1 as ocp_v1


def by_manager(place: Path, trees: Mapping[int, Any], **options: Any) -> Path:
    """As a loop with a `CheckpointManager` saves: one item without a name, and metrics."""
    options = {"best_fn": lambda metrics: metrics["loss"], **options}
    with ocp.CheckpointManager(place, options=ocp.CheckpointManagerOptions(**options)) as manager:
        for step, tree in trees.items():
            manager.save(
                step,
                args=ocp.args.PyTreeSave(tree),
                metrics={"loss": 1.0 / (1 + step)},
                custom_metadata={"run": "a"},
            )
    return place


def by_items(place: Path, steps: Mapping[int, Mapping[str, Any]]) -> Path:
    """Items by name: what is called ``…_json`` is JSON."""
    with ocp.CheckpointManager(place) as manager:
        for step, items in steps.items():
            saved = {
                name: (ocp.args.JsonSave if name.endswith("_json") else ocp.args.PyTreeSave)(value)
                for name, value in items.items()
            }
            manager.save(step, args=ocp.args.Composite(**saved), force=True)
    return place


def by_v1(place: Path, trees: Mapping[int, Any]) -> Path:
    """As a loop with the newer API saves."""
    with warnings.catch_warnings(), ocp_v1.training.Checkpointer(place) as saver:
        warnings.simplefilter("ignore", DeprecationWarning)
        for step, tree in trees.items():
            saver.save_pytree(
                step, tree, metrics={"loss": 1.0 / (1 + step)}, custom_metadata={"run": "a"}
            )
    return place


def one(place: Path, tree: Any) -> Path:
    """A checkpoint alone."""
    with ocp.PyTreeCheckpointer() as saver:
        saver.save(place, tree)
    return place


def one_by_v1(place: Path, tree: Any) -> Path:
    """A checkpoint alone, by the newer API."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        ocp_v1.save_pytree(place, tree)
    return place


def restored(place: Path, step: int, like: Any = None) -> Any:
    """What Orbax's own manager gives of a checkpoint of one item."""
    with ocp.CheckpointManager(place) as manager:
        return manager.restore(step, args=ocp.args.StandardRestore(like))
