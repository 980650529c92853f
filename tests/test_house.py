"""How the package is built: no circle of modules, small packages, one meaning a name.

import-linter sees to the order of the packages (`pyproject.toml`).
"""

import ast
import functools
import re
from collections import Counter, defaultdict
from pathlib import Path

import mmsb_jax
from tests._sampled import EVERY

PACKAGE = Path(mmsb_jax.__file__).parent
ARCHITECTURE = PACKAGE.parent / "docs" / "architecture.md"
MOST_MODULES = 9

ELSEWHERE = {"jit", "uint32", "vmap"}
"""Names in the architecture that are not of this package."""


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The modules, by their name below the package; that of a package is the package."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): (
            ast.parse(path.read_text())
        )
        for path in PACKAGE.rglob("*.py")
    }


@functools.cache
def imports() -> dict[str, set[str]]:
    """What each module imports, wherever in it that stands, and for whatever purpose."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmsb_jax"):
                place = str(node.module).removeprefix("mmsb_jax").removeprefix(".")
                for alias in node.names:
                    inside = f"{place}.{alias.name}".removeprefix(".")
                    found[name].add(inside if inside in trees() else place)
    return found


def reached(start: str) -> set[str]:
    """The modules that one needs, and that these need."""
    edges, found, waiting = imports(), set[str](), [start]
    while waiting:
        for name in edges[waiting.pop()] - found:
            found.add(name)
            waiting.append(name)
    return found


@functools.cache
def circles() -> list[set[str]]:
    needs = {name: reached(name) for name in trees()}
    met: list[set[str]] = []
    for name, needed in needs.items():
        if name in needed and not any(name in circle for circle in met):
            met.append({other for other in needed if name in needs[other]} | {name})
    return met


def test_no_modules_need_each_other():
    assert [sorted(circle) for circle in circles()] == []


def test_package_has_at_most_nine_modules():
    packages = {name.rpartition(".")[0] for name in trees()}
    sizes = Counter(name.rpartition(".")[0] for name in trees() if name not in packages)
    assert {name: size for name, size in sizes.items() if size > MOST_MODULES} == {}


def test_class_has_a_name_of_its_own():
    classes = Counter(
        node.name
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name[0] != "_"
    )
    assert [name for name, times in classes.items() if times > 1] == []


def test_names_in_the_architecture_and_in_the_heads_of_packages_are_there():
    known = {part for name in trees() for part in name.split(".")}
    for node in (node for tree in trees().values() for node in ast.walk(tree)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            known.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            known.add(node.target.id)
    heads = [ast.get_docstring(tree) or "" for name, tree in trees().items() if is_package(name)]
    named = re.findall(r"(?<!`)`([A-Za-z_][\w./]*)`", "".join([ARCHITECTURE.read_text(), *heads]))
    parts = {part for name in named for part in re.split(r"[./]", name.removesuffix(".py")) if part}
    assert parts - known == ELSEWHERE


def is_package(name: str) -> bool:
    return bool(name) and (PACKAGE / name.replace(".", "/")).is_dir()


def test_tests_that_are_sampled_are_there():
    for file, tests in EVERY.items():
        tree = ast.parse((PACKAGE.parent / "tests" / file).read_text())
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert tests.keys() - there == set()
