"""``mmsb export``, ``mmsb import`` and ``mmsb follow``."""

import numpy as np
import pytest


def test_export_and_import_make_the_same_log(mmsb, recorder, small, tmp_path):
    recorder.writer.sync()
    recorder.commit({"params/b": np.zeros(8, np.float32)})  # says that what is before is durable
    ran = mmsb("export", small, tmp_path / "x", "--since", 0, "--json")
    assert ran.json == {
        "path": str(tmp_path / "x"),
        "until": 4,
        "bytes": (tmp_path / "x").stat().st_size,
    }
    ran = mmsb("import", tmp_path / "new.mmsb", tmp_path / "x", "--json")
    assert ran.json == {"new": 4, "version": 4}
    for version in (1, 4):
        there, here = (
            mmsb("show", p, version, "--json").json for p in (small, tmp_path / "new.mmsb")
        )
        assert (here["arrays"], here["chain"]) == (there["arrays"], there["chain"])
    assert mmsb("verify", tmp_path / "new.mmsb").code == 0
    assert "0 new commits" in mmsb("import", tmp_path / "new.mmsb", tmp_path / "x").out
    recorder.writer.sync()
    recorder.commit({"params/b": np.ones(8, np.float32)})
    assert mmsb("export", small, tmp_path / "y", "--since", 4).code == 0
    ran = mmsb("import", tmp_path / "new.mmsb", tmp_path / "y")
    assert ran.out == "1 new commits; the log is at version 5\n"
    assert mmsb("verify", tmp_path / "new.mmsb").code == 0


def test_export_without_since_begins_a_log_late(mmsb, recorder, small, tmp_path):
    recorder.close()
    assert mmsb("export", small, tmp_path / "x").code == 0
    assert mmsb("import", tmp_path / "new.mmsb", tmp_path / "x", "--json").json["version"] == 4
    there, here = (mmsb("show", p, 4, "--json").json for p in (small, tmp_path / "new.mmsb"))
    assert here["arrays"] == there["arrays"]
    assert mmsb("verify", tmp_path / "new.mmsb").code == 0


def test_import_of_a_gap_or_another_history_exits_3(mmsb, recorder, small, tmp_path):
    recorder.close()
    mmsb("export", small, tmp_path / "x", "--since", 2)
    ran = mmsb("import", tmp_path / "new.mmsb", tmp_path / "x", "--json")
    assert (ran.code, ran.error["error"]) == (3, "VersionError")
    mmsb("fork", small, tmp_path / "fork.mmsb", "--version", 1)
    ran = mmsb("import", tmp_path / "fork.mmsb", tmp_path / "x")
    assert (ran.code, "version 2 is missing" in ran.err) == (3, True)


@pytest.mark.parametrize(
    ("command", "message"),
    [("export", "none is not a directory. Make it first"), ("import", "cannot be read")],
)
def test_shipping_to_or_from_nothing_exits_3(mmsb, small, tmp_path, command, message):
    ran = mmsb(command, small, tmp_path / "none" / "x")
    assert ran.code == 3
    assert message in ran.err


def test_import_into_a_directory_that_is_no_log_exits_3(mmsb, recorder, small, tmp_path):
    recorder.close()
    mmsb("export", small, tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    ran = mmsb("import", tmp_path / "full", tmp_path / "x")
    assert ran.code == 3
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["file"]


def test_follow_prints_a_line_a_commit(mmsb, small):
    ran = mmsb("follow", small, "--after", 1, "--timeout", 0)
    assert [line.split()[0] for line in ran.out.splitlines()] == ["2", "3", "4"]
    assert '{"loss": 0.5}' in ran.out
    ran = mmsb("follow", small, "--after", 2, "--timeout", 0, "--json")
    assert [line.split(",")[0] for line in ran.out.splitlines()] == [
        '{"version": 3',
        '{"version": 4',
    ]
    assert mmsb("follow", small, "--timeout", 0).out == ""


def test_follow_behind_no_version_exits_3(mmsb, small):
    assert mmsb("follow", small, "--after", 9, "--timeout", 0).code == 3
