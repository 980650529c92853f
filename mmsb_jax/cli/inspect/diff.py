"""``mmsb diff``: what differs between two versions, or two runs."""

import click

from mmsb_jax._display.text import printable
from mmsb_jax._store.query.diff import StateDiff, diff_logs, diff_versions
from mmsb_jax._store.query.finding import first_divergence
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
@click.argument("new", metavar="[B]", type=VERSION, required=False)
@arrays_option
@click.option("--exit-code", is_flag=True, help="Exit with 1 when anything differs.")
@salvage_option
@json_option
@click.pass_context
def diff(
    ctx: click.Context,
    path: str,
    old: int | str,
    new: int | str | None,
    patterns: tuple[str, ...],
    exit_code: bool,
    salvage: bool,
    as_json: bool,
) -> None:
    """Show by array what differs from version A to version B; or, of two runs, where they part.

    \b
      mmsb diff RUN A B     two versions of a log
      mmsb diff RUN1 RUN2   the first step at which the trees of two logs differ, and how

    A version is a number or a tag; version 0 is the empty state. "non-finite" counts infinities and
    NaNs in A and in B, for arrays of floating-point numbers. Reads the arrays that may differ, and
    checks their digests; where two runs part is found by digests alone.
    """
    if new is None:
        if isinstance(old, int):
            raise click.UsageError("give the other version, or the path of another log")
        if _diff_runs(path, old, patterns, salvage, as_json) and exit_code:
            ctx.exit(NO)
        return
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


def _diff_runs(
    path: str, other: str, patterns: tuple[str, ...], salvage: bool, as_json: bool
) -> bool:
    """Show where two runs part; whether they do."""
    with open_log(path, salvage, as_json) as ours, open_log(other, salvage, as_json) as theirs:
        parted = first_divergence(ours, theirs)
        found = None
        if parted is not None and ours.is_saved(parted[0]) and theirs.is_saved(parted[1]):
            wanted = wanted_names(patterns, parted[2], "that differs there")
            found = diff_logs(ours, parted[0], theirs, parted[1], wanted)
        step = None if parted is None else ours.row(parted[0]).step
    if as_json:
        said = None if parted is None else {"versions": list(parted[:2]), "step": step}
        arrays = [] if parted is None else list(parted[2])
        diff = None if found is None else found.to_dict()
        say(to_json({"divergence": said, "arrays": arrays, "diff": diff}))
    elif parted is None:
        say("no step that both have differs")
    else:
        names = ", ".join(map(printable, parted[2]))
        say(f"they part at step {step}, version {parted[0]} and version {parted[1]}: {names}")
        if found is None:
            say("the bytes of one of the two were not logged: there is no more to show")
        else:
            _print(found)
    return parted is not None


def _print(found: StateDiff) -> None:
    say(found.summary())
    if found.arrays:
        print_table(found.COLUMNS, [array.row() for array in found.arrays])
    for value in found.values:
        say(str(value))
