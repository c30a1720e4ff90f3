"""From a finished run to a signed bundle, and images drawn from it."""
