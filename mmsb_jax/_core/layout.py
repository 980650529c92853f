"""Layout: which array lives where in the pool. Static and hashable; it holds no bytes."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmsb_jax._base.arguments import check_kind, check_text, show
from mmsb_jax._base.errors import ArrayNotFoundError, StructureError
from mmsb_jax._core.delta import LINE_WORDS, check_blocks
from mmsb_jax._core.pack import leaf_of, put, put_donated, put_versioned, rows_source
from mmsb_jax._core.pages import Pages, as_version
from mmsb_jax._core.region import Region
from mmsb_jax._core.settings import any_settings, is_traced
from mmsb_jax._core.tree.leaves import Constant, LeafSpec, describe
from mmsb_jax._core.tree.paths import flatten_with_names, is_same_treedef, put_together

WORD_BYTES = 4
"""Bytes of a word, the unit of storage."""

DEFAULT_PAGE_BYTES = 4096
"""Bytes of a page unless a layout says otherwise."""


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

    def capacity(
        self, names: str | Iterable[str] | None = None, block_words: int = LINE_WORDS
    ) -> int:
        """Blocks that a delta over some arrays has at most: a capacity that never overflows.

        Args:
            names: an array, or several; all for None.
            block_words: words of a block.

        Raises:
            ArrayNotFoundError: no array has that name.
            InvalidDeltaError: blocks that do not divide a page.

        >>> import jax.numpy as jnp
        >>> import mmsb_jax as mmsb
        >>> layout = mmsb.Layout.of({"w": jnp.zeros(1000), "b": jnp.zeros(10)})
        >>> layout.capacity("b"), layout.capacity(["w", "b"]), layout.capacity()
        (1, 33, 33)
        """
        check_blocks(self.page_words, block_words)
        if names is None:
            regions = self.regions
        elif isinstance(names, str):
            regions = (self.region(names),)
        elif isinstance(names, Iterable):
            regions = tuple(dict.fromkeys(map(self.region, names)))
        else:
            raise TypeError(f"names={show(names)}: expected a name, or several")
        return sum(-(-region.nbytes // (WORD_BYTES * block_words)) for region in regions)

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
        leaves = _data_leaves(self, tree)
        # Under vmap the pool of zeros is not batched, its successor is: nothing to donate.
        write = put if is_traced(leaves) else put_donated
        with any_settings():
            words = jnp.zeros((self.pages, self.page_words), jnp.uint32)
            for region, leaf in zip(self.regions, leaves, strict=True):
                if region.pages:
                    words = write(words, rows_source(leaf), np.int32(region.page))
            return Pages(words, jnp.zeros(self.pages, jnp.uint32))

    def unpack(self, pages: Pages) -> Any:
        """The tree in ``pages``: same bytes, dtypes, shapes and Python types.

        The inverse of `pack`. Under a transformation every array is a JAX array. A layout made by
        hand gives a dict by name.

        Raises:
            StructureError: the pages are not of this layout; or an array that JAX cannot hold,
                under a transformation.

        Cost: one pass over the bytes.
        """
        check_pages(self, pages)
        with any_settings():
            arrays = [leaf_of(pages.words, region) for region in self.regions]
        if self.treedef is None:
            return {region.name: x for region, x in zip(self.regions, arrays, strict=True)}
        constants = dict(self.constants)
        data = iter(arrays)
        count = len(arrays) + len(constants)
        leaves = [constants[i] if i in constants else next(data) for i in range(count)]
        return put_together(self.treedef, leaves, "the tree of the layout")

    def get(self, pages: Pages, name: str) -> Any:
        """One array of ``pages``.

        Raises:
            ArrayNotFoundError: no array has that name.

        Cost: one pass over its bytes.
        """
        region = self.region(name)
        check_pages(self, pages)
        with any_settings():
            return leaf_of(pages.words, region)

    def set(self, pages: Pages, name: str, value: Any, version: Any = None) -> Pages:
        """The pages with one array replaced; pages that differ get ``version``, if it is given.

        Raises:
            ArrayNotFoundError: no array has that name.
            StructureError: another shape or dtype; nothing is cast.

        Cost: outside ``jit`` a copy of the pool, since ``pages`` stay as they are; in a jitted
        function that donates them, one pass over the array's bytes.
        """
        region = self.region(name)
        check_pages(self, pages)
        _check_has_bytes(name, value)
        fault = _misfit(region.spec, describe(value, name))
        if fault:
            raise StructureError(f"set({name!r}): {fault}. Nothing is cast: convert it first.")
        if not region.pages:
            return pages
        with any_settings():
            source, page = rows_source(value), np.int32(region.page)
            if version is None:
                return Pages(put(pages.words, source, page), pages.version)
            number = as_version(version)
            return Pages(*put_versioned(pages.words, pages.version, source, page, number))

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


def check_pages(layout: Layout, pages: Pages) -> None:
    """Refuse pages that are not those of ``layout``."""
    check_kind("pages", pages, Pages)
    check_kind("layout", layout, Layout)
    expected = (layout.pages, layout.page_words)
    if pages.words.shape != expected or pages.words.dtype != jnp.uint32:
        raise StructureError(
            f"pages of {pages.words.dtype}{list(pages.words.shape)} arrived; the layout has "
            f"uint32{list(expected)}. Use the layout that packed them; for a batch, jax.vmap."
        )


def check_part(layout: Layout, pages: Pages) -> None:
    """Refuse pages that are no part of a pool of ``layout``."""
    check_kind("pages", pages, Pages)
    check_kind("layout", layout, Layout)
    if pages.words.shape[1:] != (layout.page_words,) or pages.words.dtype != jnp.uint32:
        raise StructureError(
            f"pages of {pages.words.dtype}{list(pages.words.shape)} arrived; the layout has pages "
            f"of {layout.page_words} words. Use the layout that packed them."
        )


def _data_leaves(layout: Layout, tree: Any) -> list[Any]:
    """The data leaves of ``tree``, one a region, in order."""
    if layout.treedef is None:
        wanted = [region.name for region in layout.regions]
        if not isinstance(tree, dict) or set(tree) != set(wanted):
            raise StructureError(
                f"this layout is of arrays by name. Expected a dict with the names {wanted}, got "
                f"{sorted(tree) if isinstance(tree, dict) else type(tree).__name__}. Those of a "
                f"bus: {{region.name: bus.read(region.name) for region in layout.regions}}."
            )
        arriving = {name: describe(tree[name], name) for name in wanted}
        leaves, treedef = [tree[name] for name in wanted], None
    else:
        names, all_leaves, treedef = flatten_with_names(tree)
        arriving = {n: describe(leaf, n) for n, leaf in zip(names, all_leaves, strict=True)}
        leaves = [
            leaf
            for leaf, spec in zip(all_leaves, arriving.values(), strict=True)
            if isinstance(spec, LeafSpec)
        ]
    faults = list(_misfits(layout, arriving))
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise StructureError(
            f"the tree differs from the layout at {len(faults)} path{'s'[: len(faults) > 1]}:\n"
            f"{listed}\nMake the layout of this tree with Layout.of(tree)."
        )
    if treedef is not None and not is_same_treedef(treedef, layout.treedef):
        raise StructureError(
            f"the tree has the paths of the layout, and other nodes or static fields:\n"
            f"  arrived  {treedef}\n  expected {layout.treedef}\n"
            f"Make the layout of this tree with Layout.of(tree)."
        )
    for region, leaf in zip(layout.regions, leaves, strict=True):
        _check_has_bytes(region.name, leaf)
    return leaves


def _check_has_bytes(name: str, leaf: Any) -> None:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise StructureError(
            f"{name}: a ShapeDtypeStruct arrived, which has no bytes. Expected an array: "
            f"Layout.of takes shapes, pack and set take values."
        )


def _misfits(layout: Layout, arriving: dict[str, LeafSpec | Constant]) -> Iterator[str]:
    expected: dict[str, LeafSpec | Constant] = {r.name: r.spec for r in layout.regions}
    expected |= layout.constant_specs
    for name in sorted(expected.keys() | arriving.keys()):
        if name not in arriving:
            yield f"{name}: missing, the layout has {expected[name]}"
        elif name not in expected:
            yield f"{name}: {arriving[name]}, which the layout does not have"
        else:
            fault = _misfit(expected[name], arriving[name])
            if fault:
                yield f"{name}: {fault}"


def _misfit(expected: LeafSpec | Constant, arriving: LeafSpec | Constant) -> str | None:
    """What is wrong with a leaf; the kind of array may differ, its bytes may not."""
    if isinstance(expected, LeafSpec) and isinstance(arriving, LeafSpec):
        keys = {s.kind for s in (expected, arriving) if s.kind.startswith("key:")}
        same = (expected.shape, expected.dtype) == (arriving.shape, arriving.dtype)
        if same and (not keys or expected.kind == arriving.kind):
            return None
    elif expected == arriving:
        return None
    return f"{arriving} arrived, the layout has {expected}"


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
    return ArrayNotFoundError(f"no array is named {show(name, 400)}. {hint}")
