#!/usr/bin/env bash
# A typical KTO run. Further flags are passed on and beat those below:
#   scripts/kto_train.sh --train_data feedback.jsonl --valid_data none --epochs 2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the kto_train you installed
kto_train --config configs/kto.yaml --output_dir outputs/kto "$@"
