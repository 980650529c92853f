"""Traced functions that can be told apart, and the programs that they are compiled to."""
