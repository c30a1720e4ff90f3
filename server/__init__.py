"""The coordinator's side: rounds, aggregation, checkpoints, the release and its report."""
