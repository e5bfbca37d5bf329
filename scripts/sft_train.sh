#!/usr/bin/env bash
# A typical supervised fine-tuning. Further flags are passed on and beat those below:
#   scripts/sft_train.sh --train_data demos.jsonl --valid_data none --lora_r 16
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the sft_train you installed
sft_train --config configs/sft.yaml --output_dir outputs/sft "$@"
