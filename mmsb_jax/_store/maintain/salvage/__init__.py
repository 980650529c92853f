"""What of a damaged log still reads back, and can be shown to be right.

A `Survey` finds every whole commit, a `Trial` replays them and knows of which arrays the digests
agree, `Anew` writes a version again under a digest that is right.
"""
