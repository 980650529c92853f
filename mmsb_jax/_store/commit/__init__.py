"""Making a commit.

A `Draft` is what is asked, a `Plan` the draft against the state that it meets, an `ArrayChange`
what happens to one array (`compare`), a record what the log says of it (`encode`). The `Head` does
these one after the other, and adopts what the log has.
"""
