#!/usr/bin/env bash
# A typical SimPO run. Further flags are passed on and beat those below:
#   scripts/simpo_train.sh --train_data pairs.jsonl --valid_data none --epochs 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the simpo_train you installed
simpo_train --config configs/simpo.yaml --output_dir outputs/simpo "$@"
