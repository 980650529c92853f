"""What is done to a whole log: fork, compact, verify, repair.

Each is one function and its report. `salvage` is what `repair` and `verify` know of a damaged log.
"""
