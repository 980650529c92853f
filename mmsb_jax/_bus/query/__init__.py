"""Histories, differences and followed commits, as objects."""
