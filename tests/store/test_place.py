import os
from pathlib import Path

import pytest

from mmsb_jax._base.errors import LocationError
from mmsb_jax._store.files import local
from mmsb_jax._store.files.local import check_local, file_system_of, sync_path_to


def mount(monkeypatch, *lines: str) -> None:
    """Let the system say that these are its file systems."""
    raw = "".join(f"{line} rw 0 0\n" for line in lines).encode()
    monkeypatch.setattr(Path, "read_bytes", lambda _: raw)


@pytest.mark.parametrize("url", ["s3://bucket/run.mmsb", "gs://b/r", "file:///tmp/x", "a+b://c"])
def test_place_that_is_a_url_is_refused(url):
    with pytest.raises(LocationError, match="is a URL"):
        check_local(url)


def test_place_with_a_zero_character_is_refused():
    with pytest.raises(LocationError, match="zero character"):
        check_local("run\0.mmsb")


def test_place_is_absolute_and_need_not_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_local("run.mmsb") == check_local(Path("run.mmsb")) == tmp_path / "run.mmsb"
    assert check_local("~/x") == tmp_path / "x"
    assert check_local("a:b//c") == tmp_path / "a:b/c"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "lustre", "9p", "beegfs"])
def test_place_on_a_network_file_system_is_refused_by_name(monkeypatch, kind):
    mount(monkeypatch, "/dev/sda / ext4", f"server:/x /data {kind}", "/dev/sdb /data/local xfs")
    with pytest.raises(LocationError, match=f"lies on {kind}, a network file system"):
        check_local("/data/run.mmsb")
    assert check_local("/data/local/run.mmsb") == Path("/data/local/run.mmsb")
    assert check_local("/database/run.mmsb") == Path("/database/run.mmsb")


def test_file_system_is_that_of_the_innermost_and_latest_mount(monkeypatch):
    mount(
        monkeypatch, "a / ext4", "b /mnt nfs", "c /mnt/in xfs", "d /mnt/in/deep nfs4", "e /mnt xfs"
    )
    kinds = [
        file_system_of(Path(p)) for p in ("/x", "/mnt", "/mnt/in/x", "/mnt/in/deep/y", "/mntx")
    ]
    assert kinds == ["ext4", "xfs", "xfs", "nfs4", "ext4"]


def test_file_system_of_a_mount_with_odd_characters_is_found(monkeypatch):
    mount(monkeypatch, "a / ext4", "b /mnt/a\\040b\\134c/ü nfs")
    assert file_system_of(Path("/mnt/a b\\c/ü/run.mmsb")) == "nfs"


def test_file_system_behind_a_link_is_found(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("/data")
    mount(monkeypatch, "a / ext4", "b /data nfs")
    assert file_system_of(tmp_path / "link" / "run.mmsb") == "nfs"


def test_file_system_that_cannot_be_told_is_empty(monkeypatch):
    def refuse(_):
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert file_system_of(Path("/x")) == ""
    assert check_local("/x") == Path("/x")


def test_file_system_of_this_machine_is_told():
    assert file_system_of(Path(os.sep)) != ""
    assert "ext4" not in local._NETWORK


def test_path_to_a_new_directory_is_synced_up_to_the_root_of_its_file_system(tmp_path, monkeypatch):
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    sync_path_to(place)
    device = place.stat().st_dev
    above = [str(folder) for folder in place.parents if folder.stat().st_dev == device]
    assert synced == above
    assert synced[:2] == [str(tmp_path / "a"), str(tmp_path)]
