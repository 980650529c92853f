"""``mmsb log``: the commits, oldest first."""

from typing import Any

import click

from mmsb_jax._display.times import utc_time
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.query.commit import Commit, read_commit
from mmsb_jax._store.query.commits import COLUMNS, cells_of
from mmsb_jax.cli.common.command import LogCommand, json_option, path_argument, salvage_option, say
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import open_log, wanted_names
from mmsb_jax.cli.common.table import print_table

_LIMIT_OF_TABLE = 50


@click.command(cls=LogCommand)
@path_argument
@click.option(
    "--array",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Commits that touched such an array ('params/**'); may be given again.",
)
@click.option("--source", help="Commits of this source.")
@click.option("--since", type=int, metavar="VERSION", help="From this version on.")
@click.option("--until", type=int, metavar="VERSION", help="Up to this version, itself included.")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"The newest N of them; 0 for all. Default: {_LIMIT_OF_TABLE}, all with --json.",
)
@salvage_option
@json_option
def log(
    path: str,
    patterns: tuple[str, ...],
    source: str | None,
    since: int | None,
    until: int | None,
    limit: int | None,
    salvage: bool,
    as_json: bool,
) -> None:
    """List the commits, oldest first.

    "arrays" counts those with a changed byte, "changed" these bytes, "logged" the bytes that the
    commit takes in the log. Reads no array.
    """
    if limit is None:
        limit = 0 if as_json else _LIMIT_OF_TABLE
    with open_log(path, salvage, quiet=as_json) as opened:
        found = list(opened.select(source=source, since=since, until=until))
        if patterns:
            ids = _ids_matching(opened, patterns)
            found = [v for v in found if not ids.isdisjoint(opened.row(v).touched)]
        shown = found[-limit:] if limit else found
        durable_version = opened.durable_version
        commits = [read_commit(opened, v, lambda: durable_version) for v in shown]
    if as_json:
        listed = [describe_commit(commit) for commit in commits]
        say(to_json({"matching": len(found), "commits": listed}))
        return
    if not commits:
        say("no commits")
        return
    print_table(COLUMNS, map(cells_of, commits))
    if len(shown) < len(found):
        say(f"The newest {len(shown):,} of {len(found):,} commits; -n 0 shows all.")


def _ids_matching(opened: Log, patterns: tuple[str, ...]) -> set[int]:
    """Ids of the arrays, live or deleted, that the patterns select."""
    names = {
        op.info.id: op.info.name
        for version in opened.versions_with_ops()
        for op in opened.record(version).ops
    }
    if opened.kept_since > 1:  # what was made before is in the state that the log begins with
        made = opened.table(opened.kept_since).arrays
        names |= {array_id: info.name for array_id, info in made.items()}
    wanted = wanted_names(patterns, names.values(), "of this log")
    return {array_id for array_id, name in names.items() if wanted is None or wanted(name)}


def describe_commit(commit: Commit) -> dict[str, Any]:
    """A commit, ready for JSON."""
    return {
        "version": commit.version,
        "step": commit.step,
        "time_ns": commit.time_ns,
        "time": utc_time(commit.time_ns),
        "source": commit.source,
        "note": commit.note,
        "changed": list(commit.changed),
        "changed_bytes": commit.changed_bytes,
        "logged_bytes": commit.logged_bytes,
        "saved": commit.saved,
        "saved_arrays": list(commit.saved_arrays),
        "durable": commit.durable,
    }
