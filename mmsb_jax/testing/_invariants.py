"""What holds of every value that the core returns; each check raises `AssertionError`."""

import itertools
from typing import Any

import numpy as np

from mmsb_jax.testing.oracle import NO_PAGE


def check_pages(pages: Any, layout: Any = None) -> None:
    """Pages are words and as many versions; with a layout, of its size, zero behind each array.

    Raises:
        AssertionError: they are not; the message says where.
    """
    words, version = np.asarray(pages.words), np.asarray(pages.version)
    _expect(words.dtype == np.uint32 and words.ndim == 2, f"words are {_typed(words)}")
    _expect(
        version.dtype == np.uint32 and version.shape == words.shape[:1],
        f"version is {_typed(version)} for words of {_typed(words)}",
    )
    if layout is None:
        return
    expected = (layout.pages, layout.page_words)
    _expect(words.shape == expected, f"words are {_typed(words)}, the layout has {expected}")
    unowned = np.ones((layout.pages, layout.page_bytes), bool)
    for region in layout.regions:
        unowned[region.page : region.page + region.pages].reshape(-1)[: region.nbytes] = False
    found = np.argwhere(words.view(np.uint8).reshape(unowned.shape)[unowned])
    _expect(not len(found), f"{len(found)} bytes that no array owns are not zero")


def check_delta(delta: Any, pages: int | None = None, page_words: int | None = None) -> None:
    """A delta is in normal form: each place once, ascending, and nothing behind ``count``.

    Each block in use writes a byte, each byte of a mask is 0 or 0xFF, and data are zero where the
    mask is. With the size of a pool, every block is inside of it.

    Raises:
        AssertionError: it is not; the message names the row.
    """
    count, words = int(delta.count), int(delta.block_words)
    page, block = np.asarray(delta.page), np.asarray(delta.block)
    mask, data = np.asarray(delta.mask), np.asarray(delta.data)
    _expect(
        mask.shape == data.shape == (len(page), words) and block.shape == page.shape,
        f"columns of {_typed(page)}, {_typed(block)}, {_typed(mask)}, {_typed(data)}",
    )
    _expect(0 <= count <= len(page), f"count is {count} for a capacity of {len(page)}")
    _check_rows(page[:count], block[:count], mask[:count], data[:count], "")
    _check_unused(page[count:], block[count:], mask[count:], data[count:])
    if pages is not None:
        outside = np.flatnonzero((page[:count] < 0) | (page[:count] >= pages))
        _expect(not len(outside), f"rows {outside.tolist()} are outside of {pages} pages")
    if page_words is not None:
        outside = np.flatnonzero((block[:count] < 0) | (block[:count] >= page_words // words))
        _expect(not len(outside), f"rows {outside.tolist()} are outside of their page")


def check_log(log: Any) -> None:
    """A log holds deltas in normal form, one behind the other, and nothing behind the last.

    Raises:
        AssertionError: it does not; the message names the entry.
    """
    count, ends = int(log.count), np.asarray(log.ends)
    page, block = np.asarray(log.page), np.asarray(log.block)
    mask, data = np.asarray(log.mask), np.asarray(log.data)
    entry = np.asarray(log.entry)
    _expect(0 <= count <= len(ends), f"count is {count} for {len(ends)} commits")
    bounds = [0, *ends[:count].tolist()]
    _expect(
        bounds == sorted(bounds) and bounds[-1] <= len(page),
        f"entries end at {bounds[1:]} of {len(page)} blocks",
    )
    _expect(not ends[count:].any(), f"ends behind entry {count - 1} are {ends[count:].tolist()}")
    for i, (start, end) in enumerate(itertools.pairwise(bounds)):
        rows = slice(start, end)
        _check_rows(page[rows], block[rows], mask[rows], data[rows], f"entry {i}, ")
        _expect(bool((entry[rows] == i).all()), f"entry {i} is marked {entry[rows].tolist()}")
    last = bounds[-1]
    _check_unused(page[last:], block[last:], mask[last:], data[last:])


def check_page_table(table: Any) -> None:
    """Each page of the pool is counted as often as branches hold it, and free where none does.

    Raises:
        AssertionError: it is not; the message names the pages.
    """
    held, counts = np.asarray(table.table), np.asarray(table.ref_count)
    pages, free = len(counts), np.asarray(table.free)[: int(table.free_count)]
    inside = held[held != NO_PAGE]
    _expect(bool(((inside >= 0) & (inside < pages)).all()), f"branches hold pages {inside}")
    expected = np.bincount(inside, minlength=pages)
    wrong = np.flatnonzero(counts != expected)
    _expect(not len(wrong), f"pages {wrong.tolist()} are counted {counts[wrong].tolist()} times")
    unheld = np.flatnonzero(expected == 0)
    _expect(
        sorted(free.tolist()) == unheld.tolist(),
        f"free are {sorted(free.tolist())}, and nobody holds {unheld.tolist()}",
    )


def _check_rows(
    page: np.ndarray, block: np.ndarray, mask: np.ndarray, data: np.ndarray, where: str
) -> None:
    places = list(zip(page.tolist(), block.tolist(), strict=True))
    _expect(places == sorted(set(places)), f"{where}places {places} are not ascending")
    _expect(bool((page != NO_PAGE).all()), f"{where}a row in use has no page")
    written = mask.view(np.uint8)
    _expect(bool(np.isin(written, (0, 0xFF)).all()), f"{where}a mask has a byte that is part set")
    idle = np.flatnonzero(~mask.any(axis=1))
    _expect(not len(idle), f"{where}rows {idle.tolist()} write nothing")
    stray = np.flatnonzero((data & ~mask).any(axis=1))
    _expect(not len(stray), f"{where}rows {stray.tolist()} have data that they do not write")


def _check_unused(page: np.ndarray, block: np.ndarray, mask: np.ndarray, data: np.ndarray) -> None:
    _expect(bool((page == NO_PAGE).all()), f"pages behind count are {page.tolist()}")
    rest = block.any() or mask.any() or data.any()
    _expect(not rest, "rows behind count are not zero")


def _typed(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
