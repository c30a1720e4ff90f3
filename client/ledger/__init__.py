"""The privacy ledger and what depends on it: bookings, the budget, the noise key of a round under way."""
