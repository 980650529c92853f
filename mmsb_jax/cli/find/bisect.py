"""``mmsb bisect``: the commit at which a run went wrong."""

import click

from mmsb_jax._display.text import printable
from mmsb_jax._store.query.finding import first_nonfinite
from mmsb_jax.cli.common.command import (
    NO,
    LogCommand,
    arrays_option,
    json_option,
    path_argument,
    say,
)
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import open_log, wanted_names


@click.command(cls=LogCommand)
@path_argument
@click.option(
    "--nonfinite", is_flag=True, help="The first commit with a number that is infinite or none."
)
@arrays_option
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there is one.")
@json_option
@click.pass_context
def bisect(
    ctx: click.Context,
    path: str,
    nonfinite: bool,
    patterns: tuple[str, ...],
    exit_code: bool,
    as_json: bool,
) -> None:
    """Find the commit at which a run went wrong, and the arrays that say so.

    Commits of a bus with a policy (save=) count such numbers, and their headers are all that is
    read; of others the bytes are looked at, in one replay. What is wrong by another measure is
    found by bus.bisect, in Python.
    """
    if not nonfinite:
        raise click.UsageError("say what is wrong: --nonfinite. Another measure: bus.bisect")
    with open_log(path, quiet=as_json) as opened:
        names = [info.name for info in opened.table(opened.version).arrays.values()]
        wanted = wanted_names(patterns, names, "of the newest version") or (lambda name: True)
        found = first_nonfinite(opened, wanted)
        row = None if found is None else opened.row(found[0])
    if as_json:
        said = {"version": None, "step": None, "arrays": []}
        if found is not None and row is not None:
            said = {"version": row.version, "step": row.step, "arrays": list(found[1])}
        say(to_json(said))
    elif found is None or row is None:
        say("all numbers are finite")
    else:
        step = "" if row.step is None else f" (step {row.step})"
        say(f"version {row.version}{step}: {', '.join(map(printable, found[1]))}")
    if found is not None and exit_code:
        ctx.exit(NO)
