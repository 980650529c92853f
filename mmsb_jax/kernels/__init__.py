"""Kernels of the hot path: what changed, what a log leaves, which lines differ.

State is *lines* here: ``uint32[n, 32]``, 128 bytes each. A *shadow* is the state as it was at the
last commit. Each operation has a form for XLA, which runs everywhere, and one for NVIDIA GPUs in
Pallas (Mosaic GPU); both give the same bits.

`scan` and the others take what they are given through `dispatch.Kernel`: it decides which form a
program gets. The forms are in `xla` and, imported when a program for a GPU is traced, in `mosaic`.
What each must do is in `laws`, as functions that tests and benchmarks share.

``implementation`` says which form a call takes:

- None: the kernel in programs for a CUDA GPU that can run it, XLA in all others;
- ``"xla"``: that of XLA;
- ``"mosaic"``: the kernel. Where it cannot be had, `KernelUnavailableError` says why; so it does
  where the program is lowered for anything but CUDA;
- a sequence of these: the first that can be had here.
"""

from mmsb_jax.kernels.dispatch import Implementation
from mmsb_jax.kernels.operations import LINE_WORDS, TILE_LINES, digest_lines, fold, scan

__all__ = ["LINE_WORDS", "TILE_LINES", "Implementation", "digest_lines", "fold", "scan"]
