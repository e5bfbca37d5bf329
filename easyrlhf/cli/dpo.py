"""The command `dpo_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import DPOConfig

PAGE = HelpPage(
    summary="Direct preference optimisation: learn from comparisons without a reward model.",
    story=[
        (
            "Goes in",
            "Comparisons (prompt, chosen, rejected), and an SFT model, which is also the reference.",
        ),
        ("Comes out", "outputs/dpo, the trained policy; report.html."),
        (
            "Worth a look",
            "rewards/margins should rise while logps/chosen does not fall far: a fall of both sides "
            "is the usual trouble; --rpo_alpha 1 holds it up.",
        ),
        ("Next", "read answers of outputs/dpo beside those of its parent"),
    ],
    examples=[
        "dpo_train --train_data pairs.jsonl            # with outputs/sft in place",
        "dpo_train --model outputs/sft --train_data pairs.jsonl --valid_data held_out.jsonl --beta 0.05",
        "dpo_train --train_data pairs.jsonl --loss_type robust --label_smoothing 0.1",
        "dpo_train --train_data pairs.jsonl --rpo_alpha 1 --lora_r 16",
        "dpo_train --config configs/dpo.yaml --dry_run",
    ],
)

main = SettingsCommand("dpo_train", DPOConfig, "easyrlhf.stages.preference:train_dpo", PAGE)
