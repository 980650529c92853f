"""Trees against the table of arrays: in, and back out."""
