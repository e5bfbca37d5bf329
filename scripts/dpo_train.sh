#!/usr/bin/env bash
# A typical DPO run. Further flags are passed on and beat those below:
#   scripts/dpo_train.sh --train_data pairs.jsonl --valid_data none --epochs 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the dpo_train you installed
dpo_train --config configs/dpo.yaml --output_dir outputs/dpo "$@"
