"""The two shims that Flower imports."""
