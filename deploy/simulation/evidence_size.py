"""How much a simulation's release shows beyond its sites' figures by default; light to import."""

CANARIES = 1000
"""Artificial patients of the audit of its mechanism; 0 switches it off."""
SHADOWS = 16
"""Shadow models of the membership attack, an even number; 0 switches it off."""
