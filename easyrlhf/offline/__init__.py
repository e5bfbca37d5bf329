"""The offline loop: fixed data in micro-batches, one loss, evaluation and checkpoints (sft, rm)."""
