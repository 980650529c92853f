"""Where checkpoints of Orbax lie, and of what they consist; of their files, JSON alone is read.

A checkpoint is a directory of items, each a directory; one of a single item may be the item itself.
A finished one has its final name: until then it is called ``….orbax-checkpoint-tmp…``.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmsb_jax._base.arguments import check_number, path_text, show
from mmsb_jax._base.errors import CorruptionError, LocationError, VersionError
from mmsb_jax._store.files.unreadable import unreadable

DEFAULT_ITEM = "default"
"""What Orbax calls the item of a checkpoint of which no items were named."""
METRICS_ITEM = "metrics"
TREE_ITEM = "state"
"""What this library calls the item that is the tree, beside others."""
EXTRA_ITEM = "extra"
"""What this library calls the item that is the ``extra`` of a commit."""

_UNFINISHED = ".orbax-checkpoint-tmp"
_STEP_NAME = re.compile(r"(?:.*_)?(\d+)")
_ABOUT, _TREE, _JSON = "_CHECKPOINT_METADATA", "_METADATA", "metadata"
_NO_ITEMS = {"descriptor", METRICS_ITEM}

ItemKind = Literal["tree", "json", "other"]


@dataclass(frozen=True, slots=True)
class CheckpointItem:
    """One item of a checkpoint: a pytree, JSON, or something else, which cannot come."""

    name: str
    path: Path
    kind: ItemKind


@dataclass(frozen=True, slots=True)
class CheckpointStep:
    """One finished checkpoint.

    Attributes:
        path: its directory.
        step: its number; None where its directory is not called by one.
        items: what it holds, by name.
        metrics: what was saved as its metrics; None for nothing.
        custom: its custom metadata; empty for none.
        time_ns: when it was finished; None where that is not recorded.
    """

    path: Path
    step: int | None
    items: dict[str, CheckpointItem]
    metrics: Any = None
    custom: dict[str, Any] = field(default_factory=dict)
    time_ns: int | None = None


def find_steps(src: Any, steps: Sequence[int] | None) -> list[CheckpointStep]:
    """The finished checkpoints in a directory, by step.

    Args:
        src: the directory of a manager, or one checkpoint.
        steps: those wanted; None for all.
    """
    place = _directory(src)
    found = _numbered(place)
    chosen = list(found) if steps is None else _checked_steps(place, steps, found)
    unfinished = [path for path in map(found.__getitem__, chosen) if not _is_finished(path)]
    if unfinished:
        raise LocationError(
            f"{len(unfinished)} checkpoints in {place} are not finished, or are none of Orbax: "
            f"{', '.join(path.name for path in unfinished)}. Leave them out with steps=…."
        )
    return [_read_step(found[step], step) for step in chosen]


def _directory(src: Any) -> Path:
    place = local_path("src", src)
    if not _ask(place.is_dir):
        raise LocationError(f"src={show(src)} is no directory. Give one of Orbax's checkpoints.")
    return place


def local_path(name: str, value: Any) -> Path:
    """A path as an absolute one on this machine."""
    text = path_text(name, value)
    if "://" in text:
        raise LocationError(f"{name}={show(text)} is a URL. Use a local directory, and copy it.")
    try:
        text.encode()  # Orbax takes no others
        return Path(text).expanduser().absolute()
    except UnicodeEncodeError as error:
        raise LocationError(f"{name}={show(text)} is not UTF-8. Rename the directory.") from error
    except (OSError, RuntimeError) as error:  # no such user; the working directory is gone
        raise LocationError(f"{name}={show(text)} is no path: {error}") from error


def is_there(path: Path) -> bool:
    """Whether there is anything at a path."""
    return _ask(path.exists)


def _ask(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError as error:
        raise unreadable(error, error.filename or "the path") from error


def _numbered(place: Path) -> dict[int | None, Path]:
    """The directory of each step, by step; None stands for a checkpoint that has no number."""
    if (place / _ABOUT).is_file() or (place / _TREE).is_file():
        return {_number_of(place): place}
    found: dict[int | None, Path] = {}
    for path in _directories(place):
        step = _number_of(path)
        if step in found:
            raise LocationError(
                f"{found[step].name} and {path.name} in {place} are both of step {step}. Move one "
                f"of them elsewhere."
            )
        if step is not None:
            found[step] = path
    if not found and _has_items(place):
        return {_number_of(place): place}
    if not found:
        raise LocationError(
            f"{place} holds no finished checkpoint of Orbax: neither {_ABOUT} nor {_TREE}, and no "
            f"directory that is called by a step. Give the directory of a CheckpointManager, or of "
            f"one checkpoint."
        )
    return dict(sorted(found.items()))


def _number_of(path: Path) -> int | None:
    match = _STEP_NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def _directories(place: Path) -> Iterator[Path]:
    try:
        paths = sorted(place.iterdir())
    except OSError as error:
        raise unreadable(error, place) from error
    return (path for path in paths if path.is_dir() and _UNFINISHED not in path.name)


def _has_items(place: Path) -> bool:
    return any((path / _TREE).is_file() for path in _directories(place))


def _is_finished(path: Path) -> bool:
    if _UNFINISHED in path.name:
        return False
    about = _read_json(path / _ABOUT)
    if about is None:  # an older Orbax wrote none
        return (path / _TREE).is_file() or _has_items(path)
    begun = about.get("init_timestamp_nsecs") is not None
    return not begun or about.get("commit_timestamp_nsecs") is not None


def _checked_steps(
    place: Path, steps: Sequence[int], found: dict[int | None, Path]
) -> Sequence[int | None]:
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise TypeError(f"steps={show(steps)}: expected a list of steps, such as [0, 100]")
    for step in steps:
        check_number("steps", step)
    missing = sorted(set(steps) - found.keys())
    if missing:
        there = ", ".join(map(str, found))
        raise VersionError(f"{place} has no steps {', '.join(map(str, missing))}; it has {there}.")
    return sorted(set(steps))


def _read_step(path: Path, step: int | None) -> CheckpointStep:
    about = _read_json(path / _ABOUT) or {}
    metrics = _read_json(path / METRICS_ITEM / METRICS_ITEM)
    custom = about.get("custom_metadata") or {}
    time_ns = about.get("commit_timestamp_nsecs")
    return CheckpointStep(
        path, step, _items_of(path), metrics or about.get("metrics") or None, custom, time_ns
    )


def _items_of(path: Path) -> dict[str, CheckpointItem]:
    if _kind_of(path) != "other":
        return {DEFAULT_ITEM: CheckpointItem(DEFAULT_ITEM, path, _kind_of(path))}
    paths = [inner for inner in _directories(path) if inner.name not in _NO_ITEMS]
    return {inner.name: CheckpointItem(inner.name, inner, _kind_of(inner)) for inner in paths}


def _kind_of(path: Path) -> ItemKind:
    if (path / _TREE).is_file():
        return "tree"
    return "json" if (path / _JSON).is_file() else "other"


def read_item(item: CheckpointItem) -> Any:
    """The value of an item that is JSON."""
    return _read_json(item.path / _JSON)


def leaf_kinds(item: CheckpointItem) -> dict[tuple[str, ...], str]:
    """What Orbax calls each leaf of an item that is a pytree, by the keys of its path."""
    about = _read_json(item.path / _TREE)
    return {
        tuple(str(key["key"]) for key in leaf["key_metadata"]): leaf["value_metadata"]["value_type"]
        for leaf in about["tree_metadata"].values()
    }


def _read_json(path: Path) -> Any:
    """What a file holds; None where there is none."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorruptionError(
            f"{path} is no JSON: {error} The checkpoint is damaged; leave it out with steps=…."
        ) from error
    except OSError as error:
        raise unreadable(error, path) from error
