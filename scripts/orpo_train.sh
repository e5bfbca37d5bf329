#!/usr/bin/env bash
# A typical ORPO run. Further flags are passed on and beat those below:
#   scripts/orpo_train.sh --train_data pairs.jsonl --valid_data none --epochs 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the orpo_train you installed
orpo_train --config configs/orpo.yaml --output_dir outputs/orpo "$@"
