"""Entry 15: the Nth call of the system fails beneath Python, for whatever touches the log.

`_shim.c` stands between the process and the C library: opens, reads, `stat`, listings, locks,
writes, syncs, renames, removals fail with EIO, ENOSPC, EMFILE, EACCES, EINTR, do half of what they
should, or are the last that the process does. The error is the library's and says what the system
said; what was acknowledged is there; the next call works once the fault is gone, or the bus says
that it is closed; threads and descriptors are as before.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.torture._children import judge, run
from tests.torture._methods import METHODS, READERS
from tests.torture._scale import scaled

NAMES = (*(name for name in METHODS if name != "subscribe, cancel"), *READERS, "rotate")
"""What makes a call of the system."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not sys.platform.startswith("linux") or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        pytest.skip("the shim is made for Linux with glibc")
    if compiler is None:
        pytest.skip("there is no C compiler to make the shim with")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("_shim.c")
    flags = ["-std=gnu11", "-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", library, source, "-ldl", "-lpthread"], check=True)
    return str(library)


def torture(shim: str, bus: str, count: int, names: Sequence[str] = NAMES) -> None:
    reports = run("_syscalls", [bus, str(count)], names, LD_PRELOAD=shim)
    judge(f"failing calls, {bus}", reports, names)


@pytest.mark.parametrize("names", [NAMES[::5], NAMES[2::5]], ids=["first", "third"])
def test_call_that_fails_beneath_python_leaves_what_was_acknowledged(shim, names):
    torture(shim, "fsync", 4, names)


@pytest.mark.long
@pytest.mark.parametrize("bus", ["os", "fsync", "group"])
@pytest.mark.parametrize("name", NAMES)
def test_every_call_that_fails_in_any_way_leaves_what_was_acknowledged(shim, name, bus):
    torture(shim, bus, 0 if scaled(100) >= 100 else scaled(400, least=12), [name])
