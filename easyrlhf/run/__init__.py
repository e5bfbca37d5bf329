"""The life of a run: its folder, its checkpoints, what it was begun with, and the end of each of its steps."""
