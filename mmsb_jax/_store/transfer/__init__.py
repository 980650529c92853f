"""Commits on their way from one log to another."""
