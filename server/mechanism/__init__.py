"""The coordinator's halves of the mechanisms: what is plausible in a reply, and what the sum of all replies makes."""
