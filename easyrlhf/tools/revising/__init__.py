"""Answers that are criticised and revised by principles."""
