"""A study on the coordinator's disk: checkpoints, progress, signers, and the release. All writes are atomic."""
