"""The commits of a log as a sequence."""

import pytest

import mmsb_jax as mmsb


@pytest.fixture
def thirty(bus):
    for step in range(30):
        bus.commit({"w": float(step)}, step=step, source="train", note={"loss": 30 - step})
    return bus


def test_commits_are_a_sequence(thirty):
    commits = thirty.commits
    assert len(commits) == 30
    assert [commit.version for commit in commits] == list(range(1, 31))
    assert commits[0].step == 0
    assert commits[-1].step == commits[29].step == 29
    assert [commit.step for commit in commits[10:20:5]] == [10, 15]
    assert [commit.step for commit in reversed(commits[-2:])] == [29, 28]
    assert commits[3] in commits
    assert commits[3] not in commits[:2]
    assert "w" not in commits
    with pytest.raises(IndexError, match="there are 30 commits"):
        commits[30]


def test_commits_stay_what_they_were(thirty):
    commits = thirty.commits
    thirty.commit({"w": 0.0})
    assert len(commits) == 30
    assert len(thirty.commits) == 31


def test_commits_print_as_a_table(thirty):
    lines = repr(thirty.commits).splitlines()
    assert lines[0].split() == [
        "version", "step", "time", "source", "arrays", "changed", "logged", "note",
    ]  # fmt: skip
    assert len(lines) == 22
    assert lines[1].split()[:2] == ["11", "10"]
    assert '{"loss": 1}' in lines[-2]
    assert lines[-1] == "The newest 20 of 30 commits."
    assert len(repr(thirty.commits[:3]).splitlines()) == 4
    html = thirty.commits._repr_html_()
    assert html.count("<tr>") == 21
    assert "{&quot;loss&quot;: 1}" in html


def test_commits_are_a_frame_of_pandas(thirty):
    frame = thirty.commits.to_pandas()
    assert list(frame.index) == list(range(1, 31))
    assert frame["step"].dtype == "Int64"
    assert frame.loc[30, "note.loss"] == 1
    assert frame["time"].is_monotonic_increasing
    assert frame.loc[2, "changed"] == ("w",)


def test_notes_of_any_kind_are_columns(bus):
    bus.commit({"w": 1.0})
    bus.commit({"w": 2.0}, note="a word", step=4)
    frame = bus.commits.to_pandas()
    assert frame.loc[2, "note"] == "a word"
    assert frame["step"].isna().tolist() == [True, False]


def test_an_empty_log_has_no_commits(bus):
    assert bus.latest is None
    assert len(bus.commits) == 0
    assert list(bus.commits) == []
    assert repr(bus.commits).split()[0] == "version"
    assert bus.commits.to_pandas().empty
    with pytest.raises(mmsb.VersionError, match="empty"):
        bus.at(step=3)
    with pytest.raises(ValueError, match="step="):
        bus.at()
    with pytest.raises(ValueError, match="one of"):
        bus.at(step=1, time_ns=2)
    with pytest.raises(ValueError, match="lineage="):
        bus.at(step=1, lineage="dead")


def test_commits_of_a_compacted_log_are_all_there(thirty):
    thirty.compact(keep_since=20)
    assert len(thirty.commits) == 30
    assert thirty.commits[0].step == 0


def test_names_from_a_stranger_do_no_harm(bus):
    bus.commit({"w": 1.0}, source="a\x1b[2J", note="<b>")
    assert "\x1b" not in repr(bus.commits)
    assert "<b>" not in bus.commits._repr_html_()
