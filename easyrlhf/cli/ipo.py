"""The command `ipo_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import IPOConfig

PAGE = HelpPage(
    summary="Identity preference optimisation: DPO without its drive to certainty.",
    story=[
        (
            "Goes in",
            "Comparisons (prompt, chosen, rejected), and an SFT model, which is also the reference.",
        ),
        ("Comes out", "outputs/ipo, the trained policy; report.html."),
        (
            "Worth a look",
            "the loss aims at a margin of 1 / (2 beta) nats a token between the mean log-ratios, and stops there.",
        ),
        ("Next", "read answers of outputs/ipo beside those of its parent"),
    ],
    examples=[
        "ipo_train --train_data pairs.jsonl            # with outputs/sft in place",
        "ipo_train --model outputs/sft --train_data pairs.jsonl --beta 0.5 --lora_r 16",
        "ipo_train --config configs/ipo.yaml --dry_run",
    ],
)

main = SettingsCommand("ipo_train", IPOConfig, "easyrlhf.stages.preference:train_ipo", PAGE)
