#!/usr/bin/env bash
# Anthropic's hh-rlhf into data/hh-rlhf; a .jsonl.gz that is there already is unpacked:
#   scripts/download_hh_rlhf.sh --subset helpful-base
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PWD/.venv/bin:$PATH" # of scripts/venv.sh; without it the easyrlhf you installed
easyrlhf data download hh-rlhf "$@"
