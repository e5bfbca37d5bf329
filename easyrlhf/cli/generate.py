"""The command `easyrlhf generate`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import GenerateConfig

PAGE = HelpPage(
    summary="Answer prompts: all samples, the best of N, or those that a reward model finds good enough.",
    story=[
        (
            "Goes in",
            "A model, and prompts in any row format, or texts; with a reward model, answers are scored and chosen.",
        ),
        (
            "Comes out",
            "A .jsonl file that sft_train reads, or with --to comparisons one for rm_train and dpo_train: in the order "
            "of the prompts, with their other columns. A stopped command goes on where it was. Answers to --prompt are "
            "printed.",
        ),
        ("Next", "sft_train --model outputs/sft --train_data best.jsonl"),
    ],
    examples=[
        'easyrlhf generate outputs/sft --prompt "Name a colour."',
        "easyrlhf generate outputs/sft --prompts prompts.jsonl --output answers.jsonl --samples 4",
        "easyrlhf generate sft --prompts p.jsonl --output best.jsonl --reward_model rm --best_of 16",
        "easyrlhf generate sft --prompts p.jsonl --output good.jsonl --reward_model rm --min_reward 1",
        "easyrlhf generate sft --prompts p --output o.jsonl --reward_model rm --samples 8 --to comparisons",
    ],
)

command = SettingsCommand("generate", GenerateConfig, "easyrlhf.tools.generate:generate", PAGE, first="model")
