"""Derived arrays: what is known of them, what a commit does to them, what the log keeps.

`Derivations` is what one bus knows. A `DerivationTransaction` is one commit of it: prepared, run,
and done or taken back. `log_entries` are its words in the log, `DerivedView` does the same for a
reader.
"""
