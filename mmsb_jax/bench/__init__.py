"""The library, timed beside what nothing can beat: `short` is what ``mmsb bench`` runs.

`measure` times works in turn and makes a `row` of them; `works` are the library's, `limits` those
of the machine, `states` what is committed. The repository's suite, with peers, is made of the same.
"""
