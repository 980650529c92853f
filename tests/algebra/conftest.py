"""What is compiled for the tests of this folder."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _programs_are_compiled_quickly() -> Iterator[None]:
    """What the algebra computes does not hang on how well it is compiled, and compiling is dear."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)
