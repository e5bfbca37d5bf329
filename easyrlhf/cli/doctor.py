"""The command `easyrlhf doctor`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import DoctorConfig

PAGE = HelpPage(
    summary="Examine a reward model on held-out comparisons: should PPO lean on it?",
    story=[
        ("Goes in", "The folder of rm_train, or a sequence classifier with one label, and pairs it has not seen."),
        (
            "Comes out",
            "Accuracy by file and by length gap, calibration, ties, scores of answers that no reader would prefer, "
            "and a verdict: printed, in doctor.json, and with pictures in doctor.html.",
        ),
        ("Next", "ppo_train --reward_model outputs/rm --train_data prompts.jsonl"),
    ],
    examples=[
        "easyrlhf doctor outputs/rm --valid_data heldout.jsonl",
        "easyrlhf doctor outputs/rm --valid_data helpful.jsonl,harmless.jsonl --output_dir out",
        "easyrlhf doctor outputs/rm --valid_data heldout.jsonl --devices cpu --precision float32",
    ],
)

command = SettingsCommand(
    "doctor", DoctorConfig, "easyrlhf.tools.doctor:examine_reward_model", PAGE, first="reward_model"
)
