"""The process that trains, and that may be killed.

``python -m mmsb_jax.demo.language._child LOG SIZE UNTIL [KILL_AT] [SPOIL_AT]``: it goes on from
where the log ends.
"""

import functools
import os
import signal
import sys

import jax

from mmsb_jax.demo.language import _training as training
from mmsb_jax.demo.language._loop import open_log, show_progress, train
from mmsb_jax.demo.language._model import SIZES


def main(path: str, name: str, until: int, kill_at: int = 0, spoil_at: int = 0) -> None:
    """Train to step ``until``; be killed behind one step, with commits under way."""
    size = SIZES[name]
    optimizer = training.adam(size)
    init = jax.jit(functools.partial(training.start, size, optimizer))
    show = show_progress(until)

    def tick(step: int) -> None:
        show(step)
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with open_log(path, size) as bus:
        state, extra = bus.resume_or_init(init, {"next": 0})
        train(bus, training.make_step(size, optimizer), state, extra, until, tick, spoil_at)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C is for who started it
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
