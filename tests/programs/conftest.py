"""The command line, as its own tests have it."""

from tests.cli.conftest import mmsb

__all__ = ["mmsb"]
