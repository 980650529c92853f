"""Opening, and what is refused: each with an error of its own, and nothing changed."""

import errno
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import mmsb_jax as mmsb
from mmsb_jax._store.format import frame
from tests.bus._script import ROOT, command_of, run_script
from tests.core._compare import assert_same_tree


def make_tree(number: int = 0) -> dict[str, Any]:
    return {"w": jnp.arange(6.0) + number, "n": number}


def _files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------- which version


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda bus: bus.checkout(version=4), mmsb.VersionError, r"versions 1 to 3; the .* is 3"),
        (lambda bus: bus.checkout(version=-1), mmsb.VersionError, "version=-1 is negative"),
        (lambda bus: bus.checkout(version=1.0), TypeError, "version=1.0: expected an integer"),
        (lambda bus: bus.checkout(version=True), TypeError, "version=True: expected an integer"),
        (lambda bus: bus.checkout(step=17), mmsb.VersionError, "step 17 does not .* step is 20"),
        (lambda bus: bus.checkout(step=-1), mmsb.VersionError, "step=-1 is negative"),
        (lambda bus: bus.checkout(time_ns=1), mmsb.VersionError, "time_ns=1 is before every comm"),
        (lambda bus: bus.checkout(time_ns=-1), mmsb.VersionError, "time_ns=-1 is negative"),
        (lambda bus: bus.checkout(version=1, step=10), ValueError, "give one of version, step"),
        (lambda bus: bus.checkout(arrays=["q/*"]), mmsb.ArrayNotFoundError, "'q/\\*' selects noth"),
        (lambda bus: bus.checkout(arrays="w"), TypeError, "expected a list of patterns"),
        (lambda bus: bus.checkout(missing="drop"), ValueError, "expected 'error' or 'keep'"),
        (lambda bus: bus.diff(1, 4), mmsb.VersionError, "version 4 does not exist"),
        (lambda bus: bus.diff(-1, 2), mmsb.VersionError, "old=-1 is negative"),
        (lambda bus: bus.fork(version=9), mmsb.VersionError, "version 9 does not exist"),
        (lambda bus: bus.fork(version=-9), mmsb.VersionError, "version=-9 is negative"),
        (lambda bus: bus.log(since=-1), mmsb.VersionError, "since=-1 is negative"),
        (lambda bus: bus.history("v"), mmsb.ArrayNotFoundError, "no array is named 'v'"),
        (lambda bus: bus.history("w").at(4), mmsb.VersionError, "'w' has no value at version 4"),
        (lambda bus: bus.read("nn"), mmsb.ArrayNotFoundError, "Did you mean 'n'"),
    ],
)
def test_what_the_log_does_not_have_is_refused_with_what_it_has(any_bus, call, kind, message):
    for number in range(3):
        any_bus.commit(make_tree(number), step=10 + 10 * (number > 0))
    with pytest.raises(kind, match=message):
        call(any_bus)
    assert any_bus.version == 3
    assert any_bus.commit(make_tree(3)).version == 4


def test_empty_log_says_that_it_is_empty(any_bus):
    for chosen in ({"version": 1}, {"step": 1}, {"time_ns": 1}):
        with pytest.raises(mmsb.VersionError, match="the log is empty"):
            any_bus.checkout(**chosen)
    assert any_bus.checkout() == any_bus.tree() == {}
    assert list(any_bus.log()) == []
    assert any_bus.version == any_bus.durable_version == 0
    assert any_bus.verify()


# ----------------------------------------------------------------------------------- where it is


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://bucket/run", "https://host/run"])
def test_open_of_a_url_is_refused_by_name(url):
    for mode in ("a", "r"):
        with pytest.raises(mmsb.LocationError, match=url):
            mmsb.open(url, mode=mode)
    with mmsb.open() as bus, pytest.raises(mmsb.LocationError, match=url):
        bus.fork(url)


def test_open_of_what_is_no_log_is_refused_and_left_alone(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    file.write_text("mine")
    before = _files(tmp_path)
    with pytest.raises(mmsb.LocationError, match=r"no manifest.* not empty: it holds 'mine.txt'"):
        mmsb.open(folder)
    with pytest.raises(mmsb.LocationError, match="is a file"):
        mmsb.open(file)
    for path in (folder, file, tmp_path / "nothing"):
        with pytest.raises(mmsb.LocationError):
            mmsb.open(path, mode="r")
    with mmsb.open() as bus:
        for path in (folder, file):
            with pytest.raises(mmsb.LocationError):
                bus.fork(path)
    assert _files(tmp_path) == before
    assert not (tmp_path / "nothing").exists()


def test_fork_onto_a_log_is_refused_and_leaves_it_alone(tmp_path):
    with mmsb.open(tmp_path / "other") as other:
        other.commit(make_tree(5))
    with mmsb.open(tmp_path / "run") as bus:
        bus.commit(make_tree(0))
        for path in ("other", "run"):
            with pytest.raises(mmsb.LocationError, match="is a log already"):
                bus.fork(tmp_path / path)
        assert bus.commit(make_tree(1)).version == 2
    with mmsb.open(tmp_path / "other", mode="r") as other:
        assert_same_tree(other.tree(), make_tree(5))


def test_open_of_a_newer_format_is_refused_and_left_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(frame, "FORMAT_VERSION", frame.FORMAT_VERSION + 1)
        with mmsb.open(tmp_path / "run") as bus:
            bus.commit(make_tree(0))
    before = _files(tmp_path)
    for mode in ("a", "r"):
        with pytest.raises(mmsb.FormatError, match=r"format 2 .*Upgrade"):
            mmsb.open(tmp_path / "run", mode=mode)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("is_there", [True, False])
def test_open_without_permission_says_so(tmp_path, monkeypatch, is_there):
    # The superuser may do everything, so the system's answer is made here.
    path = tmp_path / "run"
    if is_there:
        with mmsb.open(path) as bus:
            bus.commit(make_tree(0))
    before = _files(tmp_path)
    real = os.open

    def refuse(name: Any, flags: int, *rest: Any, **options: Any) -> int:
        if str(name).startswith(str(path)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return real(name, flags, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(mmsb.LocationError, match="permission is denied"):
            mmsb.open(path)
    assert _files(tmp_path) == before
    with mmsb.open(path) as bus:
        assert bus.version == is_there


def test_open_with_arguments_that_make_no_sense_is_refused(tmp_path):
    for options, kind in (
        ({"mode": "w"}, ValueError),
        ({"page_bytes": 100}, ValueError),
        ({"durability": "always"}, ValueError),
        ({"durability": ("group", -1)}, ValueError),
        ({"salvage": True}, ValueError),
    ):
        with pytest.raises(kind):
            mmsb.open(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_open_with_another_page_size_is_refused(tmp_path):
    with mmsb.open(tmp_path / "run", page_bytes=128) as bus:
        assert bus.page_bytes == 128
        with pytest.raises(ValueError, match="page_bytes=128"):
            mmsb.open(tmp_path / "run", page_bytes=256)
    with pytest.raises(ValueError, match="pages of 128 bytes"):
        mmsb.open(tmp_path / "run", page_bytes=256)
    with mmsb.open(tmp_path / "run") as bus:
        assert bus.page_bytes == 128


# -------------------------------------------------------------------------------- who writes it


_HOLD = """
    import sys, mmsb_jax as mmsb, numpy as np
    bus = mmsb.open(sys.argv[1])
    bus.commit({"n": np.arange(3)})
    print("open", flush=True)
    sys.stdin.read()
"""


def test_log_that_another_process_writes_is_refused_and_taken_over_when_it_is_dead(tmp_path):
    path = tmp_path / "run"
    with subprocess.Popen(
        command_of(_HOLD, path), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(mmsb.LockedError, match=f"written by process {process.pid} on .*='r'"):
            mmsb.open(path)
        with mmsb.open(path, mode="r") as reader:
            assert reader.version == 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    with mmsb.open(path) as bus:
        assert bus.commit({"n": np.arange(3) + 1}).version == 2


def test_log_opened_twice_in_one_process_is_the_same_bus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bus = mmsb.open("run")
    assert mmsb.open(tmp_path / "run") is bus
    os.symlink(tmp_path / "run", tmp_path / "link")
    assert mmsb.open(tmp_path / "link") is bus
    with pytest.raises(ValueError, match="durability"):
        mmsb.open("run", durability="fsync")
    bus.close()
    again = mmsb.open("run", durability="fsync")
    assert again is not bus
    assert again.durability == "fsync"
    again.close()


def test_bus_that_nobody_holds_gives_its_log_back(tmp_path):
    bus = mmsb.open(tmp_path / "run")
    bus.commit(make_tree(0))
    bus.commit(make_tree(1), wait=False)
    bus.create("x", nbytes=3)
    del bus
    with mmsb.open(tmp_path / "run") as again:
        assert again.version == 3
        assert_same_tree(again.read("x"), jnp.zeros(3, jnp.uint8))


def test_bus_in_a_forked_child_is_closed_and_the_parents_goes_on(tmp_path):
    code = """
        import os, sys, mmsb_jax as mmsb, numpy as np
        bus = mmsb.open(sys.argv[1])
        bus.create("x", nbytes=3)
        bus.write("x", np.ones(3, np.uint8))
        child = os.fork()
        if child == 0:
            said = [bus.closed]
            for call in (lambda: bus.write("x", np.zeros(3, np.uint8)), lambda: bus.read("x"),
                         lambda: bus.version, bus.sync, lambda: bus.commit({"a": 1}, wait=False)):
                try:
                    call()
                except mmsb.ClosedError as error:
                    said.append("which forked this one" in str(error))
            try:
                mmsb.open(sys.argv[1])
            except mmsb.LockedError as error:
                said.append(f"process {os.getppid()} " in str(error))
            bus.close()
            with mmsb.open(sys.argv[1], mode="r") as reader:
                said.append(reader.version == 1)
            print(said, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(bus.write("x", np.zeros(3, np.uint8)).version, bool(bus.verify()))
        bus.close()
    """
    assert run_script(code, tmp_path / "run") == f"{[True] * 8}\n2 True"


def test_closed_bus_refuses_every_call(tmp_path):
    for path in (None, tmp_path / "run"):
        bus = mmsb.open(path)
        bus.commit(make_tree(0))
        with bus:
            bus.commit(make_tree(1), wait=False)
        bus.close()
        assert bus.closed
        assert "closed" in repr(bus)
        for call in (
            lambda: bus.version,
            lambda: bus.layout,
            lambda: bus.commit(make_tree(0)),
            lambda: bus.commit(make_tree(0), wait=False),
            lambda: bus.resume(make_tree(0)),
            lambda: bus.create("x", nbytes=3),
            lambda: bus.read("w"),
            lambda: bus.write("w", jnp.zeros(6)),
            lambda: bus.delete("x"),
            lambda: bus.resize("x", nbytes=3),
            lambda: bus.clone("w", "x"),
            lambda: bus.apply(mmsb.Delta.empty()),
            lambda: bus.extend(mmsb.TLog.empty(1, 1)),
            lambda: bus.batch().__enter__(),
            bus.tree,
            bus.checkout,
            bus.log,
            lambda: bus.diff(1, 2),
            lambda: bus.history("w"),
            bus.fork,
            bus.snapshot,
            bus.sync,
            bus.verify,
            bus.stats,
        ):
            with pytest.raises(mmsb.ClosedError, match="this bus is closed"):
                call()
    with mmsb.open(tmp_path / "run", mode="r") as reader:
        assert_same_tree(reader.checkout(like=make_tree(9)), make_tree(1))
    with pytest.raises(mmsb.ClosedError, match="this bus is closed"):
        reader.tree()


def test_reader_refuses_to_write(tmp_path):
    with mmsb.open(tmp_path / "run") as bus:
        bus.commit(make_tree(0))
        before = _files(tmp_path)
        with mmsb.open(tmp_path / "run", mode="r") as reader:
            for call in (
                lambda: reader.commit(make_tree(1)),
                lambda: reader.write("w", jnp.zeros(6)),
                lambda: reader.create("x", nbytes=3),
                lambda: reader.delete("w"),
                lambda: reader.batch().__enter__(),
                lambda: reader.apply(mmsb.Delta.empty()),
                lambda: reader.extend(mmsb.TLog.empty(1, 1)),
                reader.snapshot,
                reader.sync,
                reader.reset_stats,
            ):
                with pytest.raises(mmsb.ClosedError, match="opened with mode='r'"):
                    call()
            assert reader.durability is None
            assert reader.verify()
        assert _files(tmp_path) == before


def test_reader_beside_a_writer_sees_whole_commits(tmp_path):
    code = """
        import sys, mmsb_jax as mmsb, numpy as np
        bus = mmsb.open(sys.argv[1])
        print("open", flush=True)
        for number in range(1, 400):
            bus.commit({k: np.full(5000, number) for k in "abc"}, step=number)
            if number % 50 == 0:
                bus.snapshot()
        bus.close()
    """
    path = tmp_path / "run"
    with subprocess.Popen(
        command_of(code, path), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "open\n"
        seen: set[int] = set()
        with mmsb.open(path, mode="r") as reader:
            while process.poll() is None:
                tree = reader.tree()
                values = {int(x) for array in tree.values() for x in array}
                assert len(values) <= 1  # an empty log, or one commit and no part of another
                seen |= values
            assert process.returncode == 0
            assert reader.version == 399
            assert [c.step for c in reader.log(since=390)] == list(range(390, 400))
            assert reader.verify()
    assert len(seen) > 5


def test_process_that_ends_without_closing_lands_what_was_queued(tmp_path):
    code = """
        import sys, mmsb_jax as mmsb, jax.numpy as jnp
        bus = mmsb.open(sys.argv[1])
        for number in range(20):
            bus.commit({"w": jnp.arange(1000.0) + number}, wait=False)
        bus.create("x", nbytes=3)
    """
    assert run_script(code, tmp_path / "run") == ""
    with mmsb.open(tmp_path / "run", mode="r") as reader:
        assert reader.version == 21
        assert reader.durable_version == 21
        assert_same_tree(reader.checkout(version=20)["w"], jnp.arange(1000.0) + 19)
        assert_same_tree(reader.read("x"), jnp.zeros(3, jnp.uint8))


@pytest.mark.parametrize("durability", ["os", "fsync", ("group", 5)])
def test_durability_says_which_commits_survive_a_power_cut(tmp_path, durability):
    with mmsb.open(tmp_path / "run", durability=durability) as bus:
        commit = bus.commit(make_tree(0))
        if durability == "fsync":
            assert commit.durable
        if durability == "os":
            assert not commit.durable
        assert bus.sync() == bus.durable_version == 1
        assert commit.durable
        assert next(bus.log()).durable
        bus.commit(make_tree(1), wait=False)
    with mmsb.open(tmp_path / "run", mode="r") as reader:
        assert reader.durable_version == 2
        assert all(c.durable for c in reader.log())


def test_checkout_of_the_newest_version_in_the_writer_reads_no_file(any_bus, monkeypatch):
    monkeypatch.undo()  # the comparison with the log, which all other tests have
    tree = {"w": jnp.arange(3.0), "n": np.ones(2), "k": 3}
    any_bus.commit(tree, step=1)
    any_bus.commit(tree | {"n": np.zeros(2)}, step=2)

    def read(*arguments, **options):
        raise AssertionError("the log is read")

    monkeypatch.setattr(any_bus._session.files, "read", read)
    for chosen in ({}, {"version": 2}, {"step": 2}):
        found = any_bus.checkout(**chosen)
        assert found["n"].tolist() == [0, 0]
        found["n"][0] = 7  # the caller's own
        assert any_bus.checkout(arrays=["w"], **chosen).tolist() == [0, 1, 2]
        assert any_bus.checkout(like=tree, **chosen)["k"] == 3
    with pytest.raises(AssertionError, match="the log is read"):
        any_bus.checkout(version=1)
