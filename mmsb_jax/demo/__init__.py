"""The demo: train on handwritten digits, be killed, go on, and look back from the log alone.

Read `_child` first: it is what a training loop adds.
"""

from pathlib import Path

STEPS = 300


def run(out: Path, steps: int = STEPS) -> bool:
    """Run the demo in the directory ``out``, and tell what happened.

    It needs the extra ``demo``. What earlier runs left in ``out`` is replaced.

    Returns:
        Whether the resumed run equals the uninterrupted one bit for bit, and both logs are whole.
    """
    # Imported here: the children, which import this package, train and need none of it.
    from rich.console import Console

    from mmsb_jax.demo._picture import draw
    from mmsb_jax.demo._progress import stages
    from mmsb_jax.demo._story import play
    from mmsb_jax.demo._tables import tell

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    with stages(console) as stage:
        story = play(out, steps, stage)
    picture = out / "demo.png"
    draw(picture, story)
    tell(console, story)
    console.print(f"picture: {picture}", markup=False, soft_wrap=True)
    return story.is_equal and all(story.reports.values())
