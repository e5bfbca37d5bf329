"""Labels from people and judges: what is labelled, the file that holds it, and what becomes of it."""
