"""The README and the pages of docs: their code runs, their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmsb_jax

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_readme_first_example_runs_and_goes_on_when_run_again(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "[1. 1. 1. 1. 0. 0.]" in done.stdout
        assert "version 3 → 9" in done.stdout
    with mmsb_jax.open(tmp_path / "run.mmsb", mode="r") as bus:
        assert bus.version == 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (page.parent / target).exists()]
    assert not missing


def test_public_names_are_there_documented_and_sorted():
    # Constants first, as the linter sorts them.
    in_order = sorted(mmsb_jax.__all__, key=lambda name: (not name.isupper(), name))
    assert mmsb_jax.__all__ == in_order
    for name in mmsb_jax.__all__:
        assert getattr(mmsb_jax, name).__doc__, name
    for name in mmsb_jax.programs.__all__:
        assert getattr(mmsb_jax.programs, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mmsb_jax.nothing


def test_documented_names_of_the_bus_exist():
    used = set()
    for page in PAGES:
        used |= set(re.findall(r"\bbus\.([a-z_]+)", page.read_text()))
    assert used
    assert not {name for name in used if not hasattr(mmsb_jax.Bus, name)} - {"recovered", "path"}


def test_api_page_names_everything_that_is_public():
    page = (ROOT / "docs" / "api.md").read_text()
    names = [f"mmsb.{name}" for name in mmsb_jax.__all__ if name not in ("Bus", "Commit")]
    names += [f"bus.{name}" for name in dir(mmsb_jax.Bus) if not name.startswith("_")]
    names += [f"mmsb.programs.{name}" for name in mmsb_jax.programs.__all__]
    assert not [name for name in names if not re.search(rf"`{re.escape(name)}[`(]", page)]
