"""The coordinator: its home, its authority, the gateway that hospitals reach, and the daemons behind it."""
