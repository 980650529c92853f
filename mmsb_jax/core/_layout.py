"""Layout: which array lives where in the pool. Static and hashable; it holds no bytes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmsb_jax._arguments import check_text, show
from mmsb_jax._errors import ArrayNotFoundError, StructureError
from mmsb_jax.core import _packing
from mmsb_jax.core._delta import LINE_WORDS
from mmsb_jax.core._leaves import Constant, LeafSpec, describe
from mmsb_jax.core._names import flatten_with_names
from mmsb_jax.core._pages import Pages

WORD_BYTES = 4
"""Bytes of a word, the unit of storage."""

DEFAULT_PAGE_BYTES = 4096
"""Bytes of a page unless a layout says otherwise."""


@dataclass(frozen=True, slots=True)
class Region:
    """Where one array lives: whole pages of the pool, from ``page`` on.

    Attributes:
        name: path of the array in its tree (see `mmsb_jax.core._names`).
        spec: kind, dtype and shape.
        page: first row of the pool.
        pages: rows of the pool; 0 for an array without bytes.
        page_bytes: bytes of a row.
    """

    name: str
    spec: LeafSpec
    page: int
    pages: int
    page_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of the array; what remains of its last page is zero."""
        return self.spec.nbytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.spec.shape

    @property
    def dtype(self) -> str:
        """Name of the array's dtype."""
        return self.spec.dtype


@dataclass(frozen=True)
class Layout:
    """The regions of one pool, and the structure of the tree that they came from.

    ``Layout.of(tree)`` makes one; `pack` and `unpack` are inverse, to the bit:
    ``layout.unpack(layout.pack(tree)) == tree``.

    Attributes:
        regions: one a data leaf, in the order of the tree.
        page_bytes: bytes of a page, a multiple of 128.
        treedef: structure of the tree, ``None`` leaves included; None for a layout made by hand.
        constants: (position among the leaves, leaf) of the leaves that are kept by value.
        constant_names: their paths.
    """

    regions: tuple[Region, ...]
    page_bytes: int = DEFAULT_PAGE_BYTES
    treedef: Any = None
    constants: tuple[tuple[int, Any], ...] = ()
    constant_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_page_bytes(self.page_bytes)

    @classmethod
    def of(cls, tree: Any, page_bytes: int = DEFAULT_PAGE_BYTES) -> "Layout":
        """The layout of ``tree``: a region a data leaf, each from a page of its own on.

        Leaves may be concrete, tracers or `jax.ShapeDtypeStruct`.

        Raises:
            StructureError: a leaf that is neither data nor a function; two leaves of one name.
        """
        check_page_bytes(page_bytes)
        names, leaves, treedef = flatten_with_names(tree)
        check_unique(names)
        regions, constants, page = [], [], 0
        for position, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
            spec = describe(leaf, name)
            if isinstance(spec, Constant):
                constants.append((position, leaf))
                continue
            pages = -(-spec.nbytes // page_bytes)
            regions.append(Region(name, spec, page, pages, page_bytes))
            page += pages
        paths = tuple(names[position] for position, _ in constants)
        return cls(tuple(regions), page_bytes, treedef, tuple(constants), paths)

    @property
    def pages(self) -> int:
        """Rows of the pool that this layout covers."""
        return max((region.page + region.pages for region in self.regions), default=0)

    @property
    def page_words(self) -> int:
        """Words of a page."""
        return self.page_bytes // WORD_BYTES

    @functools.cached_property
    def _by_name(self) -> dict[str, Region]:
        return {region.name: region for region in self.regions}

    @functools.cached_property
    def by_row(self) -> tuple[list[Region], np.ndarray, np.ndarray]:
        """The regions that have rows, by their place; first row (int64) and end of each."""
        regions = sorted((r for r in self.regions if r.pages), key=lambda region: region.page)
        first = np.array([region.page for region in regions], np.int64)
        return regions, first, first + np.array([r.pages for r in regions], np.int64)

    @functools.cached_property
    def constant_specs(self) -> dict[str, Constant]:
        """Path → what is there, of the leaves that are kept by value."""
        leaves = (leaf for _, leaf in self.constants)
        named = zip(self.constant_names, leaves, strict=True)
        described = {name: describe(leaf, name) for name, leaf in named}
        return {name: c for name, c in described.items() if isinstance(c, Constant)}

    def pack(self, tree: Any) -> Pages:
        """``tree`` as pages, all at version 0. Works under ``jit`` and ``vmap``.

        Inside a program, go on with what `unpack` gives: XLA may compute a value once for the pages
        and once more for another use, and round the two in different ways.

        Raises:
            StructureError: the tree is not of this layout's structure; every path is named.

        Cost: one pass over the bytes; one small program a (shape, dtype), compiled once.
        """
        return _packing.pack(self, tree)

    def unpack(self, pages: Pages) -> Any:
        """The tree in ``pages``: same bytes, dtypes, shapes and Python types.

        The inverse of `pack`. Under a transformation every array is a JAX array. A layout made by
        hand gives a dict by name.

        Raises:
            StructureError: the pages are not of this layout; or an array that JAX cannot hold,
                under a transformation.

        Cost: one pass over the bytes.
        """
        return _packing.unpack(self, pages)

    def get(self, pages: Pages, name: str) -> Any:
        """One array of ``pages``.

        Raises:
            ArrayNotFoundError: no array has that name.

        Cost: one pass over its bytes.
        """
        return _packing.get(self, pages, name)

    def set(self, pages: Pages, name: str, value: Any, version: Any = None) -> Pages:
        """The pages with one array replaced; pages that differ get ``version``, if it is given.

        Raises:
            ArrayNotFoundError: no array has that name.
            StructureError: another shape or dtype; nothing is cast.

        Cost: outside ``jit`` a copy of the pool, since ``pages`` stay as they are; in a jitted
        function that donates them, one pass over the array's bytes.
        """
        return _packing.set_array(self, pages, name, value, version)

    def region(self, name: str) -> Region:
        """The region of one array.

        Raises:
            ArrayNotFoundError: no array has that name; the message lists what is near it.
        """
        check_text("name", name, "the path of an array")
        try:
            return self._by_name[name]
        except KeyError:
            raise array_not_found(name, list(self._by_name)) from None


def check_page_bytes(page_bytes: Any) -> None:
    """Refuse a page that is not whole lines."""
    line_bytes = LINE_WORDS * WORD_BYTES
    if not isinstance(page_bytes, int) or page_bytes <= 0 or page_bytes % line_bytes:
        raise ValueError(
            f"page_bytes={show(page_bytes)}: expected a positive multiple of {line_bytes} bytes"
        )


def check_unique(names: Sequence[str]) -> None:
    """Refuse two leaves of one name."""
    if len(set(names)) == len(names):
        return
    twice = sorted({name for name in names if names.count(name) > 1})
    raise StructureError(
        f"several leaves have the name {', '.join(map(repr, twice))}. Expected one path a leaf: "
        f"give the keys of that node different names."
    )


def array_not_found(name: str, names: Sequence[str]) -> ArrayNotFoundError:
    """The error for a name that no array has, with the names that are near it."""
    import difflib

    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    known = near or sorted(names)[:5]
    hint = f"Did you mean {', '.join(map(repr, known))}?" if known else "There are no arrays."
    return ArrayNotFoundError(f"no array is named {show(name)}. {hint}")
