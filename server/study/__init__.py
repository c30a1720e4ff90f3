"""A study on the coordinator's disk: checkpoints, progress, who signs, and the release."""
