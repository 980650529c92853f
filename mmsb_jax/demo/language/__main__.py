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
    run(asked.out, asked.size)


if __name__ == "__main__":
    main()
