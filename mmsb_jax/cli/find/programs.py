"""``mmsb programs``: what functions were compiled to."""

from typing import Any

import click

from mmsb_jax._display.text import printable
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.state.state import Table
from mmsb_jax.cli.common.command import (
    NO,
    VERSION,
    LogCommand,
    json_option,
    path_argument,
    salvage_option,
    say,
)
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import find_version, open_log
from mmsb_jax.cli.common.table import print_table
from mmsb_jax.programs._captured.arrays import (
    captures_in,
    check_name,
    find_program,
    names_in,
    read_bytes,
)
from mmsb_jax.programs._captured.diff import diff
from mmsb_jax.programs._captured.program import STAGES, Program

_COLUMNS = {
    "name": "program",
    "version": "version",
    "jax": "JAX",
    "flops": "flops",
    "temp_bytes": "temporary",
    "logged_bytes": "logged",
}


class _Name(click.ParamType):
    """What a program may be called."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_name(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command(cls=LogCommand)
@path_argument
@click.argument("name", type=_Name(), required=False)
@click.option("--version", type=VERSION, metavar="VERSION|TAG", help="As it is at this version.")
@click.option("--stage", type=click.Choice(STAGES), help="Print this text of the program.")
@click.option(
    "--diff", "pair", type=VERSION, nargs=2, metavar="V1 V2", help="What differs between the two."
)
@click.option("--exit-code", is_flag=True, help="Exit with 1 when anything differs.")
@salvage_option
@json_option
@click.pass_context
def programs(
    ctx: click.Context,
    path: str,
    name: str | None,
    version: int | str | None,
    stage: str | None,
    pair: tuple[int | str, int | str] | None,
    exit_code: bool,
    salvage: bool,
    as_json: bool,
) -> None:
    """List the programs of a log, show the one called NAME, or what differs in it.

    They are what mmsb.programs.capture logged: jaxpr, StableHLO and HLO of a jitted function, with
    figures of cost and memory. "temporary" and "logged" are bytes, the latter those of the commit.
    """
    if name is None and (stage is not None or pair is not None):
        raise click.UsageError("--stage and --diff are of one program: give its NAME")
    if pair is not None and (stage is not None or version is not None):
        raise click.UsageError("--diff excludes --stage and --version")
    with open_log(path, salvage, quiet=as_json) as opened:
        if name is None:
            _list(opened, _table_at(opened, version), as_json)
        elif pair is not None:
            old, new = (_program(opened, _table_at(opened, one), name) for one in pair)
            found = diff(old, new)
            say(to_json(found.to_dict()) if as_json else str(found))
            if found and exit_code:
                ctx.exit(NO)
        elif stage is not None:
            _show_text(_program(opened, _table_at(opened, version), name), stage, as_json)
        else:
            _show(opened, _table_at(opened, version), name, as_json)


def _table_at(log: Log, version: int | str | None) -> Table:
    """The table of a version; of the newest with bytes where none is named."""
    if version is None:
        return log.table(log.last_saved(log.version))
    return log.table(find_version(log, version))


def _program(log: Log, table: Table, name: str) -> Program:
    def bytes_of(version: int, array: str) -> bytes:
        return read_bytes(log.state(version, array.__eq__), array)

    return find_program(log, table, bytes_of, name)


def _list(log: Log, table: Table, as_json: bool) -> None:
    entries = [_entry(log, table, name) for name in names_in(table)]
    if as_json:
        say(to_json({"programs": entries}))
        return
    if not entries:
        say("no program was captured")
        return
    print_table(list(_COLUMNS.values()), [[entry[key] for key in _COLUMNS] for entry in entries])


def _entry(log: Log, table: Table, name: str) -> dict[str, Any]:
    program = _program(log, table, name)
    logged = log.row(program.version).logged_bytes
    return program.to_dict() | {"logged_bytes": logged}


def _show_text(program: Program, stage: str, as_json: bool) -> None:
    text = program.text(stage)
    if as_json:
        say(to_json({"name": program.name, "version": program.version, stage: text}))
    elif text is None:
        say(f"the {stage} of {printable(program.name)} was not captured")
    else:
        say("\n".join(map(printable, text.rstrip("\n").split("\n"))))


def _show(log: Log, table: Table, name: str, as_json: bool) -> None:
    captured = captures_in(log, table, name)
    if as_json:
        say(to_json(_entry(log, table, name) | {"captured": captured}))
        return
    say(str(_program(log, table, name)))
    say(f"captured at version {', '.join(map(str, captured))}")
