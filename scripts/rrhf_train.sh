#!/usr/bin/env bash
# A typical RRHF run. Further flags are passed on and beat those below:
#   scripts/rrhf_train.sh --train_data rankings.jsonl --valid_data none --epochs 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the rrhf_train you installed
rrhf_train --config configs/rrhf.yaml --output_dir outputs/rrhf "$@"
