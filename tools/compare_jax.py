"""What a program becomes under another JAX: ``python -m tools.compare_jax OLD NEW``.

OLD and NEW are Pythons that have this library, each with a JAX of its own. One after the other they
capture the training step of a small language model into one log, and what differs is printed.
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NAME = "train"


def main(arguments: list[str]) -> int:
    """0 where both have captured it."""
    parser = argparse.ArgumentParser("python -m tools.compare_jax", description=__doc__)
    parser.add_argument("old", metavar="OLD", help="a Python with one version of JAX")
    parser.add_argument("new", metavar="NEW", help="a Python with another")
    parser.add_argument("--size", default="small", help="of the model: tiny, small, 20m")
    asked = parser.parse_args(arguments)
    from mmsb_jax import programs

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "run.mmsb")
        for python in (asked.old, asked.new):
            write(python, log, asked.size)
        print(programs.diff(*captured(log)))
    return 0


def write(python: str, log: Path, size: str = "tiny") -> None:
    """Let another Python capture the step into a log.

    Raises:
        RuntimeError: it failed; the message is what it said.
    """
    code = f"from tools import compare_jax; compare_jax.capture({str(log)!r}, {size!r})"
    ran = subprocess.run(
        [python, "-c", code],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{python} could not capture the program: {ran.stderr}")


def capture(log: str, size: str) -> None:
    """Capture the step with the JAX that is here."""
    import jax
    import jax.numpy as jnp

    import mmsb_jax as mmsb
    from mmsb_jax.demo.language._model import SIZES, init, logits

    model = SIZES[size]

    def loss_of(params: Any, batch: Any) -> Any:
        found = jax.nn.log_softmax(logits(params, batch[:, :-1], model.heads))
        return -jnp.take_along_axis(found, batch[:, 1:, None], axis=-1).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params: Any, batch: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        return jax.tree.map(lambda w, g: w - model.rate * g, params, grads), loss

    params = jax.eval_shape(lambda key: init(model, key, jnp.float32), jax.random.key(0))
    batch = jax.ShapeDtypeStruct((model.batch, model.context + 1), jnp.int32)
    with mmsb.open(log) as bus:
        mmsb.programs.capture(bus, NAME, step.trace(params, batch))


def captured(log: Path) -> tuple[Any, Any]:
    """The first program of a log and the newest, read as far as `diff` needs it."""
    import mmsb_jax as mmsb

    with mmsb.open(log, mode="r") as bus:
        old, new = (mmsb.programs.load(bus, NAME, version) for version in (1, None))
        return old, new


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
