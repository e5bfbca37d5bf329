"""The command `easyrlhf data preview`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import PreviewConfig

PAGE = HelpPage(
    summary="Show rows as the model sees them: token by token, special tokens by name, and what is learned from.",
    story=[
        ("Goes in", "The files of --train_data, and the tokenizer and chat template of --model."),
        (
            "Comes out",
            "For each row the tokens that training gets, prompt and answers apart, with their counts. Colours in a "
            "terminal, plain marks in a file.",
        ),
        ("Next", "rm_train --train_data train.jsonl --model outputs/sft"),
    ],
    examples=[
        "easyrlhf data preview train.jsonl --stage rm --model outputs/sft",
        "easyrlhf data preview train.jsonl --stage rm --model outputs/sft --row 17 --rows 1",
        "easyrlhf data preview sft.jsonl --stage sft --model Qwen/Qwen2.5-0.5B --chat_template chatml",
    ],
)

command = SettingsCommand(
    "preview", PreviewConfig, "easyrlhf.tools.checking.preview:preview_rows", PAGE, first="train_data"
)
