"""The command `easyrlhf init`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import InitConfig

PAGE = HelpPage(
    summary="Make a tokenizer and a small random model: a start without any download.",
    story=[
        ("Goes in", "The training files themselves: the vocabulary is learnt from their texts."),
        ("Comes out", "A folder that --model takes: random weights, tokenizer, chat template."),
        ("Next", "sft_train --model outputs/init --train_data demos.jsonl --learning_rate 2e-3"),
    ],
    examples=[
        "easyrlhf init --preset tiny --train_data data/toy/sft.jsonl.gz",
        "easyrlhf init --preset small --train_data demos.jsonl --output_dir outputs/base",
    ],
)

command = SettingsCommand("init", InitConfig, "easyrlhf.tools.init:init_model", PAGE)
