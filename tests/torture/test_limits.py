"""Entry 18: too few threads, descriptors, inodes, too little room or memory, for real.

The error is the library's; what was acknowledged is there; once there is more of it all goes on.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import mmsb_jax as mmsb
from tests.bus._script import ROOT, command_of, run_script
from tests.torture._children import judge, run
from tests.torture._methods import METHODS, READERS
from tests.torture._scale import scaled

NAMES = (*METHODS, *READERS)
SHORT = ("commit", "commit wait=False, result", "snapshot", "tag", "compact", "fork", "open",
         "import_ into an empty log", "verify", "commit with handlers", "export to a file",
         "reader: open", "reader: checkout", "replica: update")  # fmt: skip
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as Linux has them")


@contextlib.contextmanager
def mounted(folder: Path, kind: str) -> Iterator[Path]:
    """A small file system of its own; skips where none may be mounted."""
    folder.mkdir()
    if kind == "ext4":
        image = folder.with_suffix(".image")
        with image.open("wb") as file:
            file.truncate(24 << 20)
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("there is no mkfs.ext4 here")
        subprocess.run(["mkfs.ext4", "-q", "-N", "400", image], check=True)
        command = ["mount", "-o", "loop", image, folder]
    else:
        command = ["mount", "-t", "tmpfs", "-o", "size=16m,nr_inodes=400", "tmpfs", folder]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def torture(limit: str, folder: Path, count: int, names: Sequence[str]) -> None:
    judge(f"too few {limit}", run("_limits", [limit, str(folder), str(count)], names), names)


def limited(limit: str, tmp_path: Path, count: int, names: Sequence[str]) -> None:
    if limit in ("room", "inodes"):
        for kind in ("tmpfs", "ext4"):
            with mounted(tmp_path / kind, kind) as folder:
                torture(limit, folder, count, names)
        return
    if limit == "threads" and os.getuid() != 0:
        pytest.skip("threads are counted by user: only root can be another one")
    with _reachable(tmp_path):
        torture(limit, tmp_path, count, names)


@contextlib.contextmanager
def _reachable(folder: Path) -> Iterator[None]:
    """Let another user come to a folder of pytest's."""
    changed = [p for p in (folder, *folder.parents) if p.stat().st_uid == os.getuid()]
    modes = {path: path.stat().st_mode for path in changed if path != Path("/")}
    for path, mode in modes.items():
        path.chmod(mode | 0o055)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


LIMITS = ("descriptors", "file size", "room", "inodes", "threads")


@LINUX
@pytest.mark.parametrize("limit", LIMITS)
def test_too_little_of_anything_leaves_what_was_acknowledged(tmp_path, limit):
    limited(limit, tmp_path, 2, SHORT)


@LINUX
@pytest.mark.long
@pytest.mark.parametrize("limit", LIMITS)
def test_too_little_of_anything_for_every_method_leaves_what_was_acknowledged(tmp_path, limit):
    limited(limit, tmp_path, scaled(200, least=8), NAMES)


THREADS = """
import os, sys
import numpy as np
import mmsb_jax as mmsb

def state(number, before=None):
    rng = np.random.default_rng(number)
    tree = {f"w{k}": np.zeros(150_000, np.float32) for k in range(12)}
    tree = tree if before is None else {k: v.copy() for k, v in before.items()}
    for array in tree.values():
        array[rng.integers(0, array.size, 20_000)] += 1
    return tree

with mmsb.open() as bus:  # what is loaded once
    bus.commit(state(0))
    bus.verify(deep=True)
limit(len(os.listdir("/proc/self/task")) + 1)
tree, acknowledged = state(0), 0
bus = mmsb.open(sys.argv[1], durability="fsync")
for number in range(1, 12):
    tree = state(number, tree)
    try:
        acknowledged = bus.commit(tree).version
    except mmsb.MMSBError as error:
        print(type(error).__name__)
print("acknowledged", acknowledged)
bus.close()
with mmsb.open(sys.argv[1]) as bus:
    found = bus.checkout()
    assert bus.version == acknowledged > 0
    assert all(np.array_equal(found[name], tree[name]) for name in tree)
    assert bus.verify(deep=True)
"""


@LINUX
def test_commits_with_room_for_one_more_thread_can_be_read_again(tmp_path):
    """A worker that cannot be started does no work twice."""
    if os.getuid() != 0:
        pytest.skip("threads are counted by user: only root can be another one")
    tmp_path.chmod(0o777)
    limit = """
import resource
def limit(threads):
    os.setgid(65531)
    os.setuid(65531)
    resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))
"""
    with _reachable(tmp_path):
        assert "acknowledged" in run_script(limit.strip() + THREADS, tmp_path / "run.mmsb")


@LINUX
def test_commits_in_a_group_with_room_for_one_more_thread_can_be_read_again(tmp_path):
    """As above, by a control group: what a container has."""
    group = Path("/sys/fs/cgroup/pids/mmsb-trials")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group of the pids controller may be made here: {error}")
    limit = f"""
def limit(threads):
    open("{group}/cgroup.procs", "w").write(str(os.getpid()))
    open("{group}/pids.max", "w").write(str(threads))
"""
    try:
        assert "acknowledged" in run_script(limit.strip() + THREADS, tmp_path / "run.mmsb")
    finally:
        group.rmdir()


@LINUX
def test_commits_without_memory_are_refused_and_go_on(tmp_path):
    """RLIMIT_AS, a little above what is used: NumPy arrays alone, since XLA ends the process."""
    code = """
    import faulthandler, os, resource, sys
    import numpy as np
    import mmsb_jax as mmsb

    faulthandler.dump_traceback_later(120, exit=True)
    rng, names = np.random.default_rng(0), ("a", "b", "c")
    tree = {name: rng.integers(0, 256, 4 << 20, np.uint8) for name in names}
    bus = mmsb.open(sys.argv[1], durability="fsync")
    bus.commit(tree)
    bus.verify()
    outcomes, version, soft = {}, 1, resource.getrlimit(resource.RLIMIT_AS)
    for number in range(40):
        other = {name: rng.integers(0, 256, 4 << 20, np.uint8) for name in names}
        pages = int(open("/proc/self/statm").read().split()[0])
        room = pages * os.sysconf("SC_PAGE_SIZE") + number * (1 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (room, soft[1]))
        try:
            version = bus.commit(other, wait=number % 3 > 0).version if number % 3 else \\
                bus.commit(other, wait=False).result().version
            tree, outcome = other, "landed"
        except mmsb.MMSBError as error:
            outcome = type(error).__name__
        except MemoryError as error:
            outcome = f"a bare {error!r}"
        finally:
            resource.setrlimit(resource.RLIMIT_AS, soft)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if bus.closed:
            bus = mmsb.open(sys.argv[1], durability="fsync")
        try:
            bus.sync()
        except mmsb.DeviceMemoryError:
            pass  # the next call tells it too
        assert bus.version == version, (bus.version, version, outcome)
        found = bus.checkout()
        assert all(np.array_equal(found[name], tree[name]) for name in names), outcome
    bus.close()
    with mmsb.open(sys.argv[1]) as bus:
        assert bus.version == version
        assert bus.verify(deep=True)
    print(outcomes)
    assert not any(outcome.startswith("a bare") for outcome in outcomes), outcomes
    """
    done = subprocess.run(
        command_of(code, tmp_path / "run.mmsb"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    assert mmsb.open(tmp_path / "run.mmsb", mode="r").version > 1
