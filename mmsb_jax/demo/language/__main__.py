"""``python -m mmsb_jax.demo.language [--size 20m] [--out DIR]``."""

import argparse
from pathlib import Path

from mmsb_jax.demo.language import run
from mmsb_jax.demo.language._model import SIZES


def main() -> None:
    """Run it as asked."""
    parser = argparse.ArgumentParser("python -m mmsb_jax.demo.language", description=run.__doc__)
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model and its run")
    parser.add_argument("--out", type=Path, default=Path("run-output"), help="where the logs go")
    asked = parser.parse_args()
    if asked.out.exists() and not asked.out.is_dir():
        parser.error(f"{asked.out} is not a directory. Give one, or a path where nothing is.")
    try:
        run(asked.out, asked.size)
    except ModuleNotFoundError as error:
        parser.error(f"this needs {error.name}, which is not installed: pip install mmsb-jax[demo]")


if __name__ == "__main__":
    main()
