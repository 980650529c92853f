"""What of a run is saved: which commits hold bytes, and what is known of the others.

A `policy` says at each commit whether its bytes are worth logging. Of a commit that holds none,
`digests` finds what there is to say, where its arrays lie. `keep` says which versions keep theirs,
and a `keeper` gives up the others; a `copier` keeps a copy of the log elsewhere. `preemption` logs
the newest tree when one of the `signals` says that the process will end.
"""
