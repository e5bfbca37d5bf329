"""The command `sft_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import SFTConfig

PAGE = HelpPage(
    summary="Supervised fine-tuning: teach a model to answer by showing it answers.",
    story=[
        (
            "Goes in",
            "Demonstrations: rows of messages, of prompt and completion, alpaca or sharegpt. "
            "Only what the assistant says is trained on.",
        ),
        (
            "Comes out",
            "outputs/sft, a Hugging Face checkpoint with its tokenizer, and report.html.",
        ),
        ("Worth a look", "eval/loss in report.html: when it rises while loss falls, stop earlier."),
        ("Next", "rm_train --model outputs/sft --train_data comparisons.jsonl"),
    ],
    examples=[
        "sft_train --train_data demos.jsonl",
        "sft_train --model Qwen/Qwen2.5-0.5B --train_data demos.jsonl --valid_data held_out.jsonl",
        "sft_train --train_data demos.jsonl --lora_r 16 --max_length 2048",
        "sft_train --config configs/sft.yaml --dry_run   # shows what would be done",
    ],
)

main = SettingsCommand("sft_train", SFTConfig, "easyrlhf.stages.sft:train_sft", PAGE)
