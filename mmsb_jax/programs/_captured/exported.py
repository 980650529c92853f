"""What `jax.export` makes of a program: bytes that another process, with another JAX, can run."""

import importlib.util
from typing import Any

import jax
import jax.export
from jax.extend import core as jex
from jax.stages import Traced


def check_can_export(program: Any) -> None:
    """Refuse what cannot be exported.

    Raises:
        ImportError: flatbuffers is not installed, which its format needs.
        TypeError: what was traced is not known.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError(
            "export=True needs flatbuffers, which is not installed. pip install 'mmsb-jax[export]'"
        )
    if not isinstance(program, Traced):
        raise TypeError(
            f"export=True needs what was traced; a {type(program).__name__} arrived. Give "
            f"f.trace(*args)."
        )


def exported_bytes(traced: Traced, devices: int) -> bytes:
    """What ``jax.export.deserialize`` reads: the program, with the structure of its arguments.

    Raises:
        ValueError: it runs on several devices.
        whatever JAX raises for what it cannot export, such as a callback.
    """
    if devices > 1:
        raise ValueError(
            f"export=True: the program runs on {devices} devices, and what it was told of their "
            f"mesh is not known here. Export the function itself with jax.export, and write the "
            f"bytes with bus.write."
        )
    run = jex.jaxpr_as_fun(traced.jaxpr)
    (args, kwargs), out_tree = traced.args_info, jax.tree.structure(traced.out_info)

    def function(*args: Any, **kwargs: Any) -> Any:
        return jax.tree.unflatten(out_tree, run(*jax.tree.leaves((args, kwargs))))

    function.__name__ = traced.fun_name
    shapes = jax.tree.map(lambda arg: jax.ShapeDtypeStruct(arg.shape, arg.dtype), (args, kwargs))
    export = jax.export.export(jax.jit(function))
    return bytes(export(*shapes[0], **shapes[1]).serialize())
