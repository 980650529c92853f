"""A place for a new log: what is there in the end is a whole log, or nothing."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmsb_jax._errors import LocationError
from mmsb_jax.store._files import DiskFiles
from mmsb_jax.store._place import sync_path_to
from mmsb_jax.store._writer import disk_error


@contextlib.contextmanager
def new_log(target: Path) -> Iterator[DiskFiles]:
    """An empty directory beside ``target``, which takes its place when all went well.

    Raises:
        LocationError: the place is taken, or the disk refuses.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise LocationError(
            f"{target} exists already. Expected a path where nothing is, or an empty directory."
        )
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
