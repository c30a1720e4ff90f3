"""The coordinator's daemon: its home, its authority, its record of each site, and Flower's processes."""
