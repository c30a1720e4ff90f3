"""Secure aggregation as both sides must agree on it: roster, thresholds, masks, shares, statements (decision 0014)."""
