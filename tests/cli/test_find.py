"""``mmsb bisect``, ``history``, ``notes``, ``usage``, ``diff RUN1 RUN2`` and ``completion``."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from tests.cli.conftest import Recorder


@pytest.fixture
def run(recorder):
    """Six steps, of which the fourth has a NaN, with notes."""
    for step in range(6):
        w = np.full(50, step, np.float32)
        w[3] = np.nan if step >= 3 else 0
        note = {"loss": 1 / (1 + step)} | ({"eval": {"loss": step}} if step == 4 else {})
        arrays = {"params/w": w, "params/b": np.arange(4), "count": np.array(step)}
        recorder.commit(arrays, step=step, note=json.dumps(note))
    return recorder.path


def test_bisect_names_the_first_commit_and_its_arrays(mmsb, run):
    ran = mmsb("bisect", run, "--nonfinite")
    assert (ran.code, ran.out) == (0, "version 4 (step 3): params/w\n")
    assert mmsb("bisect", run, "--nonfinite", "--json").json == {
        "version": 4, "step": 3, "arrays": ["params/w"],
    }  # fmt: skip
    assert mmsb("bisect", run, "--nonfinite", "--exit-code").code == 1
    ran = mmsb("bisect", run, "--nonfinite", "--arrays", "count", "--exit-code")
    assert (ran.code, ran.out) == (0, "all numbers are finite\n")
    assert mmsb("bisect", run, "--nonfinite", "--arrays", "count", "--json").json["version"] is None


def test_bisect_without_a_measure_or_of_no_array_is_refused(mmsb, run):
    assert mmsb("bisect", run).code == 2
    ran = mmsb("bisect", run, "--nonfinite", "--arrays", "nothing", "--json")
    assert (ran.code, ran.error["error"]) == (3, "ArrayNotFoundError")


def test_history_lists_what_became_of_an_array(mmsb, run, recorder):
    recorder.commit({"params/w": np.zeros(60, np.float32)})
    recorder.commit({"params/w": None})
    versions = mmsb("history", run, "params/w", "--json").json["versions"]
    assert [(v["version"], v["change"]) for v in versions] == [
        (1, "created"), *((v, "changed") for v in range(2, 7)), (7, "resized"), (8, "deleted"),
    ]  # fmt: skip
    assert versions[0]["type"] == "float32[50]"
    assert versions[6]["type"] == "float32[60]"
    assert versions[1]["changed_bytes"] > 0
    assert versions[1]["stored_bytes"] > 0
    assert [v["version"] for v in mmsb("history", run, "params/b", "--json").json["versions"]] == [
        1
    ]
    assert "deleted" in mmsb("history", run, "params/w").out
    ran = mmsb("history", run, "params")
    assert (ran.code, ran.out) == (3, "")
    assert "mmsb show" in ran.err


def test_notes_are_a_series(mmsb, run):
    values = mmsb("notes", run, "loss", "--json").json["values"]
    assert [value["step"] for value in values] == list(range(6))
    assert values[1] == {"version": 2, "step": 1, "value": 0.5}
    assert mmsb("notes", run, "eval/loss", "--json").json["values"] == [
        {"version": 5, "step": 4, "value": 4}
    ]
    assert mmsb("notes", run, "loss").out.splitlines()[0].split() == ["version", "step", "value"]
    ran = mmsb("notes", run, "los")
    assert (ran.code, "'loss'" in ran.err) == (3, True)


def test_usage_adds_up_to_the_files(mmsb, run, recorder):
    recorder.snapshot()
    found = mmsb("usage", run, "--json").json
    parts = sum(array["stored_bytes"] for array in found["arrays"]) + sum(
        found[key]
        for key in ("extra_bytes", "rest_bytes", "snapshot_bytes", "archive_bytes", "other_bytes")
    )
    assert parts == found["bytes"]
    assert found["arrays"][0]["name"] == "params/w"
    assert found["snapshot_bytes"] > 0
    assert found["rest_bytes"] > 0
    grouped = mmsb("usage", run, "--depth", 1, "--json").json["arrays"]
    assert {array["name"] for array in grouped} == {"params", "count"}
    of_params = [a["stored_bytes"] for a in found["arrays"] if a["name"].startswith("params/")]
    assert grouped[0]["stored_bytes"] == sum(of_params)
    assert f"{found['bytes']:,} bytes in all" in mmsb("usage", run).out


@pytest.fixture
def other(tmp_path):
    """A run that differs from the third step on, and has an array more from the fifth."""
    recorder = Recorder(tmp_path / "other.mmsb")
    for step in range(6):
        arrays = {
            "params/w": np.full(50, step + (step > 1), np.float32),
            "params/b": np.arange(4),
            "count": np.array(step),
        }
        recorder.commit(arrays | ({"ema": np.ones(2)} if step > 3 else {}), step=step)
    yield recorder.path
    recorder.close()


def test_diff_of_two_runs_shows_where_they_part_and_how(mmsb, tmp_path, other):
    recorder = Recorder(tmp_path / "one.mmsb")
    for step in range(6):
        arrays = {"params/w": np.full(50, step, np.float32), "params/b": np.arange(4)}
        recorder.commit(arrays | {"count": np.array(step)}, step=step)
    ran = mmsb("diff", recorder.path, other, "--json")
    assert ran.code == 0
    assert ran.json["divergence"] == {"versions": [3, 3], "step": 2}
    assert ran.json["arrays"] == ["params/w"]
    assert ran.json["diff"]["arrays"][0]["changed_elements"] == 50
    assert ran.json["diff"]["new_log"] == other
    text = mmsb("diff", recorder.path, other, "--exit-code")
    assert text.code == 1
    assert text.out.startswith("they part at step 2, version 3 and version 3: params/w\n")
    same = mmsb("diff", other, other, "--exit-code")
    assert (same.code, same.out) == (0, "no step that both have differs\n")
    assert mmsb("diff", other, other, "--json").json["divergence"] is None
    assert mmsb("diff", recorder.path, tmp_path / "none").code == 3
    recorder.close()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(mmsb, shell):
    ran = mmsb("completion", shell)
    assert ran.code == 0
    assert "_MMSB_COMPLETE" in ran.out
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=ran.out, text=True, capture_output=True)
        assert checked.returncode == 0, checked.stderr
    assert mmsb("completion", "tcsh").code == 2
