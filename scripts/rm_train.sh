#!/usr/bin/env bash
# A typical reward model. Further flags are passed on and beat those below:
#   scripts/rm_train.sh --train_data comparisons.jsonl --valid_data held_out.jsonl
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the rm_train you installed
rm_train --config configs/rm.yaml --model outputs/sft --output_dir outputs/rm "$@"
