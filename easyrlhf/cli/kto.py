"""The command `kto_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import KTOConfig

PAGE = HelpPage(
    summary="Kahneman-Tversky optimisation: learn from single answers that were liked or not.",
    story=[
        (
            "Goes in",
            "Answers with a label (prompt, completion, label), or comparisons, each of which counts "
            "as two; an SFT model.",
        ),
        ("Comes out", "outputs/kto, the trained policy; report.html."),
        (
            "Worth a look",
            "the start summary counts liked and disliked answers; when they differ much, it says "
            "which weights would fit.",
        ),
        ("Next", "read answers of outputs/kto beside those of its parent"),
    ],
    examples=[
        "kto_train --train_data feedback.jsonl         # with outputs/sft in place",
        "kto_train --train_data pairs.jsonl --beta 0.1 --desirable_weight 1.33",
        "kto_train --config configs/kto.yaml --dry_run",
    ],
)

main = SettingsCommand("kto_train", KTOConfig, "easyrlhf.stages.kto:train_kto", PAGE)
