"""The command `orpo_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import ORPOConfig

PAGE = HelpPage(
    summary="Odds-ratio preference optimisation: SFT and alignment in one stage, from a base model.",
    story=[
        (
            "Goes in",
            "Comparisons (prompt, chosen, rejected), and a base or SFT model. There is no reference.",
        ),
        ("Comes out", "outputs/orpo, the trained policy; report.html."),
        (
            "Worth a look",
            "loss holds the SFT loss on chosen answers too; rewards/accuracies should rise above one half.",
        ),
        ("Next", "read answers of outputs/orpo beside those of its parent"),
    ],
    examples=[
        "orpo_train --model Qwen/Qwen2.5-0.5B --train_data pairs.jsonl",
        "orpo_train --train_data pairs.jsonl --beta 0.2 --lora_r 16",
        "orpo_train --config configs/orpo.yaml --dry_run",
    ],
)

main = SettingsCommand("orpo_train", ORPOConfig, "easyrlhf.stages.preference:train_orpo", PAGE)
