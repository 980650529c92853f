"""``mmsb compact``: give up the bytes of old versions."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import click

from mmsb_jax._store.maintain.compact import compact as compact_log
from mmsb_jax.cli.common.command import VERSION, LogCommand, json_option, path_argument, say
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import find_version, open_writer


@click.command(cls=LogCommand)
@path_argument
@click.option(
    "--keep-since",
    required=True,
    type=VERSION,
    metavar="VERSION|TAG",
    help="The oldest version to keep in full.",
)
@click.option("--dry-run", is_flag=True, help="Only say what it would do.")
@json_option
def compact(path: str, keep_since: int | str, dry_run: bool, as_json: bool) -> None:
    """Give up the bytes of old versions; only while nobody else writes the log.

    Kept are the versions from one on, the state right before it, and the states of tagged versions
    (mmsb tag). Of the others stays what their commits say: mmsb log lists them. Readers go on.
    """
    with open_writer(path) as writer, ThreadPoolExecutor() as threads:
        chosen = find_version(writer.log, keep_since)
        report = compact_log(writer, chosen, dry_run=dry_run, executor=threads)
    say(to_json(asdict(report)) if as_json else str(report))
