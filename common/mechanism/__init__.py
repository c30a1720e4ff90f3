"""The arithmetic of each mechanism that both sides must agree on: what is packed, how long it is, its sensitivity."""
