import errno

import pytest

from mmsb_jax._base.errors import ClosedError, LocationError, VersionError
from mmsb_jax._store.files.disk import DiskFiles
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.frame import BadFrameError, Kind, build_frame
from mmsb_jax._store.format.tags import MAX_TAG_BYTES, check_tag, decode_tags, encode_tags
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.maintain.fork import fork_log
from mmsb_jax._store.maintain.verify import verify
from mmsb_jax.testing._faulty import Faults, FaultyFiles
from tests.store._logs import PLACE, Scribe, check_log, copy_files


def tagged_story(files=None) -> Scribe:
    """Tags in three segments: set, moved, taken away."""
    scribe = Scribe(files)
    scribe.create("w", (3,)).commit()
    scribe.writer.append_tags({"a": 1, "b": 1})
    scribe.patch("w", {0: 1}).commit()
    scribe.snapshot()
    scribe.writer.append_tags({"a": 2})
    scribe.snapshot()
    scribe.patch("w", {0: 2}).commit()
    scribe.writer.append_tags({"b": None, "c": 3, "ünï": 2})
    return scribe


TAGS = {"a": 2, "c": 3, "ünï": 2}


def test_tags_of_a_log_are_the_newest_of_each_name(tmp_path):
    for files in (MemoryFiles(), DiskFiles(tmp_path)):
        scribe = tagged_story(files)
        assert scribe.log.tags() == TAGS
        assert list(scribe.log.tags()) == sorted(TAGS)
        for name in files.names("log"):
            if name.endswith(".idx"):
                assert Log(files, PLACE).tags() == TAGS
                files.remove(name)  # the sidecars are no more than a copy
        assert Log(files, PLACE).tags() == TAGS
        scribe.reopen()
        log = Log(files, PLACE)
        assert log.tags() == TAGS
        assert log.tagged("c") == 3
        assert verify(log)
        check_log(log, scribe.history)


def test_reader_sees_tags_as_they_are_made():
    scribe = tagged_story()
    reader = Log(scribe.files, PLACE)
    scribe.writer.append_tags({"d": 1})
    assert reader.tags() == TAGS
    reader.refresh()
    assert reader.tags() == TAGS | {"d": 1}
    scribe.snapshot()
    scribe.writer.append_tags({"d": None})
    reader.refresh()
    assert reader.tags() == TAGS


def test_tag_is_no_commit():
    scribe = tagged_story()
    before = scribe.log.version, scribe.log.chain_after(3)
    scribe.writer.append_tags({"z": 3})
    assert (scribe.log.version, scribe.log.chain_after(3)) == before
    check_log(Log(scribe.files, PLACE), scribe.history)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_fork_has_the_tags_up_to_its_version_as_they_are_now(version: int):
    scribe = tagged_story()
    target = MemoryFiles()
    fork_log(scribe.log, version, target)
    expected = {name: tagged for name, tagged in TAGS.items() if tagged <= version}
    assert Log(target, PLACE).tags() == expected
    assert verify(Log(target, PLACE))
    fork = Scribe(target, history=scribe.history[: version + 1])
    fork.snapshot()
    fork.patch("w", {1: 9}).commit()
    again = MemoryFiles()
    fork_log(fork.log, version, again)
    assert Log(again, PLACE).tags() == expected


def test_tag_that_cannot_be_written_changes_nothing():
    faults = Faults(code=errno.ENOSPC, is_short=True)
    scribe = tagged_story(FaultyFiles(MemoryFiles(), faults))
    faults.arm(0)
    with pytest.raises(LocationError, match="nothing was written"):
        scribe.writer.append_tags({"x": 1})
    faults.disarm()
    assert scribe.log.tags() == TAGS
    scribe.writer.append_tags({"y": 1})
    scribe.patch("w", {0: 9}).commit()
    assert Log(scribe.files, PLACE).tags() == TAGS | {"y": 1}
    check_log(Log(scribe.files, PLACE), scribe.history)


def test_tag_is_durable_when_a_commit_is():
    faults = Faults(kinds=frozenset({"sync"}))
    scribe = tagged_story(FaultyFiles(MemoryFiles(), faults)).reopen("fsync")
    faults.arm(0)
    with pytest.raises(ClosedError, match="a sync of the log failed"):
        scribe.writer.append_tags({"x": 1})
    assert Log(scribe.files, PLACE).tags() == TAGS


def test_tag_cut_off_after_a_close_is_damage_and_no_torn_tail():
    scribe = tagged_story()
    scribe.writer.sync()
    scribe.patch("w", {0: 7}).commit()
    scribe.writer.sync()
    scribe.writer.append_tags({"last": 4})
    end = scribe.log.scan.offset
    scribe.close()
    files = copy_files(scribe.files)
    name = scribe.log.pieces[-1].segment.name
    raw = bytearray(files.read(name))
    raw[end - 100] ^= 1
    files.publish(name, [raw])
    with pytest.raises(Exception, match="is damaged at byte"):
        Log(files, PLACE)


@pytest.mark.parametrize("size", [1, 40, 64, 100])
def test_tag_that_is_torn_is_left_out(size: int):
    scribe = tagged_story()
    name, start = scribe.log.pieces[-1].segment.name, scribe.log.scan.offset
    scribe.writer.append_tags({"torn": 1})
    files = copy_files(scribe.files)
    files.publish(name, [files.read(name)[: start + size]])
    log = Log(files, PLACE)
    assert log.tags() == TAGS
    assert "not a whole commit" in log.recovered[0]
    scribe = Scribe(files, history=scribe.history)
    scribe.patch("w", {2: 2}).commit()
    assert Log(files, PLACE).tags() == TAGS


def test_tag_frame_may_be_passed_over():
    header, _ = build_frame(Kind.TAG, 0, 0, encode_tags({"a": 1}), must_understand=False)
    assert not header.must_understand


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"1",
        b'{"a": "b"}',
        b'{"a": true}',
        b'{"a": 1.5}',
        b'{"a": 0}',
        b'{"a": -1}',
        b'{"a": 9223372036854775808}',
        b'{"a": [1]}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_tags_that_do_not_parse_are_bad(raw: bytes):
    with pytest.raises(BadFrameError, match="the tags"):
        decode_tags(raw)


def test_tags_encoded_and_decoded_are_equal():
    changes = {"a": 1, "b": None, 'ü"\\\x00': 2**63 - 1}
    assert decode_tags(encode_tags(changes)) == changes


@pytest.mark.parametrize("name", ["", "x" * (MAX_TAG_BYTES + 1), "ü" * 128, "a\nb", "12", "\ud800"])
def test_name_that_can_be_no_tag_is_refused(name: str):
    with pytest.raises(ValueError, match=r"expected 1 to 255 bytes"):
        check_tag(name)


def test_name_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match="expected a string"):
        check_tag(3)


def test_unknown_tag_is_refused_with_those_there_are():
    log = tagged_story().log
    with pytest.raises(
        VersionError, match=r"no version is tagged 'x'\. There are 3 tags: 'a', 'c', 'ünï'"
    ):
        log.tagged("x")


def test_hostile_tag_of_a_version_that_is_not_there_is_none():
    scribe = tagged_story()
    scribe.writer.append_tags({"future": 99})
    assert Log(scribe.files, PLACE).tags() == TAGS
