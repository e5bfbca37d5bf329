"""From files to token rows: sources -> formats -> records -> rendered tokens."""
