"""``mmsb demo``: the library at work on real input."""

import click

from mmsb_jax._base.errors import LocationError, MMSBError
from mmsb_jax.cli.common.command import NO, PATH, LogCommand, local_file


@click.command(cls=LogCommand)
@click.option(
    "--out",
    default="demo-output",
    show_default=True,
    metavar="DIR",
    type=PATH,
    help="Where to put its files.",
)
def demo(out: str) -> None:
    """Train a small network, kill it, resume it, and read its history.

    Needs the extra "demo": pip install 'mmsb-jax[demo]'.
    """
    place = local_file(out)
    if place.exists() and not place.is_dir():
        raise LocationError(f"{place} is not a directory. Give one, or a path where nothing is.")
    try:
        # Imported here: it imports JAX, and what only the extra installs.
        from mmsb_jax.demo import run

        is_well = run(place)
    except ModuleNotFoundError as error:
        raise MMSBError(
            f"the demo needs {error.name}, which is not installed: pip install 'mmsb-jax[demo]'"
        ) from error
    if not is_well:
        raise SystemExit(NO)
