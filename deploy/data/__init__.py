"""Hospitals made of public data sets or phantoms, for simulations, demos and tests."""
