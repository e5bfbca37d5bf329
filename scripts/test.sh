#!/usr/bin/env bash
# Installs what the tests need (once), then runs them.
#
#   scripts/test.sh                      the quick ones
#   scripts/test.sh --all                all of them; those that need a GPU or a real model skip themselves without one
#   scripts/test.sh tests/cli -k yaml    any arguments of pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/venv.sh dev
if [[ ${1:-} == --all ]]; then
    shift
    set -- -m "" "$@"
fi
# Compiled files are kept, whatever the shell says: hundreds of processes would compile package and tests anew.
unset PYTHONDONTWRITEBYTECODE
# One thread per process: the tests' models are so small that threads would only wait for each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export PATH="$PWD/.venv/bin:$PATH"
exec python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
