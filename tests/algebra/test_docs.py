"""docs/algebra.md: its examples run, and its table is that of the instances."""

import doctest
import re
from pathlib import Path

import pytest

from mmsb_jax import algebra
from mmsb_jax.algebra._instances import INSTANCES

PAGE = Path(__file__).parents[2] / "docs" / "algebra.md"


def test_examples_of_the_page_run():
    parser = doctest.DocTestParser()
    # A fence is no output: the blank line before it ends the example.
    test = parser.get_doctest(PAGE.read_text(), {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 20
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test)
    assert not runner.failures


@pytest.mark.parametrize("semiring", INSTANCES, ids=lambda semiring: semiring.name)
def test_table_of_the_page_has_the_flags_of_the_instance(semiring):
    (line,) = re.findall(rf"^\| `{semiring.name}` .*yes.*$|^\| `{semiring.name}` .*no.*$",
                         PAGE.read_text(), re.MULTILINE)[:1]  # fmt: skip
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    flags = [semiring.idempotent, semiring.selective, semiring.bounded]
    assert cells[6:9] == ["yes" if flag else "no" for flag in flags]
    assert semiring.commutative
    assert ("bool" in cells[5]) == ("bool" in semiring.dtypes)
    assert ("floats" in cells[5]) == ("float32" in semiring.dtypes)
    assert ("integers" in cells[5]) == ("int32" in semiring.dtypes)
    unsigned = "integers" in cells[5] and "signed" not in cells[5]
    assert unsigned == ("uint32" in semiring.dtypes)


def test_page_names_everything_that_is_public():
    page = PAGE.read_text()
    wanted = [name for name in algebra.__all__ if name not in ("ProductPlan", "SparseMatrix")]
    assert not [name for name in wanted if not re.search(rf"\b{name}\b", page)]
