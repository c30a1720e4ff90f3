"""The one door out: schema, finiteness, log, and the store of finished replies. Nothing else may send."""
