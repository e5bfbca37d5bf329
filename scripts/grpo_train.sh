#!/usr/bin/env bash
# A typical GRPO run. Further flags are passed on and beat those below:
#   scripts/grpo_train.sh --train_data prompts.jsonl --valid_data none --beta 0.1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the grpo_train you installed
grpo_train --config configs/grpo.yaml --model outputs/sft --reward_model outputs/rm \
    --output_dir outputs/grpo "$@"
