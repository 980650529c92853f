"""Best paths from one source: a fixed point (`settle`) of pulls, or of `push` from what changed."""
