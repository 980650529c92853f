"""``mmsb show``."""

import numpy as np
import pytest

from mmsb_jax._store.commit.draft import Draft
from mmsb_jax._store.encoding.digest import digest_words
from mmsb_jax._store.format.record import DIGEST
from mmsb_jax._store.maintain.compact import compact


def test_show_without_a_version_shows_the_newest(mmsb, small):
    assert mmsb("show", small, "--json").json["version"] == 4


@pytest.mark.parametrize(
    ("selection", "expected"),
    [([2], 2), (["--step", 20], 2), (["--time-ns", 3_999_999_999], 3)],
)
def test_show_of_a_selection_shows_that_version(mmsb, small, selection, expected):
    assert mmsb("show", small, *selection, "--json").json["version"] == expected


def test_show_gives_the_commit_and_the_arrays_after_it(mmsb, small):
    shown = mmsb("show", small, 3, "--json").json
    assert (shown["step"], shown["source"], shown["note"]) == (30, "train", {"loss": 0.5})
    assert shown["extra"] == {"kind": "bytes", "bytes": 3}
    assert shown["changed"] == ["params/b"]
    b, w = shown["arrays"]
    lanes = digest_words(np.full(8, 2, np.float32).view(np.uint32))
    assert b == {
        "name": "params/b",
        "kind": "numpy",
        "dtype": "float32",
        "shape": [8],
        "bytes": 32,
        "changed_bytes": 16,
        "digest": "{:08x}{:08x}".format(*lanes),
    }
    assert (w["name"], w["shape"], w["changed_bytes"]) == ("params/w", [4, 8], 0)


def test_show_of_an_earlier_version_shows_the_arrays_of_then(mmsb, recorder):
    recorder.commit({"early": np.ones(2, np.int8)}, values={"act": "f:jax.nn.relu"})
    recorder.commit({"early": None, "late": np.ones(2, np.int8)}, values={"act": None})
    first = mmsb("show", recorder.path, 1, "--json").json
    assert [array["name"] for array in first["arrays"]] == ["early"]
    assert first["values"] == {"act": {"kind": "function", "value": "jax.nn.relu"}}
    second = mmsb("show", recorder.path, 2, "--json").json
    assert [array["name"] for array in second["arrays"]] == ["late"]
    assert second["values"] == {}


def test_show_of_a_json_extra_gives_its_kind_and_size(mmsb, recorder):
    extra = b'{"position":' + b"1" * 3_000_000 + b"}"
    recorder.commit({"x": np.zeros(3)}, extra=extra, extra_is_json=True)
    shown = mmsb("show", recorder.path, "--json").json
    assert shown["extra"] == {"kind": "json", "bytes": len(extra)}


@pytest.mark.parametrize("extra", [None, b""])
def test_show_of_no_extra_and_an_empty_one_differ(mmsb, recorder, extra):
    recorder.commit({"x": np.zeros(3)}, extra=extra)
    shown = mmsb("show", recorder.path, "--json").json
    assert shown["extra"] == (None if extra is None else {"kind": "bytes", "bytes": 0})


def test_show_as_text_has_the_facts_and_the_table(mmsb, small):
    out = mmsb("show", small, 3).out
    assert "\nsource   train\n" in out
    assert '\nnote     {"loss": 0.5}\n' in out
    assert "\nextra    bytes, 3 bytes\n" in out
    assert "\nchanged  16 bytes of params/b\n" in out
    row = next(line for line in out.splitlines() if line.startswith("params/w"))
    assert row.split()[1:4] == ["float32[4,8]", "128", "0"]


def test_show_of_an_empty_log_exits_3(mmsb, recorder):
    ran = mmsb("show", recorder.path)
    assert ran.code == 3
    assert "the log is empty" in ran.err


def test_show_of_a_dropped_version_shows_what_its_commit_said(mmsb, recorder, small):
    recorder.writer.append_tags({"tagged": 2})
    recorder.writer.close()
    whole = [mmsb("show", small, version, "--json").json for version in (1, 2, 3, 4)]
    assert mmsb("compact", small, "--keep-since", 4).code == 0
    assert [shown["dropped"] for shown in whole] == [False] * 4
    for version in (2, 3, 4):  # tagged, the one before what is kept, kept
        assert mmsb("show", small, version, "--json").json == whole[version - 1]
    dropped = mmsb("show", small, "--step", 10, "--json").json
    touched = [
        {key: array[key] for key in ("name", "changed_bytes", "digest")}
        for array in whole[0]["arrays"]
        if array["name"] == "params/b"  # the other is zeros: the commit has no record of it
    ]
    assert dropped == whole[0] | {"dropped": True, "arrays": touched, "values": None}


def test_show_of_a_dropped_version_as_text_says_that_it_was_dropped(mmsb, recorder, small):
    compact(recorder.writer, 4)
    before, _, after = mmsb("show", small, 2).out.partition("\narray")
    assert "\nstep     20\n" in before
    assert "\nchanged  12 bytes of params/w\n" in before
    heading, row, _, message = after.splitlines()
    assert heading.split() == ["changed", "digest"]
    assert row.split()[:2] == ["params/w", "12"]
    assert message.startswith("the data of version 2 were dropped when the log was compacted.")
    assert message.endswith("the nearest is 3.")


def test_show_of_a_dropped_version_without_a_change_shows_no_array(mmsb, recorder):
    for value in (1, 1, 2, 3):
        recorder.commit({"x": np.full(3, value)}, extra=b"extra", note=f"{value}")
    compact(recorder.writer, 4)
    out = mmsb("show", recorder.path, 2).out
    assert "\nextra    bytes, 5 bytes\n" in out
    assert "\nchanged  0 bytes of no array\n" in out
    assert "array  " not in out
    assert out.splitlines()[-1].startswith("the data of version 2 were dropped")


@pytest.mark.parametrize("version", [0, 5])
def test_show_of_no_version_of_a_compacted_log_exits_3(mmsb, recorder, small, version):
    compact(recorder.writer, 4)
    ran = mmsb("show", small, version, "--json")
    assert (ran.code, ran.error["error"]) == (3, "VersionError")
    assert "does not exist" in ran.error["message"]


def test_show_of_a_version_without_bytes_says_so(mmsb, recorder):
    recorder.commit({"w": np.zeros(8, np.float32)})
    for number in (1, 2):
        recorder.head.land_digests(np.array([(1, number, number, 0)], DIGEST), Draft())
    shown = [mmsb("show", recorder.path, version, "--json").json for version in (1, 2, 3)]
    assert [found["saved"] for found in shown] == [True, False, False]
    assert [found["arrays"][0]["digest"] for found in shown] == [
        f"{number:08x}" * 2 for number in range(3)
    ]
    assert "not logged: digests only" in mmsb("show", recorder.path, 3).out
