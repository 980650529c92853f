"""Golden logs: small logs of every format, made once, that every later version still reads."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mmsb_jax.store._codec import Coding
from mmsb_jax.store._files import DiskFiles
from mmsb_jax.store._head import Draft, Head
from mmsb_jax.store._log import Log
from mmsb_jax.store._writer import LogWriter
from tests import _format_reader as reader
from tests.golden.compare import (
    check_library,
    check_reader,
    codings,
    read_by_library,
    read_by_reader,
)
from tests.golden.make import read_golden
from tests.store._logs import PAGE_BYTES, Here

GOLDEN = Path(__file__).parent

GOLDEN_LOGS = [
    pytest.param(folder, name, id=f"{folder.name}-{name}")
    for folder in sorted(GOLDEN.glob("v*"))
    for name in ("whole", "fork")
]


@pytest.mark.parametrize(("folder", "name"), GOLDEN_LOGS)
def test_golden_log_read_by_the_library_gives_every_version(folder: Path, name: str):
    check_library(folder / name, read_golden(folder)[name])


@pytest.mark.parametrize("name", ["whole", "fork"])
def test_golden_log_read_by_the_independent_reader_gives_every_version(name: str):
    log = check_reader(GOLDEN / "v1" / name, read_golden(GOLDEN / "v1")[name])
    assert codings(log) == set(Coding)
    assert log.snapshots() == [7]
    assert log.commits[0].flags == reader.EXTRA_IS_JSON | reader.HAS_STEP | (
        reader.STRUCTURE_CHANGED
    )


@pytest.mark.parametrize(("folder", "name"), GOLDEN_LOGS)
def test_golden_log_goes_on_in_a_copy(folder: Path, name: str, tmp_path: Path):
    shutil.copytree(folder / name, tmp_path / name)
    _commit_once_more(tmp_path / name)
    versions = read_golden(folder)[name]
    log = reader.ReadLog(tmp_path / name)
    *before, (commit, state) = zip(log.commits, log.states(), strict=True)
    assert [read_by_reader(*version) for version in before] == versions
    assert read_by_library(Log(DiskFiles(tmp_path / name), name), len(log.commits)) == (
        read_by_reader(commit, state)
    )
    assert state.by_name() == {**before[-1][1].by_name(), "step": bytes([77] * 8)}


def _commit_once_more(root: Path) -> None:
    files = DiskFiles(root)
    log = Log(files, root.name)
    writer = LogWriter(log)
    state = log.state(log.version, page_bytes=PAGE_BYTES)
    raw = np.full(8, 77, np.uint8)
    Head(state, writer, PAGE_BYTES, Here).commit(Draft(contents={state.table.ids["step"]: raw}))
    writer.close()
