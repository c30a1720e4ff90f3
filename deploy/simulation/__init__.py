"""A study on one machine: simulated hospitals, an in-process grid, Flower's engine on Ray."""
