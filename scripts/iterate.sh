#!/usr/bin/env bash
# Preferences in rounds, as in the online rounds of hh-rlhf: the newest policy answers new prompts, people or a judge label
# the answers, a reward model learns from the labels of all rounds, PPO trains a policy by it, and so on.
#
#   scripts/iterate.sh --prompts prompts.jsonl --heldout heldout.jsonl --annotators ann,bob --labels_a_round 500
#   scripts/iterate.sh --prompts prompts.jsonl --heldout heldout.jsonl --labeller ai --judge_config judge.yaml
#
#   --rounds N             how many (3)
#   --labeller human|ai    people on a page, `easyrlhf label serve`, or a judge, `easyrlhf label ai` (human)
#   --model DIR            the SFT model, from which all reward models start, and PPO unless --from last (outputs/sft)
#   --prompts FILE         prompts, of which every round samples the next ones, and on which PPO trains; needed
#   --heldout FILE         prompts on which policies are compared; needed
#   --prompts_a_round N    prompts that a round samples, four answers each (500)
#   --annotators NAME,…    whose links the page prints (me)
#   --labels_a_round N     labels of people with which a round goes on, or with fewer when they have skipped all the rest;
#                          needed for --labeller human
#   --from sft|last        what PPO starts from: the SFT model, or the newest policy (sft)
#   --output_dir DIR       DIR/round-1, DIR/round-2 … hold what a round made (outputs/loop)
#   --generate_config FILE --import_config FILE --serve_config FILE --judge_config FILE --rm_config FILE --ppo_config FILE
#   --compare_config FILE  settings of a command (easyrlhf init-config writes such a file); the judge's has to name it
#
# Run again, it goes on where it stopped: every command resumes by itself. Ctrl-C while people label ends with exit code 3,
# and the labels are kept. The last page, DIR/rounds.html, has a line for each round.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

rounds=3 labeller=human model=outputs/sft out=outputs/loop from=sft
prompts='' heldout='' prompts_a_round=500 annotators=me labels_a_round=''
generate_config='' import_config='' serve_config='' judge_config='' rm_config='' ppo_config='' compare_config=''
while [[ $# -gt 0 ]]; do
    case "$1" in
        --help | -h) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        --rounds | --labeller | --model | --prompts | --heldout | --prompts_a_round | --annotators | --labels_a_round | \
            --from | --generate_config | --import_config | --serve_config | --judge_config | --rm_config | \
            --ppo_config | --compare_config)
            declare "${1#--}=${2:?error: $1 needs a value}" ;;
        --output_dir) out="${2:?error: $1 needs a value}" ;;
        *) echo "error: unknown argument $1; $0 --help lists them" >&2; exit 2 ;;
    esac
    shift 2
done
fail() { echo "error: $1" >&2; exit 2; }
for number in rounds prompts_a_round ${labels_a_round:+labels_a_round}; do
    [[ ${!number} =~ ^[1-9][0-9]*$ ]] || fail "--$number ${!number}: must be a number, 1 or more"
done
[[ $labeller == human || $labeller == ai ]] || fail "--labeller $labeller: must be human or ai"
[[ $from == sft || $from == last ]] || fail "--from $from: must be sft or last"
for needed in prompts heldout; do
    [[ -n ${!needed} ]] || fail "--$needed FILE is missing"
done
[[ $labeller == human || -n $judge_config ]] || fail "--judge_config FILE is missing; --labeller ai needs it"
[[ $labeller == ai || -n $labels_a_round ]] || fail "--labels_a_round N is missing; --labeller human needs it"

# What was sampled and labelled under other settings would be taken for this run's.
settings="$out/settings.txt"
wanted="$(printf '%s\n' "$model" "$prompts" "$prompts_a_round" "$labeller" "$from")"
if [[ -f $settings && $(<"$settings") != "$wanted" ]]; then
    fail "$settings: the loop in $out was begun with other values of --model, --prompts, --prompts_a_round, --labeller and
--from: $(paste -sd ' ' "$settings"). Give these, or another --output_dir"
fi
if [[ ! -f $out/prompts.jsonl ]]; then
    easyrlhf data convert "$prompts" --kind prompt --output "$out/prompts.jsonl"
fi
held=$(wc -l < "$out/prompts.jsonl")
((held >= rounds * prompts_a_round)) ||
    fail "--prompts $prompts: holds $held prompts, but $rounds rounds of $prompts_a_round need \
$((rounds * prompts_a_round)); give more, or a lower --prompts_a_round"
echo "$wanted" > "$settings"

policy="$model" policies=("$model") comparisons=''
for ((round = 1; round <= rounds; round++)); do
    folder="$out/round-$round" labels="$out/round-$round/labels"
    mkdir -p "$folder"
    # 1. The newest policy answers prompts that no round has used.
    sed -n "$(((round - 1) * prompts_a_round + 1)),$((round * prompts_a_round))p" "$out/prompts.jsonl" > "$folder/draft"
    mv "$folder/draft" "$folder/prompts.jsonl"
    easyrlhf generate "$policy" ${generate_config:+--config "$generate_config"} --prompts "$folder/prompts.jsonl" \
        --samples 4 --seed "$round" --output "$folder/answers.jsonl"
    # 2. People or a judge label them.
    easyrlhf label import "$folder/answers.jsonl" ${import_config:+--config "$import_config"} --labels "$labels"
    if [[ $labeller == ai ]]; then
        easyrlhf label ai --config "$judge_config" --labels "$labels"
    else
        easyrlhf label serve ${serve_config:+--config "$serve_config"} --annotators "$annotators" \
            --until "$labels_a_round" --labels "$labels"
    fi
    easyrlhf label agree --labels "$labels"
    easyrlhf label export --labels "$labels" --output "$folder/comparisons.jsonl"
    comparisons+="${comparisons:+,}$folder/comparisons.jsonl"
    # 3. A reward model learns from the labels of all rounds, and PPO trains by it.
    rm_train ${rm_config:+--config "$rm_config"} --model "$model" --train_data "$comparisons" --output_dir "$folder/rm"
    start="$model"
    [[ $from == sft ]] || start="$policy"
    ppo_train ${ppo_config:+--config "$ppo_config"} --model "$start" --reward_model "$folder/rm" \
        --train_data "$out/prompts.jsonl" --output_dir "$folder/ppo"
    policy="$folder/ppo" policies+=("$folder/ppo")
    # 4. All policies so far, by the newest reward model: the SFT model, and those of the rounds.
    easyrlhf compare "${policies[@]}" ${compare_config:+--config "$compare_config"} --prompts "$heldout" \
        --reward_model "$folder/rm" --output_dir "$folder/compare"
done
python "$here/rounds_page.py" --output_dir "$out" --rounds "$rounds"
