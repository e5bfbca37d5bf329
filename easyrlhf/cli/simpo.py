"""The command `simpo_train`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import SimPOConfig

PAGE = HelpPage(
    summary="Simple preference optimisation: mean log-probabilities as rewards, no reference.",
    story=[
        (
            "Goes in",
            "Comparisons (prompt, chosen, rejected), and an SFT model. There is no reference.",
        ),
        ("Comes out", "outputs/simpo, the trained policy; report.html."),
        (
            "Worth a look",
            "nothing but the learning rate keeps the policy near its start: watch logps/chosen and read samples.",
        ),
        ("Next", "read answers of outputs/simpo beside those of its parent"),
    ],
    examples=[
        "simpo_train --train_data pairs.jsonl          # with outputs/sft in place",
        "simpo_train --train_data pairs.jsonl --beta 2.5 --simpo_gamma 1.2 --cpo_alpha 1",
        "simpo_train --config configs/simpo.yaml --dry_run",
    ],
)

main = SettingsCommand("simpo_train", SimPOConfig, "easyrlhf.stages.preference:train_simpo", PAGE)
