"""A hospital's part in secure aggregation: its keys, rosters it has checked, its states (decision 0014)."""
