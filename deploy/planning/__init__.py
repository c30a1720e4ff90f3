"""What a plan costs and buys, before anybody agrees to it. Public numbers alone."""
