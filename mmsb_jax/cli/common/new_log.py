"""A place for a new log: what is there in the end is a whole log, or nothing."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.local import sync_path_to
from mmsb_jax._store.writer.writer import disk_error


def check_free(target: Path) -> None:
    """Refuse a place that something is at.

    Raises:
        LocationError: something is, and no empty directory; or below a file.
    """
    is_empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
    if os.path.lexists(target) and not is_empty:
        raise LocationError(
            f"{target} exists already. Expected a path where nothing is, or an empty directory."
        )
    above = next(folder for folder in target.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise LocationError(f"{above} is not a directory, so that {target} cannot be made.")


@contextlib.contextmanager
def new_log(target: Path) -> Iterator[DiskFiles]:
    """An empty directory beside ``target``, which takes its place when all went well.

    Raises:
        LocationError: the place is taken, or the disk refuses.
    """
    check_free(target)
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    try:
        draft.mkdir(parents=True)
        files = DiskFiles(draft)
        try:
            yield files
        finally:
            files.close()
        draft.rename(target)
        sync_path_to(target)
    except LocationError:
        raise  # it says what it is about: another log that is read, as a rule
    except OSError as error:
        raise disk_error(error, str(target)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
