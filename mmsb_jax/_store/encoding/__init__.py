"""How the bytes of one array are written and put back, and its digest.

A change is encoded by a fixed rule (`choose`), from counts and a sample, so that the same change
gives the same bytes: `sparse` or `dense`, each with its encoder beside its decoder. `decode` puts
any chunk back, by a table of codings. `blob` does both for the caller's ``extra``.

An element is ``unit`` bytes: the item size of the dtype where that is 1, 2 or 4, else the largest
of these that divides it.
"""
