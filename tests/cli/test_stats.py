"""``mmsb stats``."""

from pathlib import Path

import numpy as np


def test_stats_counts_what_the_log_holds(mmsb, small):
    found = mmsb("stats", small, "--json").json
    expected = {
        "path": small,
        "forked_from": [],
        "page_bytes": 4096,
        "first_version": 1,
        "version": 4,
        "first_time_ns": 1_000_000_000,
        "last_time_ns": 4_000_000_000,
        "least_step": 10,
        "largest_step": 30,
        "arrays": 2,
        "constants": 0,
        "state_bytes": 160,
        "segments": 1,
        "snapshots": [],
        "snapshot_bytes": 0,
        "recovered": [],
    }
    assert {name: found[name] for name in expected} == expected
    logged = [commit["logged_bytes"] for commit in mmsb("log", small, "--json").json["commits"]]
    assert found["logged_bytes"] == sum(logged)


def test_stats_counts_the_files_on_disk(mmsb, recorder):
    for i in range(4):
        recorder.commit({"x": np.full(8, i)})
        recorder.snapshot()
    found = mmsb("stats", recorder.path, "--json").json
    root = Path(recorder.path)
    assert found["snapshots"] == [1, 2, 3, 4]
    assert found["segments"] == len(list((root / "log").glob("*.seg")))
    for name, pattern in (("segment_bytes", "log/*.seg"), ("snapshot_bytes", "snapshots/*.snap")):
        assert found[name] == sum(file.stat().st_size for file in root.glob(pattern))


def test_stats_of_a_fork_names_its_origin(mmsb, small, tmp_path):
    mmsb("fork", small, tmp_path / "new.mmsb", "--version", 2)
    origin = mmsb("stats", small, "--json").json["log_id"]
    found = mmsb("stats", tmp_path / "new.mmsb", "--json").json
    assert found["forked_from"] == [{"log_id": origin, "last_version": 2}]
    assert f"behind version 2 of {origin}" in mmsb("stats", tmp_path / "new.mmsb").out


def test_stats_of_a_log_that_takes_in_another_names_it(mmsb, small, joined):
    origin = mmsb("stats", small, "--json").json["log_id"]
    found = mmsb("stats", joined, "--json").json
    assert found["forked_from"] == [{"log_id": origin, "last_version": None}]
    assert f"\nforked     from {origin}, whose commits it takes in\n" in mmsb("stats", joined).out


def test_stats_as_text_compares_with_full_copies(mmsb, small):
    out = mmsb("stats", small).out
    assert "\nversions   1 to 4\n" in out
    assert "of 4 full copies\n" in out
    assert "\nsteps      10 to 30\n" in out


def test_stats_of_an_empty_log_exits_0(mmsb, recorder):
    ran = mmsb("stats", recorder.path)
    assert ran.code == 0
    assert "versions   none" in ran.out
    found = mmsb("stats", recorder.path, "--json").json
    assert (found["version"], found["first_time_ns"], found["least_step"]) == (0, None, None)
