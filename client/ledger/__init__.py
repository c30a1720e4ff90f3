"""The privacy ledger and what depends on it: bookings, budget, receipts, the noise key of a round under way."""
