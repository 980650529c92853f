"""Pytrees as the library sees them: leaves and their bytes, paths as names, nodes, static fields."""
