"""A language model in training: killed, resumed, spoiled, looked into, forked, taken back.

Read `_loop` first: it is what a training loop adds. `_model` and `_training` know nothing of the
bus; `_child` is the process that is killed; `_story` does all of it, and checks what it says.
"""

from pathlib import Path

from mmsb_jax.demo.language._model import SIZES


def run(out: Path, size: str = "small") -> None:
    """Let it all happen in the directory ``out``, and tell it as it goes.

    It needs the extra ``demo``. What earlier runs left in ``out`` is replaced.

    Args:
        out: where the logs go.
        size: of the model, and of its run: ``"tiny"``, ``"small"`` (a minute on two cores) or
            ``"20m"`` (22 million parameters: some gigabytes of disk, half an hour).

    Raises:
        MMSBError: something is not as the story says it.
    """
    # Imported here: the child, which imports this package, needs none of it.
    from mmsb_jax.demo.language._story import play

    play(out, SIZES[size])
