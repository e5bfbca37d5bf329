"""`easyrlhf label …`: from rows to items, from labels to training files, and what labels say of one another."""
