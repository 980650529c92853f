import pytest

from mmsb_jax._base.errors import FormatError
from mmsb_jax._store.files.memory import MemoryFiles
from mmsb_jax._store.format.frame import BadFrameError, Kind, build_frame, reader_of
from mmsb_jax._store.format.names import index_name, list_segments
from mmsb_jax._store.log.log import Log
from mmsb_jax._store.log.segment import (
    SEGMENT_FRAME_BYTES,
    Segment,
    newest_mark_behind,
    read_segment,
)
from tests.store._logs import PLACE, Scribe, check_log, open_and_compare

SEGMENT = Segment(b"i" * 16, 3, 2, 70, 6400, b"c" * 16, 5000)


def test_segment_written_and_read_is_equal():
    files = MemoryFiles()
    files.publish(SEGMENT.name, SEGMENT.frame())
    assert SEGMENT.name == "log/00000003-00000000000000000070.seg"
    assert files.size(SEGMENT.name) == SEGMENT_FRAME_BYTES == 128
    assert read_segment(files, SEGMENT.name) == SEGMENT


@pytest.mark.parametrize("number", [4, 123_456_789])
def test_segment_under_another_name_is_refused(number):
    files = MemoryFiles()
    name = f"log/{number:08d}-{70:020d}.seg"
    files.publish(name, SEGMENT.frame())
    with pytest.raises(BadFrameError, match="declares itself to be log/00000003"):
        read_segment(files, name)


def test_segment_that_begins_with_another_frame_is_refused():
    files = MemoryFiles()
    files.publish(SEGMENT.name, build_frame(Kind.MARK, 0, 0)[1])
    with pytest.raises(BadFrameError, match="does not begin with the frame of a segment"):
        read_segment(files, SEGMENT.name)


def test_segments_listed_are_those_with_the_right_names_by_number():
    names = [
        SEGMENT.name,
        "log/00000012-00000000000000000001.seg",
        "log/100000000-00000000000000000001.seg",
        "log/0000003-00000000000000000070.seg",
        "log/00000003-00000000000000000070.idx",
        "log/00000003-00000000000000000070.seg.draft",
        "log/٠٠٠٠٠٠٠٤-00000000000000000070.seg",
        "log/00000003-70.seg",
        "log/x/00000003-00000000000000000070.seg",
    ]
    assert [number for number, *_ in list_segments(names)] == [3, 12, 100_000_000]
    assert index_name(SEGMENT.name) == SEGMENT.index_name == names[4]


def append(scribe: Scribe, kind: int, **frame) -> None:
    """A frame behind the log's end, as a later version might write it."""
    scribe.writer.sync()
    name, position = scribe.log.pieces[-1].segment.name, scribe.log.position
    scribe.files.reopen(name).append(build_frame(kind, position, position, **frame)[1])


def test_frame_of_a_later_version_that_may_be_passed_over_is():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    append(scribe, 99, meta=b"m" * 70, data=[b"d" * 70], must_understand=False)
    scribe = Scribe(scribe.files, history=scribe.history)
    assert scribe.log.recovered == []
    assert len(scribe.log.pieces) == 1
    scribe.patch("w", {0: 1}).commit()
    scribe.close()
    check_log(Log(scribe.files, PLACE), scribe.history)


def test_frame_of_a_later_version_that_must_be_understood_is_refused():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    append(scribe, 99)
    with pytest.raises(FormatError, match="unknown kind 99"):
        Log(scribe.files, PLACE)


def test_frame_to_pass_over_that_is_cut_short_is_a_torn_tail():
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    name, end = scribe.log.pieces[-1].segment.name, scribe.log.position
    frame = build_frame(99, end, 0, data=[b"d" * 70], must_understand=False)[1]
    scribe.files.reopen(name).append([b"".join(frame)[:-1]])
    found = open_and_compare(scribe.files, scribe.history)
    assert (found.version, len(found.recovered)) == (1, 1)


@pytest.mark.parametrize("kind", [Kind.SEGMENT, Kind.SNAPSHOT, Kind.MANIFEST, Kind.INDEX])
def test_frame_of_a_kind_that_has_no_place_in_a_log_ends_it(kind):
    scribe = Scribe()
    scribe.create("w", (2,)).commit()
    name, end = scribe.log.pieces[-1].segment.name, scribe.log.position
    scribe.files.reopen(name).append(build_frame(kind, end, 0)[1])
    found = open_and_compare(scribe.files, scribe.history)
    assert f"a frame of kind {int(kind)} where none should be" in found.recovered[0]


def test_mark_behind_is_the_newest_of_any_whole_header():
    raw = bytearray(1 << 23)
    for offset, synced in ((128, 5), (1 << 22, 900), ((1 << 22) + 640, 70)):
        frame = b"".join(build_frame(Kind.MARK, SEGMENT.base + offset, synced)[1])
        raw[offset : offset + 64] = frame
    bad = b"".join(build_frame(Kind.MARK, SEGMENT.base + 6400, 10**9)[1])
    raw[6400:6464] = bad[:-1] + bytes([bad[-1] ^ 1])
    raw[6528:6592] = bad  # whole, but it belongs elsewhere
    raw[7001:7065] = b"".join(build_frame(Kind.MARK, SEGMENT.base + 7001, 10**9)[1])  # askew
    files = MemoryFiles()
    files.publish(SEGMENT.name, [raw])
    read = reader_of(files, SEGMENT.name)
    assert newest_mark_behind(read, SEGMENT, 0) == 900
    assert newest_mark_behind(read, SEGMENT, (1 << 22) + 1) == 70
    assert newest_mark_behind(read, SEGMENT, (1 << 22) + 700) == 0


@pytest.mark.parametrize("size", [0, 1, 63, 64, 100])
def test_mark_behind_in_a_file_of_any_size_ends(size):
    files = MemoryFiles()
    files.publish(SEGMENT.name, [b"MMSB" * 25][: size and 1])
    files.reopen(SEGMENT.name).truncate(size)
    assert newest_mark_behind(reader_of(files, SEGMENT.name), SEGMENT, 0) == 0
