"""The decoder of compressed frames, in child processes that a bad file may crash or stall."""
