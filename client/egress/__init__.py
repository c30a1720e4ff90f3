"""The one door out: schema, finiteness, log, and the store of finished replies. No other room may send."""
