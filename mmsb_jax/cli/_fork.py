"""``mmsb fork``: a log of its own that shares its history with another, up to a version."""

import os
import shutil
from pathlib import Path

import click

from mmsb_jax._errors import LocationError
from mmsb_jax.cli._command import (
    LogCommand,
    json_option,
    path_argument,
    salvage_option,
    version_options,
)
from mmsb_jax.cli._json import to_json
from mmsb_jax.cli._reader import find_version, open_log
from mmsb_jax.store._diff import printable
from mmsb_jax.store._files import DiskFiles
from mmsb_jax.store._fork import fork_log
from mmsb_jax.store._log import Log
from mmsb_jax.store._place import check_local
from mmsb_jax.store._writer import disk_error


@click.command(cls=LogCommand)
@path_argument
@click.argument("new")
@version_options
@salvage_option
@json_option
def fork(
    path: str,
    new: str,
    version: int | str | None,
    step: int | None,
    time_ns: int | None,
    salvage: bool,
    as_json: bool,
) -> None:
    """Make at NEW a log that goes on behind a version.

    It is a copy, sharing blocks where the disk can: the two logs do not need each other. NEW must
    not exist, or be an empty directory.
    """
    target = check_local(new)
    with open_log(path, salvage, quiet=as_json) as opened:
        found = find_version(opened, version, step, time_ns)
        if found != 0:
            opened.part_of(found)
            opened.check_kept(found)
        _fork(opened, found, target)
    if as_json:
        click.echo(to_json({"version": found, "path": str(target)}))
    else:
        click.echo(f"{printable(str(target))} goes on behind version {found}")


def _fork(opened: Log, version: int, target: Path) -> None:
    """Fork into ``target``; where that fails nothing is left there.

    Raises:
        LocationError: the place is taken, or the disk refuses.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise LocationError(
            f"{target} exists already. Expected a path where nothing is, or an empty directory."
        )
    # Made beside its place and then renamed: what is at NEW is a whole log, or nothing.
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    try:
        draft.mkdir(parents=True)
        fork_log(opened, version, DiskFiles(draft))
        draft.rename(target)
    except OSError as error:
        raise disk_error(error, str(target)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
