"""The stages: each takes its settings, works in one folder and leaves a checkpoint that the next one reads."""
