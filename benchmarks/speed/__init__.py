"""Speed and memory of easyrlhf beside TRL and transformers; `benchmarks/run.py` runs it all."""
