#!/usr/bin/env bash
# From a bare machine to a policy that PPO made better, on a CPU, in minutes:
# init → SFT → reward model → PPO on the toy world of data/toy, then a comparison of the three policies.
#
#   scripts/quickstart.sh                                     into outputs/quickstart
#   scripts/quickstart.sh --seed 7 --output_dir outputs/qs7   another seed, another folder
#
# Run again, it continues where it stopped; finished stages are not trained twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seed=42
out=outputs/quickstart
while [[ $# -gt 0 ]]; do
    case "$1" in
        --seed) seed="$2" ;;
        --output_dir) out="$2" ;;
        *) echo "error: unknown argument $1; use --seed N and --output_dir DIR" >&2; exit 2 ;;
    esac
    shift 2
done

scripts/venv.sh
export PATH="$PWD/.venv/bin:$PATH"
data=data/toy

[[ -f $out/init/stage.json ]] ||
    easyrlhf init --preset tiny --train_data $data/sft.jsonl.gz --output_dir "$out/init" --seed "$seed"
sft_train --config configs/recipes/toy_sft.yaml --model "$out/init" --output_dir "$out/sft" --seed "$seed"
rm_train --config configs/recipes/toy_rm.yaml --model "$out/sft" --output_dir "$out/rm" --seed "$seed"
ppo_train --config configs/recipes/toy_ppo.yaml --model "$out/sft" --reward_model "$out/rm" \
    --output_dir "$out/ppo" --seed "$seed"
python scripts/quickstart_report.py --output_dir "$out" --data $data --seed "$seed"
