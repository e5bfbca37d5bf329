#!/usr/bin/env bash
# The stages chained on your own files. Each stage reads the folder of the one before; run the script again and it
# continues where it stopped. Settings beyond these go into the YAML files of configs/.
#
#   scripts/pipeline.sh --model Qwen/Qwen2.5-0.5B --sft_data demos.jsonl --rm_data pairs.jsonl --prompts prompts.jsonl
#   --output_dir outputs   folder of the stages' folders
#   --final ppo            the last stage
#   --sft_config FILE --rm_config FILE --ppo_config FILE   settings of a stage (see configs/)
set -euo pipefail

model=Qwen/Qwen2.5-0.5B
out=outputs
final=ppo
sft_data='' rm_data='' prompts=''
sft_config='' rm_config='' ppo_config=''
while [[ $# -gt 0 ]]; do
    case "$1" in
        --model | --sft_data | --rm_data | --prompts | --final | --sft_config | --rm_config | --ppo_config)
            declare "${1#--}=${2:?error: $1 needs a value}" ;;
        --output_dir) out="${2:?error: $1 needs a value}" ;;
        *) echo "error: unknown argument $1; $0 begins with a list of them" >&2; exit 2 ;;
    esac
    shift 2
done
for needed in sft_data rm_data prompts; do
    [[ -n ${!needed} ]] || { echo "error: --$needed FILE is missing" >&2; exit 2; }
done
[[ $final == ppo ]] || { echo "error: --final $final: this version knows ppo" >&2; exit 2; }

sft_train ${sft_config:+--config "$sft_config"} --model "$model" --train_data "$sft_data" --output_dir "$out/sft"
rm_train ${rm_config:+--config "$rm_config"} --model "$out/sft" --train_data "$rm_data" --output_dir "$out/rm"
ppo_train ${ppo_config:+--config "$ppo_config"} --model "$out/sft" --reward_model "$out/rm" --train_data "$prompts" \
    --output_dir "$out/ppo"
