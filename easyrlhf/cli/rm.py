"""The command `rm_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import RMConfig

PAGE = HelpPage(
    summary="Reward model: learn from comparisons which of two answers people prefer.",
    story=[
        (
            "Goes in",
            "Comparisons: rows of prompt, chosen and rejected (hh-rlhf transcripts as they are). A "
            "margin column is used when there is one.",
        ),
        (
            "Comes out",
            "outputs/rm: the model, its score head (value_head.safetensors), and report.html.",
        ),
        (
            "Worth a look",
            "eval/rewards/accuracies, against eval/length_baseline_accuracy: a model no better "
            "than that has learnt that longer is better.",
        ),
        (
            "Next",
            "ppo_train --model outputs/sft --reward_model outputs/rm --train_data prompts.jsonl",
        ),
    ],
    examples=[
        "rm_train --train_data comparisons.jsonl --valid_data held_out.jsonl",
        "rm_train --model outputs/sft --train_data data/hh-rlhf/helpful-base/train.jsonl",
        "rm_train --train_data comparisons.jsonl --lora_r 16 --learning_rate 1e-4",
        "rm_train --config configs/rm.yaml --dry_run",
    ],
)

main = SettingsCommand("rm_train", RMConfig, "easyrlhf.stages.rm:train_rm", PAGE)
