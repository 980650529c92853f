"""Commits on their way from one log to another.

A stream (`write_stream`, `open_stream`) has them in the frames that they have in their log; an
`Intake` is what of it is new here, and `take` lands one.
"""
