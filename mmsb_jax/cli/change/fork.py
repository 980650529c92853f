"""``mmsb fork``: a log of its own that shares its history with another, up to a version."""

import click

from mmsb_jax._display.text import printable
from mmsb_jax._store.files.local import check_local
from mmsb_jax._store.maintain.fork import fork_log, surely_durable
from mmsb_jax._store.writer.create import new_log
from mmsb_jax.cli.common.command import (
    PATH,
    LogCommand,
    json_option,
    path_argument,
    salvage_option,
    say,
    version_options,
)
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import find_version, open_log


@click.command(cls=LogCommand)
@path_argument
@click.argument("new", type=PATH)
@version_options
@click.option(
    "--share",
    type=click.Choice(["auto", "never"]),
    default="auto",
    help="Whether files that are never written again may be the same in both.",
)
@salvage_option
@json_option
def fork(
    path: str,
    new: str,
    version: int | str | None,
    step: int | None,
    time_ns: int | None,
    share: str,
    salvage: bool,
    as_json: bool,
) -> None:
    """Make at NEW a log that goes on behind a version.

    The two logs do not need each other: either may be removed. Files that no log writes again are
    shared where the disk can, by their blocks or by a hard link, and so is damage to them;
    "--share never" and --salvage copy them. NEW must not exist, or be an empty directory.
    """
    target = check_local(new)
    with open_log(path, salvage, quiet=as_json) as opened:
        found = find_version(opened, version, step, time_ns)
        if found != 0:
            opened.part_of(found)
            opened.check_state(found)
        with new_log(target) as files:
            is_shared = share == "auto" and not salvage
            fork_log(opened, found, files, surely_durable(opened) if is_shared else None)
    if as_json:
        say(to_json({"version": found, "path": str(target)}))
    else:
        say(f"{printable(str(target))} goes on behind version {found}")
