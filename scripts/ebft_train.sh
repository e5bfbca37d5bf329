#!/usr/bin/env bash
# A typical EBFT run. Further flags are passed on and beat those below:
#   scripts/ebft_train.sh --train_data demos.jsonl --valid_data none --ce_coef 0.1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the ebft_train you installed
ebft_train --config configs/ebft.yaml --model outputs/sft \
    --output_dir outputs/ebft "$@"
