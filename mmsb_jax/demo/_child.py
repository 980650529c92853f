"""The process that trains, and that may be killed: ``python -m mmsb_jax.demo._child LOG STEPS``.

It prints the number of each step that it has committed.
"""

import signal
import sys

import mmsb_jax as mmsb
from mmsb_jax.demo import _training as training


def train(path: str, steps: int) -> None:
    """Train to ``steps``, from where the log at ``path`` ends."""
    digits, _ = training.load()
    optimizer = training.adam()
    step = training.make_step(optimizer)

    bus = mmsb.open(path)
    state, extra = bus.resume(training.start(optimizer), {"position": 0})
    batches = training.Batches(digits, **extra)
    for i in range(state["step"], steps):
        state, loss = step(state, next(batches))
        extra = {"position": batches.position}
        bus.commit(state, step=i + 1, note={"loss": loss}, extra=extra, wait=False)
        print(i + 1, flush=True)
    bus.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for the demo: it says what there is
    train(sys.argv[1], int(sys.argv[2]))
    # Ends at once, except in the child that is to be killed: however fast, it is still there then.
    sys.stdin.read()
