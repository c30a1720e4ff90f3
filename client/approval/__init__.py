"""Approvals: what a plan would do here, in plain words, what it will cost, and what the steward decided."""
