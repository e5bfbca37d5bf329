#!/usr/bin/env bash
# A typical PPO run. Further flags are passed on and beat those below:
#   scripts/ppo_train.sh --train_data prompts.jsonl --valid_data none --kl_coef 0.1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the ppo_train you installed
ppo_train --config configs/ppo.yaml --model outputs/sft --reward_model outputs/rm \
    --output_dir outputs/ppo "$@"
