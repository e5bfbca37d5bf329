#!/usr/bin/env bash
# Makes .venv and installs easyrlhf into it, with the versions of constraints.txt. Run again, it
# does nothing until setup.py, constraints.txt or the Python version changes.
#
#   scripts/venv.sh              what training needs
#   scripts/venv.sh dev          that, and what the tests need (any extras of setup.py, with commas)
#   source .venv/bin/activate    afterwards, in your shell
#
# The torch that pip finds for Linux brings CUDA along, several GB of it. TORCH_INDEX_URL takes torch
# from another index, such as PyTorch's CPU builds (200 MB; pytorch.org shows the address under "Get started"):
#   TORCH_INDEX_URL=ADDRESS scripts/venv.sh
# PYTHON names the interpreter, when it is not found by itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="${1:-}"
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$candidate" -c "$new_enough" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or newer was found (looked for: ${PYTHON:-python3, python3.11 to 3.14})." >&2
    echo "Install one from your system's packages or python.org, or name it: PYTHON=/path/to/python3.12 $0" >&2
    exit 2
}

# What is installed follows from these, so a change of any of them means installing again.
fingerprint() {
    { .venv/bin/python --version; cat setup.py constraints.txt; } | cksum
}

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python="$(find_python)"
    echo "Making .venv with $("$python" --version)"
    if ! "$python" -m venv --clear .venv; then
        echo "error: $python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 2
    fi
fi

for stamp in ".venv/installed-${extras:-base}" .venv/installed-dev; do
    # what the tests need includes what training needs
    [[ $stamp == .venv/installed-dev && -n $extras && $extras != dev ]] && continue
    if [[ -f $stamp && "$(cat "$stamp")" == "$(fingerprint)" ]]; then
        exit 0
    fi
done

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
if [[ -n ${TORCH_INDEX_URL:-} ]]; then
    # only torch itself: that index need not have the tested versions of what torch depends on
    pip install --quiet --no-deps --index-url "$TORCH_INDEX_URL" "$(grep -E '^torch==' constraints.txt)"
fi
echo "Installing easyrlhf${extras:+ with $extras} into .venv (minutes, the first time)"
pip install --quiet -c constraints.txt torch
pip install --quiet -c constraints.txt -e ".${extras:+[$extras]}"
fingerprint >".venv/installed-${extras:-base}"
