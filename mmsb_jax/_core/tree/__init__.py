"""Pytrees as the library sees them: leaves, their bytes and names, nodes, static fields."""
