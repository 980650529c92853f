"""``mmsb log``."""

import numpy as np
import pytest


def versions(ran) -> list[int]:
    return [commit["version"] for commit in ran.json["commits"]]


def test_log_without_options_lists_every_commit_oldest_first(mmsb, small):
    ran = mmsb("log", small, "--json")
    assert versions(ran) == [1, 2, 3, 4]
    assert ran.json["matching"] == 4


def test_log_of_a_commit_gives_what_was_said_of_it(mmsb, small):
    commit = mmsb("log", small, "--json").json["commits"][2]
    assert commit.pop("logged_bytes") > 0
    assert commit == {
        "version": 3,
        "step": 30,
        "time_ns": 3_000_000_000,
        "time": "1970-01-01T00:00:03.000000Z",
        "source": "train",
        "note": {"loss": 0.5},
        "changed": ["params/b"],
        "changed_bytes": 16,
        "saved": True,
        "saved_arrays": ["params/b"],
        "durable": False,
    }


def test_log_as_a_table_has_a_line_a_commit(mmsb, small, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    lines = mmsb("log", small).out.splitlines()
    assert lines[0] == "version  step  time                 source  arrays  changed  logged  note"
    assert len(lines) == 5
    assert lines[3].split()[:2] == ["3", "30"]
    assert '{"loss": 0.5}' in lines[3]
    assert lines[4].split()[1] == "–"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--source", "train"], [2, 3]),
        (["--source", "nobody"], []),
        (["--since", 2], [2, 3, 4]),
        (["--until", 2], [1, 2]),
        (["--since", 2, "--until", 3], [2, 3]),
        (["--since", 5], []),
        (["--limit", 2], [3, 4]),
        (["-n", 0], [1, 2, 3, 4]),
        (["--source", "train", "-n", 1], [3]),
        (["--array", "params/w"], [2]),
        (["--array", "params/*"], [1, 2, 3]),
        (["--array", "params"], [1, 2, 3]),
        (["--array", "*/b", "--array", "params/w"], [1, 2, 3]),
    ],
)
def test_log_with_options_selects(mmsb, small, options, expected):
    assert versions(mmsb("log", small, "--json", *options)) == expected


def test_log_of_an_array_that_never_was_exits_3(mmsb, small):
    ran = mmsb("log", small, "--array", "prams/**")
    assert ran.code == 3
    assert "no array of this log matches 'prams/**'" in ran.err
    assert "params/b" in ran.err


def test_log_of_a_deleted_array_finds_its_commits(mmsb, recorder):
    recorder.commit({"gone": np.ones(3), "kept": np.ones(3)})
    recorder.snapshot()
    recorder.commit({"gone": None})
    assert versions(mmsb("log", recorder.path, "--array", "gone", "--json")) == [1]


def test_log_longer_than_a_table_says_how_to_see_the_rest(mmsb, recorder):
    for i in range(60):
        recorder.commit({"x": np.full(3, i)})
    lines = mmsb("log", recorder.path).out.splitlines()
    assert len(lines) == 52
    assert lines[1].split()[0] == "11"
    assert lines[-1] == "The newest 50 of 60 commits; -n 0 shows all."
    assert len(mmsb("log", recorder.path, "-n", 0).out.splitlines()) == 61
    assert len(versions(mmsb("log", recorder.path, "--json"))) == 60


def test_log_of_an_empty_log_says_so(mmsb, recorder):
    assert mmsb("log", recorder.path).out == "no commits\n"
    assert mmsb("log", recorder.path, "--json").json == {"matching": 0, "commits": []}


def test_log_over_several_segments_is_one_list(mmsb, recorder):
    for i in range(6):
        recorder.commit({"x": np.full(3, i)})
        if i % 2:
            recorder.snapshot()
    assert versions(mmsb("log", recorder.path, "--json")) == [1, 2, 3, 4, 5, 6]


def test_log_with_a_note_of_nan_is_json(mmsb, recorder):
    recorder.commit({"x": np.zeros(3)}, note='{"loss":NaN}')
    assert mmsb("log", recorder.path, "--json").json["commits"][0]["note"] == {"loss": "NaN"}


def test_log_of_an_array_that_is_older_than_the_log_finds_it(mmsb, joined):
    assert versions(mmsb("log", joined, "--json")) == [3, 4]
    assert versions(mmsb("log", joined, "--array", "params/b", "--json")) == [3]
    assert versions(mmsb("log", joined, "--array", "*/w", "--json")) == []
    assert mmsb("compact", joined, "--keep-since", 4).code == 0
    assert versions(mmsb("log", joined, "--array", "params/*", "--json")) == [3]
