#!/usr/bin/env bash
# Makes .venv-trackers, with MLflow, Trackio and Weights & Biases, and runs the tests that log to them. About 3 minutes.
#
#   scripts/test_trackers.sh                    the tests of trackers
#   scripts/test_trackers.sh -k mlflow          any arguments of pytest
#
# Trackio wants older versions of some libraries than constraints.txt has, hence the environment of its own. torch is
# not in it: what needs torch runs with the other tests. PYTHON is that of scripts/venv.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=".venv-trackers/installed"
wanted="$(cksum <setup.py)"
if [[ ! -f $stamp || "$(cat "$stamp")" != "$wanted" ]]; then
    "${PYTHON:-python3}" -m venv --clear .venv-trackers
    echo "Installing mlflow, trackio and wandb into .venv-trackers (a minute or two, the first time)"
    .venv-trackers/bin/python -m pip --disable-pip-version-check install --quiet \
        "mlflow>=3" "trackio>=0.40" "wandb>=0.22" pytest pytest-timeout
    echo "$wanted" >"$stamp"
fi
export PYTHONPATH="$PWD" TRACKIO_DIR="$PWD/.venv-trackers/trackio"
if [[ $# == 0 ]]; then
    set -- -k "mlflow or trackio or wandb"
fi
exec .venv-trackers/bin/python -m pytest tests/report/test_trackers.py "$@"
