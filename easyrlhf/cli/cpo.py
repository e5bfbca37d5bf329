"""The command `cpo_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import CPOConfig

PAGE = HelpPage(
    summary="Contrastive preference optimisation: DPO without a reference, beside an SFT loss.",
    story=[
        (
            "Goes in",
            "Comparisons (prompt, chosen, rejected), and an SFT model. There is no reference.",
        ),
        ("Comes out", "outputs/cpo, the trained policy; report.html."),
        (
            "Worth a look",
            "the SFT loss on chosen answers (--cpo_alpha) is what keeps the policy near good text.",
        ),
        ("Next", "read answers of outputs/cpo beside those of its parent"),
    ],
    examples=[
        "cpo_train --train_data pairs.jsonl            # with outputs/sft in place",
        "cpo_train --train_data pairs.jsonl --cpo_alpha 0.5 --lora_r 16",
        "cpo_train --config configs/cpo.yaml --dry_run",
    ],
)

main = SettingsCommand("cpo_train", CPOConfig, "easyrlhf.stages.preference:train_cpo", PAGE)
