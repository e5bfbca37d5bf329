#!/usr/bin/env bash
# A typical IPO run. Further flags are passed on and beat those below:
#   scripts/ipo_train.sh --train_data pairs.jsonl --valid_data none --epochs 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the ipo_train you installed
ipo_train --config configs/ipo.yaml --output_dir outputs/ipo "$@"
