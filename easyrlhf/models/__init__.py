"""Models on disk and in memory: loading, adapters, the value head, token log-probabilities."""
