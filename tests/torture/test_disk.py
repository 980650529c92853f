"""The simulated disk does what the tests that stand on it take for granted."""

import errno
import os
import random
from pathlib import Path

import pytest

from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax.testing._disk import SECTOR_BYTES, Disk

ROOT = Path("/run")
SEEDS = 300


def crashes(disk: Disk) -> list[DiskFiles]:
    return [DiskFiles(ROOT, disk.after_machine_death(random.Random(n))) for n in range(SEEDS)]


def content(files: DiskFiles, name: str) -> bytes | None:
    try:
        return files.read(name)
    except FileNotFoundError:
        return None


def test_what_was_synced_survives_every_crash():
    disk = Disk()
    files = DiskFiles(ROOT, disk)
    handle = files.create("log/a")
    handle.append([b"x" * 1000])
    handle.sync()
    files.publish("manifest", [b"one"])
    files.publish("manifest", [b"two"])
    for left in crashes(disk):
        assert content(left, "log/a") == b"x" * 1000
        assert content(left, "manifest") == b"two"
        assert left.names(".") == ["./manifest"]


def test_write_that_was_not_synced_is_there_or_absent_or_torn_by_sector():
    disk = Disk()
    handle = DiskFiles(ROOT, disk).create("log/a")
    handle.append([b"x" * 700])
    handle.sync()
    handle.append([b"y" * 2000])
    found = [content(left, "log/a") for left in crashes(disk)]
    assert b"x" * 700 in found
    assert b"x" * 700 + b"y" * 2000 in found
    torn = 0
    for raw in found:
        assert raw is not None
        assert raw[:700] == b"x" * 700
        assert len(raw) in (700, 2700) or len(raw) % SECTOR_BYTES == 0
        for start in range(2 * SECTOR_BYTES, len(raw), SECTOR_BYTES):
            assert len(set(raw[start : start + SECTOR_BYTES])) == 1  # all of it, or nothing
        torn += 0 < raw.count(b"y") < 2000
    assert torn > SEEDS // 10


def test_name_that_was_not_synced_may_be_gone_though_its_file_was_synced():
    disk = Disk()
    files = DiskFiles(ROOT, disk)
    files.create("log/a").sync()
    disk.open("/run/log/b", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    disk.replace("/run/log/b", "/run/log/c")
    names = {tuple(left.names("log")) for left in crashes(disk)}
    assert names == {
        ("log/a",),
        ("log/a", "log/b"),
        ("log/a", "log/c"),
        ("log/a", "log/b", "log/c"),
    }


def test_sync_that_failed_leaves_to_chance_what_later_syncs_do_not_cover():
    disk = Disk()
    handle = DiskFiles(ROOT, disk).create("log/a")
    handle.sync()
    handle.append([b"x" * 1000])
    disk.faults.code = errno.EIO
    disk.faults.arm(0)
    with pytest.raises(OSError, match="Input/output"):
        handle.sync()
    disk.faults.disarm()
    handle.sync()
    assert DiskFiles(ROOT, disk).read("log/a") == b"x" * 1000  # the system shows what it holds
    found = {content(left, "log/a") for left in crashes(disk)}
    assert {b"", b"x" * 1000} < found


def test_process_death_loses_nothing_and_syncs_nothing():
    disk = Disk()
    DiskFiles(ROOT, disk).create("log/a").append([b"x" * 100])
    left = disk.after_process_death()
    assert DiskFiles(ROOT, left).read("log/a") == b"x" * 100
    assert {content(files, "log/a") for files in crashes(left)} >= {None, b"x" * 100}


def test_moment_of_the_journal_is_the_disk_as_it_was_then():
    disk = Disk()
    handle = DiskFiles(ROOT, disk).create("log/a")
    handle.append([b"one"])
    moment = len(disk.journal)
    disk.note("one")
    handle.append([b"two"])
    handle.truncate(2)
    assert DiskFiles(ROOT, disk.after_process_death(moment)).read("log/a") == b"one"
    assert DiskFiles(ROOT, disk.after_process_death()).read("log/a") == b"on"
    assert (disk.facts(moment), disk.facts()) == ([], ["one"])
