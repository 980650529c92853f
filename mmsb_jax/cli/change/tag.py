"""``mmsb tag``: names for versions."""

import click

from mmsb_jax._store.format.tags import check_tag, no_tag
from mmsb_jax._store.log.log import Log
from mmsb_jax.cli.common.command import LogCommand, json_option, path_argument, say, version_options
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import find_version, open_log, open_writer
from mmsb_jax.cli.common.table import print_table


@click.command(cls=LogCommand)
@path_argument
@click.argument("name", required=False)
@version_options
@click.option("--delete", is_flag=True, help="Take the name away.")
@json_option
def tag(
    path: str,
    name: str | None,
    version: int | str | None,
    step: int | None,
    time_ns: int | None,
    delete: bool,
    as_json: bool,
) -> None:
    """List the tags, or give a version the name NAME; that only while nobody else writes the log.

    A tag stands for its version wherever one is asked for, and mmsb compact keeps the state of a
    tagged version. A name moves from one version to another.
    """
    if name is None:
        if delete or (version, step, time_ns) != (None, None, None):
            raise click.UsageError("NAME is missing: which tag?")
        with open_log(path, quiet=as_json) as opened:
            tags = opened.tags()
    else:
        tags = _change(path, name, version, step, time_ns, delete)
    if as_json:
        say(to_json({"tags": tags}))
    elif tags:
        print_table(("version", "tag"), [(found, known) for known, found in tags.items()])
    else:
        say("no tags")


def _change(
    path: str,
    name: str,
    version: int | str | None,
    step: int | None,
    time_ns: int | None,
    delete: bool,
) -> dict[str, int]:
    """Set or delete a tag; returns those that there are then."""
    try:
        check_tag(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with open_writer(path) as writer:
        log = writer.log
        if delete:
            if name not in log.tags():
                raise no_tag(name, log.tags())
            writer.append_tags({name: None})
        else:
            writer.append_tags({name: _taggable(log, find_version(log, version, step, time_ns))})
        return log.tags()


def _taggable(log: Log, version: int) -> int:
    log.part_of(version)
    log.check_state(version)
    return version
