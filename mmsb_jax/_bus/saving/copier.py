"""Keeping a copy of a log elsewhere, beside the commits that go on."""

import warnings

from mmsb_jax._store.files.protocol import Files
from mmsb_jax._store.maintain.copy import LogCopy
from mmsb_jax._store.writer.writer import LogWriter


class Copier:
    """Brings the copy of a log forward as the log grows.

    Args:
        writer: the log's writer.
        target: the directory of the copy.
        place: what to call it in messages.

    Attributes:
        fault: why the copy was not brought forward at the last try; None when all is well.
    """

    def __init__(self, writer: LogWriter, target: Files, place: str) -> None:
        self._writer = writer
        self._place = place
        self._copy = LogCopy(writer.log, target, place)
        self.fault: str | None = None

    @property
    def version(self) -> int:
        """The newest version that the copy has."""
        return self._copy.version

    def run(self, whole: bool = False) -> bool:
        """Copy what is sealed, or all; whether it could be done. Where not, a warning says why."""
        try:
            self._writer.sync()
            self._copy.run(whole)
        except Exception as error:
            is_new, self.fault = self.fault is None, str(error)
            if is_new:
                warnings.warn(f"copy_to={self._place!r}: nothing was copied: {error}", stacklevel=2)
        else:
            self.fault = None
        return self.fault is None
