"""How much of a long form is run: all of it, or the share that ``TORTURE_SCALE`` asks for."""

import os


def scaled(count: int, least: int = 1) -> int:
    """``count`` times ``TORTURE_SCALE``, which is 1 where it is not set."""
    return max(least, round(count * float(os.environ.get("TORTURE_SCALE", "1"))))
