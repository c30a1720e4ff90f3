"""The hospital's commands. Each parses, calls one function and prints one result."""
