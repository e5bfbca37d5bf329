"""The command `easyrlhf revise`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import ReviseConfig

PAGE = HelpPage(
    summary="Have answers criticised and revised by principles: the supervised half of Constitutional AI.",
    story=[
        (
            "Goes in",
            "A model, prompts in any row format, and a constitution; critiques and revisions come from the same model, "
            "another one, or one behind an OpenAI-compatible server.",
        ),
        (
            "Comes out",
            "A .jsonl file of revised answers that sft_train reads, or with --to comparisons one for rm_train and "
            "dpo_train, each with its first answer, critiques and revisions. A stopped command goes on where it was.",
        ),
        ("Next", "sft_train --model outputs/sft --train_data revised.jsonl"),
    ],
    examples=[
        "easyrlhf revise sft --prompts p --constitution configs/constitution.yaml --output r.jsonl",
        "easyrlhf revise sft --prompts p --constitution c --output r.jsonl --judge_dir Qwen/Qwen3-4B",
        "easyrlhf revise sft --prompts p --constitution c --output r.jsonl --to comparisons",
        "easyrlhf revise --prompts p --constitution c --output r.jsonl --judge_url http://h --judge_model m",
    ],
)

command = SettingsCommand("revise", ReviseConfig, "easyrlhf.tools.revising.revise:revise", PAGE, first="model")
