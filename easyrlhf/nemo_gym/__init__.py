"""NeMo Gym over HTTP: its servers found, asked for rewards, and played in; nothing of its package is imported."""
