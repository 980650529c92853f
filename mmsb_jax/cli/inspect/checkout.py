"""``mmsb checkout``: the arrays of a version as files that NumPy reads."""

import click

from mmsb_jax._display.text import printable
from mmsb_jax.cli.common.command import (
    PATH,
    LogCommand,
    arrays_option,
    json_option,
    path_argument,
    salvage_option,
    say,
    version_options,
)
from mmsb_jax.cli.common.export import check_target, export
from mmsb_jax.cli.common.json import to_json
from mmsb_jax.cli.common.logs import find_version, open_log, wanted_names


@click.command(cls=LogCommand)
@path_argument
@version_options
@click.option(
    "--out",
    required=True,
    metavar="FILE.npz|DIR",
    type=PATH,
    help="Where to write: one .npz, or a directory of .npy files. A slash at the end says that a "
    "name with another suffix is a directory's.",
)
@arrays_option
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@salvage_option
@json_option
def checkout(
    path: str,
    version: int | str | None,
    step: int | None,
    time_ns: int | None,
    out: str,
    patterns: tuple[str, ...],
    force: bool,
    salvage: bool,
    as_json: bool,
) -> None:
    """Write the arrays of a version as files that NumPy reads.

    Each array has its own name: numpy.load("out.npz")["params/w"]. Dtypes that NumPy's file
    format cannot name (bfloat16, float8, int4) are stored as unsigned integers of the same width,
    bit for bit; view them as what they are:

    \b
      import json, ml_dtypes, numpy as np
      npz = np.load("out.npz")
      w = npz["params/w"].view(ml_dtypes.bfloat16)
      manifest = json.loads(npz["mmsb.json"])

    The member mmsb.json says of each array: its member, its dtype, the one it is stored as, shape,
    kind and digest. "kind" tells what the leaf was: jax, numpy, scalar, a Python number, or a key
    ("key:threefry2x32": jax.random.wrap_key_data gives it back). "values" are the constants:
    strings, None, large integers, functions by name. An array whose name would make a strange file
    name is stored under its number; the manifest says which.

    With --force into a directory, files of the same names are overwritten and others left alone.
    """
    target = check_target(out, force)
    with open_log(path, salvage, quiet=as_json) as opened:
        found = find_version(opened, version, step, time_ns)
        names = (info.name for info in opened.table(found).arrays.values()) if patterns else ()
        state = opened.state(found, wanted_names(patterns, names, f"at version {found}"))
        facts = {"log_id": state.table.log_id.hex(), "version": found}
        if found:
            row = opened.row(found)
            facts |= {"step": row.step, "time_ns": row.time_ns}
    export(state, facts, target)
    nbytes = sum(state.bytes_of(array_id).size for array_id in state.words)
    if as_json:
        written = {"arrays": len(state.words), "bytes": nbytes, "out": str(target)}
        say(to_json(facts | written))
    else:
        say(
            f"version {found}: {len(state.words)} arrays, {nbytes:,} bytes → "
            f"{printable(str(target))}"
        )
