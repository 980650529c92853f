"""``mmsb usage``: what each array, or part of the tree, takes on disk."""

from collections import Counter
from typing import Any

import click

from mmsb_jax._store.format.names import LOG_FOLDER, MANIFEST_NAME, SNAPSHOT_FOLDER
from mmsb_jax._store.format.record import EXTRA_ID
from mmsb_jax._store.log.log import Log
from mmsb_jax.cli.common.command import LogCommand, json_option, path_argument, salvage_option, say
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import open_log
from mmsb_jax.cli.common.table import print_table

_COLUMNS = ("array", "records", "stored", "share")


@click.command(cls=LogCommand)
@path_argument
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    metavar="N",
    help="Sum up what has the first N keys of its path in common: 1 for parts of the tree.",
)
@salvage_option
@json_option
def usage(path: str, depth: int | None, salvage: bool, as_json: bool) -> None:
    """Show what each array takes on disk, the largest first, and what the rest of the log does.

    "stored" are its bytes in the commits that are kept in full; "rest of commits" is what these
    say, and their frames. Files that forks share count whole. Reads no array.
    """
    with open_log(path, salvage, quiet=as_json) as opened:
        found = _usage(opened, depth)
    if as_json:
        say(to_json(found))
        return
    whole = max(1, found["bytes"])
    rows: list[tuple[object, ...]] = [
        (
            entry["name"],
            entry["records"],
            entry["stored_bytes"],
            f"{entry['stored_bytes'] / whole:.1%}",
        )
        for entry in found["arrays"]
    ]
    for name, key in _OTHERS:
        if found[key]:
            rows.append((f"({name})", None, found[key], f"{found[key] / whole:.1%}"))
    print_table(_COLUMNS, rows)
    say(f"{found['bytes']:,} bytes in all")


_OTHERS = (
    ("extra", "extra_bytes"),
    ("rest of commits", "rest_bytes"),
    ("snapshots", "snapshot_bytes"),
    ("archives", "archive_bytes"),
    ("indexes and manifest", "other_bytes"),
)


def _usage(log: Log, depth: int | None) -> dict[str, Any]:
    stored, records = Counter[str](), Counter[str]()
    extra = 0
    for version in range(log.kept_since, log.version + 1):
        for array_id, nbytes, _ in log.record(version).stored():
            if array_id == EXTRA_ID:
                extra += nbytes
                continue
            name = _prefix(log.name_of(array_id), depth)
            stored[name] += nbytes
            records[name] += 1
    sizes = {
        name: log.files.size(name)
        for name in (*log.files.names(LOG_FOLDER), *log.files.names(SNAPSHOT_FOLDER), MANIFEST_NAME)
    }
    segments = sum(log.files.size(piece.segment.name) for piece in log.pieces)
    snapshots = sum(size for name, size in sizes.items() if name.startswith(SNAPSHOT_FOLDER))
    archives = sum(sizes.get(archive.entry.name, 0) for archive in log.view.archives)
    whole = sum(sizes.values())
    return {
        "bytes": whole,
        "arrays": [
            {"name": name, "records": records[name], "stored_bytes": nbytes}
            for name, nbytes in sorted(stored.items(), key=lambda item: (-item[1], item[0]))
        ],
        "extra_bytes": extra,
        "rest_bytes": segments - extra - sum(stored.values()),
        "snapshot_bytes": snapshots,
        "archive_bytes": archives,
        "other_bytes": whole - segments - snapshots - archives,
    }


def _prefix(name: str, depth: int | None) -> str:
    """The first keys of a path; all of it for None."""
    return name if depth is None else "/".join(name.split("/")[:depth])
