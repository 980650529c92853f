import struct

import pytest

from mmsb_jax._base.errors import CorruptionError, FormatError, LocationError
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.chain import LogIds
from mmsb_jax._store.format.frame import Kind, build_frame
from mmsb_jax._store.format.manifest import Manifest
from mmsb_jax._store.format.names import MANIFEST_NAME

MANIFEST = Manifest(LogIds(((b"a" * 16, 3), (b"b" * 16, 9)), b"c" * 16), 4096, 123)


def test_manifest_published_and_read_is_equal():
    files = MemoryFiles()
    MANIFEST.publish(files)
    assert Manifest.read(files, "x") == MANIFEST


def test_manifest_that_is_missing_means_that_this_is_no_log():
    with pytest.raises(LocationError, match="x is not a log: it has no manifest"):
        Manifest.read(MemoryFiles(), "x")


def test_manifest_cut_short_at_any_byte_is_refused():
    files = MemoryFiles()
    MANIFEST.publish(files)
    whole = files.read(MANIFEST_NAME)
    for size in range(len(whole)):
        files.publish(MANIFEST_NAME, [whole[:size]])
        with pytest.raises(CorruptionError, match="x/manifest is damaged at byte 0"):
            Manifest.read(files, "x")


@pytest.mark.parametrize(
    ("kind", "meta"),
    [
        (Kind.INDEX, struct.pack("<16sQQI", b"c" * 16, 4096, 1, 0)),
        (Kind.MANIFEST, struct.pack("<16sQQI", b"c" * 16, 4096, 1, 2**32 - 1)),
        (Kind.MANIFEST, struct.pack("<16sQQI", b"c" * 16, 4096, 1, 1)),
        (Kind.MANIFEST, struct.pack("<16sQQI", b"c" * 16, 0, 1, 0)),
        (Kind.MANIFEST, struct.pack("<16sQQI", b"c" * 16, 129, 1, 0)),
        (Kind.MANIFEST, b""),
    ],
)
def test_manifest_whose_frame_is_whole_and_lies_is_refused(kind, meta):
    files = MemoryFiles()
    files.publish(MANIFEST_NAME, build_frame(kind, 0, 0, meta)[1])
    with pytest.raises(CorruptionError, match="is damaged"):
        Manifest.read(files, "x")


def test_manifest_of_an_unknown_kind_is_refused_as_newer():
    files = MemoryFiles()
    files.publish(MANIFEST_NAME, build_frame(99, 0, 0, b"")[1])
    with pytest.raises(FormatError, match="unknown kind 99"):
        Manifest.read(files, "x")


@pytest.mark.parametrize(
    ("version", "log_id"), [(1, b"a"), (3, b"a"), (4, b"b"), (9, b"b"), (10, b"c"), (99, b"c")]
)
def test_ids_say_which_log_wrote_a_version(version, log_id):
    assert MANIFEST.ids.of(version) == log_id * 16
