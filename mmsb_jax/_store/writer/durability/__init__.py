"""Durabilities: when a commit counts as done, one a file; `choose` has them in a table.

A writer makes one `DurabilityStrategy`, asks it whether a commit is synced before it counts, and
tells it of everything that was appended.
"""
