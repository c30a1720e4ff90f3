"""Approvals: what a plan would do here, what it will cost, and what the steward decided. Nothing runs without one."""
