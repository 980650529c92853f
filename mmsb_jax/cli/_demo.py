"""``mmsb demo``: the library at work on real input."""

from pathlib import Path

import click

from mmsb_jax.cli._command import LogCommand


@click.command(cls=LogCommand)
@click.option(
    "--out",
    default="demo-output",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to put its files.",
)
def demo(out: Path) -> None:
    """Train a small network, kill it, resume it, and read its history.

    Needs the extra "demo": pip install 'mmsb-jax[demo]'.
    """
    # Imported here: it imports JAX, and what only the extra installs.
    from mmsb_jax.demo import run

    if not run(out):
        raise SystemExit(1)
