"""Branches that share their pages: a page table over one pool, on the device.

A `PageTable` is a pool, and for each branch the pages of it that the branch holds. What it counts
is a `Bookkeeping`: `claim` gives branches pages of their own before a write, `assign` gives them
the pages of others, and takes back what nobody holds any more.
"""
