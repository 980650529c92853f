"""``mmsb diff``: what differs between two versions."""

import click

from mmsb_jax._store.query.diff import StateDiff, diff_versions
from mmsb_jax.cli.common.command import (
    NO,
    VERSION,
    LogCommand,
    arrays_option,
    json_option,
    path_argument,
    salvage_option,
    say,
)
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import find_version, open_log, wanted_names
from mmsb_jax.cli.common.table import print_table


@click.command(cls=LogCommand)
@path_argument
@click.argument("old", metavar="A", type=VERSION)
@click.argument("new", metavar="B", type=VERSION)
@arrays_option
@click.option("--exit-code", is_flag=True, help="Exit with 1 when anything differs.")
@salvage_option
@json_option
@click.pass_context
def diff(
    ctx: click.Context,
    path: str,
    old: int | str,
    new: int | str,
    patterns: tuple[str, ...],
    exit_code: bool,
    salvage: bool,
    as_json: bool,
) -> None:
    """Show by array what differs from version A to version B.

    Each is a number or a tag; version 0 is the empty state. "non-finite" counts infinities and NaNs
    in A and in B, for arrays of floating-point numbers. Reads the arrays that were touched between
    the two, and checks their digests.
    """
    with open_log(path, salvage, quiet=as_json) as opened:
        before, after = (find_version(opened, version) for version in (old, new))
        names = (
            info.name
            for version in ((before, after) if patterns else ())
            for info in opened.table(version).arrays.values()
        )
        wanted = wanted_names(patterns, names, f"at version {before} or {after}")
        found = diff_versions(opened, before, after, wanted)
    if as_json:
        say(to_json(found.to_dict()))
    else:
        _print(found)
    if found and exit_code:
        ctx.exit(NO)


def _print(found: StateDiff) -> None:
    say(found.summary())
    if found.arrays:
        print_table(found.COLUMNS, [array.row() for array in found.arrays])
    for value in found.values:
        say(str(value))
