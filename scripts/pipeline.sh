#!/usr/bin/env bash
# The stages chained on your own files. Each stage reads the folder of the one before; run the script again and it
# continues where it stopped. Settings beyond these go into the YAML files of configs/.
#
#   scripts/pipeline.sh --model Qwen/Qwen2.5-0.5B --sft_data demos.jsonl --rm_data pairs.jsonl --prompts prompts.jsonl
#   scripts/pipeline.sh --final dpo --sft_data demos.jsonl --pairs pairs.jsonl
#   scripts/pipeline.sh --final orpo --pairs pairs.jsonl
#
#   --final NAME           the last stage; docs/choosing.md tells them apart
#                            ppo (default), grpo: SFT, reward model, then NAME on prompts
#                            dpo, ipo, kto, simpo, cpo, rrhf: SFT, then NAME on preferences
#                            orpo: NAME on preferences, from the base model
#   --model DIR|HUB_ID     the base model (Qwen/Qwen2.5-0.5B)
#   --sft_data FILE        demonstrations; all but orpo need them
#   --rm_data FILE         comparisons for the reward model; ppo and grpo need them
#   --prompts FILE         prompts; ppo and grpo need them
#   --pairs FILE           preferences; the others need them: comparisons, for kto answers with a label as well, for
#                          rrhf rankings as well
#   --output_dir DIR       folder of the stages' folders (outputs)
#   --sft_config FILE --rm_config FILE --final_config FILE   settings of a stage (see configs/)
set -euo pipefail

model=Qwen/Qwen2.5-0.5B
out=outputs
final=ppo
sft_data='' rm_data='' prompts='' pairs=''
sft_config='' rm_config='' final_config=''
while [[ $# -gt 0 ]]; do
    case "$1" in
        --help | -h) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --model | --sft_data | --rm_data | --prompts | --pairs | --final | --sft_config | --rm_config | --final_config)
            declare "${1#--}=${2:?error: $1 needs a value}" ;;
        --output_dir) out="${2:?error: $1 needs a value}" ;;
        *) echo "error: unknown argument $1; $0 --help lists them" >&2; exit 2 ;;
    esac
    shift 2
done
case "$final" in
    ppo | grpo) needs=(sft_data rm_data prompts) ;;
    dpo | ipo | kto | simpo | cpo | rrhf) needs=(sft_data pairs) ;;
    orpo) needs=(pairs) ;;
    *) echo "error: --final $final: must be ppo, grpo, dpo, ipo, kto, orpo, simpo, cpo or rrhf" >&2; exit 2 ;;
esac
for needed in "${needs[@]}"; do
    [[ -n ${!needed} ]] || { echo "error: --$needed FILE is missing; --final $final needs it" >&2; exit 2; }
done

if [[ $final != orpo ]]; then
    sft_train ${sft_config:+--config "$sft_config"} --model "$model" --train_data "$sft_data" --output_dir "$out/sft"
    model="$out/sft"
fi
if [[ $final == ppo || $final == grpo ]]; then
    rm_train ${rm_config:+--config "$rm_config"} --model "$model" --train_data "$rm_data" --output_dir "$out/rm"
    "${final}_train" ${final_config:+--config "$final_config"} --model "$model" --reward_model "$out/rm" \
        --train_data "$prompts" --output_dir "$out/$final"
else
    "${final}_train" ${final_config:+--config "$final_config"} --model "$model" --train_data "$pairs" \
        --output_dir "$out/$final"
fi
