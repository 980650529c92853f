"""A page table as dictionaries: what each branch holds, one write after another."""

import numpy as np


class NoRoom(Exception):
    """The pool has no page left."""


class PageModel:
    """What a page table is to be: contents by branch, and who shares a page with whom."""

    def __init__(self, branches, length, pages, page_words):
        self.length, self.pages, self.page_words = length, pages, page_words
        self.held = [[None] * length for _ in range(branches)]
        self.overflow = False

    @property
    def pages_in_use(self):
        return {id(page) for row in self.held for page in row if page is not None}

    def read(self, branch):
        zeros = np.zeros(self.page_words, np.uint32)
        return np.stack([zeros if page is None else page for page in self.held[branch]])

    def fork(self, sources, into):
        if not self.overflow:
            rows = [list(self.held[source]) for source in sources]
            for row, branch in zip(rows, into, strict=True):
                self.held[branch] = row

    def release(self, branches):
        if not self.overflow:
            for branch in branches:
                self.held[branch] = [None] * self.length

    def write(self, places):
        """Write (branch, page, mask, words), one after another; all of them or none."""
        before = [list(row) for row in self.held], self.overflow
        if self.overflow:
            return
        copies = {}
        try:
            for branch, number, mask, words in places:
                page = self._own(branch, number, copies)
                page[:] = (page & ~mask) | (words & mask)
        except NoRoom:
            self.held, self.overflow = before[0], True
            return

    def _own(self, branch, number, copies):
        """A page that this branch alone holds; contents from before stay in ``before``."""
        page = self.held[branch][number]
        holders = sum(page is other for row in self.held for other in row)
        if page is None or holders > 1:
            if len(self.pages_in_use) == self.pages:
                raise NoRoom
            page = np.zeros(self.page_words, np.uint32) if page is None else page.copy()
        elif id(page) not in copies:
            page = page.copy()
        copies[id(page)] = page
        self.held[branch][number] = page
        return page
