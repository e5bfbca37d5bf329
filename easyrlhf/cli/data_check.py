"""The command `easyrlhf data check`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import CheckConfig

PAGE = HelpPage(
    summary="Read all rows as a stage would, and say what is wrong with them, before any model is trained.",
    story=[
        ("Goes in", "The files of --train_data, and of --valid_data; with --model its tokenizer and chat template."),
        (
            "Comes out",
            "Counts, formats, lengths with what over-length would drop, and findings: unreadable rows, duplicates, "
            "held-out rows among the training rows, empty turns, control characters, template problems… each with "
            "its places and what to do. Exit code 2 when a finding is an error (easyrlhf docs checking_data).",
        ),
        ("Next", "easyrlhf data preview train.jsonl --stage rm --model outputs/sft"),
    ],
    examples=[
        "easyrlhf data check train.jsonl --stage rm",
        "easyrlhf data check train.jsonl --valid_data valid.jsonl --stage rm --model outputs/sft",
        "easyrlhf data check sft.jsonl --stage sft --model outputs/init --report check.html",
    ],
)

command = SettingsCommand("check", CheckConfig, "easyrlhf.tools.checking.check:print_check", PAGE, first="train_data")
