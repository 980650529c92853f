"""``mmsb notes``: what the notes of a run say of one thing."""

import click

from mmsb_jax._store.query.commit import read_commit
from mmsb_jax._store.query.notes import notes_of
from mmsb_jax._store.query.superseded import is_in, superseded_at
from mmsb_jax.cli.common.command import LogCommand, json_option, path_argument, salvage_option, say
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import open_log
from mmsb_jax.cli.common.table import print_table


@click.command(cls=LogCommand)
@path_argument
@click.argument("name")
@click.option("--all", "of_all", is_flag=True, help="Of superseded commits too.")
@salvage_option
@json_option
def notes(path: str, name: str, of_all: bool, salvage: bool, as_json: bool) -> None:
    """List what the notes say of NAME along the run: "loss", or "eval/loss" within another.

    Reads no array.
    """
    with open_log(path, salvage, quiet=as_json) as opened:
        newest = opened.version
        passed = () if of_all or not newest else superseded_at(opened, newest)
        versions = range(opened.first_version, newest + 1)
        living = (version for version in versions if not is_in(passed, version))
        commits = (read_commit(opened, version, lambda: 0) for version in living)
        found = notes_of(commits, name)
    rows = list(zip(found.versions.tolist(), found.steps, found.values, strict=True))
    if as_json:
        listed = [{"version": v, "step": step, "value": value} for v, step, value in rows]
        say(to_json({"name": name, "values": listed}))
    else:
        print_table(("version", "step", "value"), rows)
