#!/usr/bin/env bash
# A typical CPO run. Further flags are passed on and beat those below:
#   scripts/cpo_train.sh --train_data pairs.jsonl --valid_data none --epochs 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the cpo_train you installed
cpo_train --config configs/cpo.yaml --output_dir outputs/cpo "$@"
