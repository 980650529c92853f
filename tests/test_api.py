"""Public names, as they were: `python -m tests.test_api > tests/api.txt` accepts a change."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mmsb_jax
from mmsb_jax import algebra, programs, testing

SNAPSHOT = Path(__file__).with_name("api.txt")


def signature_of(function: Any) -> str:
    """Parameters and defaults; what is said of types may be said in other words."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self" and parameter.name[0] != "_"
    ]
    return str(inspect.Signature(parameters))


def members_of(found: type) -> Iterator[str]:
    for name in sorted(dir(found)):
        member = inspect.getattr_static(found, name)
        if name[0] == "_" or hasattr(Exception, name):
            continue
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        kind = "" if function is member else f"{type(member).__name__} "
        yield f"    {kind}{name}{signature_of(function) if callable(function) else ''}"


def listing(module: ModuleType) -> Iterator[str]:
    for name in sorted(module.__all__):
        found = getattr(module, name)
        place = f"{module.__name__}.{name}"
        if inspect.isclass(found):
            bases = f" of {', '.join(base.__name__ for base in found.__bases__)}"
            is_error = issubclass(found, Exception)
            yield place + (bases if is_error else signature_of(found))
            yield from members_of(found)
        else:
            yield place + (signature_of(found) if inspect.isfunction(found) else "")


def whole() -> str:
    modules = mmsb_jax, algebra, programs, testing
    return "\n".join(line for module in modules for line in listing(module)) + "\n"


def test_public_names_and_signatures_are_what_they_were():
    assert whole() == SNAPSHOT.read_text()


def test_error_says_where_users_find_it():
    for module in mmsb_jax, algebra:
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found) and issubclass(found, Exception):
                assert getattr(sys.modules[found.__module__], name) is found
                assert "._" not in found.__module__


if __name__ == "__main__":
    print(whole(), end="")
