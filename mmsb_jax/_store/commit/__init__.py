"""Making a commit: the head compares, encodes and adopts."""
