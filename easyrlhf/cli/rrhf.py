"""The command `rrhf_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import RRHFConfig

PAGE = HelpPage(
    summary="RRHF: rank several answers to a prompt by likelihood as their scores rank them.",
    story=[
        (
            "Goes in",
            "Rankings (prompt, completions, scores), or comparisons, each a ranking of two; an SFT model.",
        ),
        ("Comes out", "outputs/rrhf, the trained policy; report.html."),
        (
            "Worth a look",
            "rewards/accuracies, the share of pairs that likelihood ranks as the scores do, should rise.",
        ),
        ("Next", "read answers of outputs/rrhf beside those of its parent"),
    ],
    examples=[
        "rrhf_train --train_data rankings.jsonl        # with outputs/sft in place",
        "rrhf_train --train_data pairs.jsonl --rrhf_weight 1 --length_penalty 1",
        "rrhf_train --config configs/rrhf.yaml --dry_run",
    ],
)

main = SettingsCommand("rrhf_train", RRHFConfig, "easyrlhf.stages.rrhf:train_rrhf", PAGE)
