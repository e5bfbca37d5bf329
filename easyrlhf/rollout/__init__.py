"""Samplers behind one interface: prompts in, completions and their log-probabilities out."""
