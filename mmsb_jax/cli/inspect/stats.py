"""``mmsb stats``: what a log holds, and what it takes."""

from collections.abc import Callable
from typing import Any

import click

from mmsb_jax._display.text import printable
from mmsb_jax._display.times import local_time
from mmsb_jax._store.format.chain import OPEN
from mmsb_jax._store.format.names import snapshot_name
from mmsb_jax._store.log.log import Log
from mmsb_jax.cli.common.command import LogCommand, json_option, path_argument, salvage_option, say
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import open_log
from mmsb_jax.cli.common.table import print_facts


@click.command(cls=LogCommand)
@path_argument
@salvage_option
@json_option
def stats(path: str, salvage: bool, as_json: bool) -> None:
    """Show what the log holds, and what it takes on disk.

    Reads no array.
    """
    with open_log(path, salvage, quiet=True) as opened:
        found = _stats(opened)
    if as_json:
        say(to_json(found))
    else:
        _print(found)


def _stats(opened: Log) -> dict[str, Any]:
    table, manifest = opened.table(opened.version), opened.manifest
    indexes = [opened.index_of(part) for part in opened.parts]
    steps = [int(step) for index in indexes for step in index.steps()]
    ends = (opened.first_version, opened.version) if opened.version else ()
    times = [opened.row(version).time_ns for version in ends]
    snapshots = opened.snapshots()
    return {
        "path": opened.place,
        "log_id": manifest.ids.own.hex(),
        "created_ns": manifest.created_ns,
        "forked_from": [
            {"log_id": log_id.hex(), "last_version": None if last == OPEN else last}
            for log_id, last in manifest.ids.lineage
        ],
        "page_bytes": manifest.page_bytes,
        "first_version": opened.first_version,
        "version": opened.version,
        "durable_version": opened.durable_version,
        "first_time_ns": min(times, default=None),
        "last_time_ns": max(times, default=None),
        "least_step": min(steps, default=None),
        "largest_step": max(steps, default=None),
        "arrays": len(table.arrays),
        "constants": len(table.values),
        "state_bytes": sum(info.nbytes for info in table.arrays.values()),
        "logged_bytes": sum(index.logged_bytes() for index in indexes),
        "segments": len(opened.pieces),
        "segment_bytes": sum(opened.files.size(piece.segment.name) for piece in opened.pieces),
        "kept_since": opened.kept_since,
        "archive_bytes": sum(opened.files.size(a.entry.name) for a in opened.view.archives),
        "tags": opened.tags(),
        "snapshots": snapshots,
        "snapshot_bytes": sum(opened.files.size(snapshot_name(v)) for v in snapshots),
        "recovered": opened.recovered,
    }


def _print(found: dict[str, Any]) -> None:
    versions = found["version"] and found["version"] - found["first_version"] + 1
    copies = found["state_bytes"] * versions
    of_copies = copies and f", {found['logged_bytes'] / copies:.2%} of {versions:,} full copies"
    fork = found["forked_from"][-1] if found["forked_from"] else None
    facts: dict[str, object] = {
        "log": found["path"],
        "id": found["log_id"],
        "created": local_time(found["created_ns"]),
        "forked": fork and _show_origin(**fork),
        "versions": f"{found['first_version']:,} to {found['version']:,}" if versions else "none",
        "kept": f"in full from {found['kept_since']:,} on" if found["archive_bytes"] else None,
        "tags": ", ".join(f"{n} ({v:,})" for n, v in found["tags"].items()) or None,
        "durable": f"up to {found['durable_version']:,}" if versions else None,
        "steps": _span(found["least_step"], found["largest_step"], "{:,}".format),
        "times": _span(found["first_time_ns"], found["last_time_ns"], local_time),
        "arrays": found["arrays"],
        "constants": found["constants"] or None,
        "state": f"{found['state_bytes']:,} bytes in pages of {found['page_bytes']:,}",
        "logged": f"{found['logged_bytes']:,} bytes{of_copies or ''}",
        "segments": f"{found['segments']:,}, {found['segment_bytes']:,} bytes",
        "snapshots": f"{len(found['snapshots']):,}, {found['snapshot_bytes']:,} bytes",
    }
    print_facts(facts)
    for note in found["recovered"]:
        say(f"note: {printable(note)}")


def _show_origin(log_id: str, last_version: int | None) -> str:
    if last_version is None:
        return f"from {log_id}, whose commits it takes in"
    return f"behind version {last_version} of {log_id}"


def _span(first: int | None, last: int | None, show: Callable[[int], str]) -> str | None:
    return None if first is None or last is None else f"{show(first)} to {show(last)}"
