#!/usr/bin/env bash
# Tests on a GPU, on a bare machine too: Python 3.12 with torch 2.11 or later and transformers, and no network. About 3 minutes.
#
#   WHEELS=DIR scripts/test_gpu.sh            installs the wheels of a folder first, without looking for any others
#   scripts/test_gpu.sh                       with what is installed
#   scripts/test_gpu.sh --check               benchmarks/gpu_check.py after the tests: speed as well, 5 minutes more
#
# The wheels, made where there is a network; DeepSpeed has none on the package index:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#       --platform manylinux2014_x86_64 -d DIR datasets dill multiprocess xxhash jsonlines trl hjson
#   DS_BUILD_OPS=0 pip wheel --no-deps --no-build-isolation -w DIR deepspeed
#   pip wheel --no-deps --no-build-isolation -w DIR .
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
if [[ -n ${WHEELS:-} ]]; then
    site="$(mktemp -d)"
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
else
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
fi
export HF_HUB_OFFLINE=1
"$python" -c 'import torch; print("torch", torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "without a GPU")'
"$python" -m pytest -m gpu tests/gpu -q -rs
if [[ ${1:-} == --check ]]; then
    "$python" benchmarks/gpu_check.py
fi
