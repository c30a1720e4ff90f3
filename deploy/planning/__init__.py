"""Planning: what a plan costs and buys before a hospital approves it, from public numbers alone."""
