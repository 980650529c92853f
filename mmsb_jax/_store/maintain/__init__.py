"""What is done to a whole log: fork, copy, compact, verify, repair.

Each is one function and its report. `cut` says where a compaction that goes by itself is worth its
price. `salvage` is what `repair` and `verify` know of a damaged log.
"""
