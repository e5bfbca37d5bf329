"""The command `easyrlhf rollouts`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import RolloutsConfig

PAGE = HelpPage(
    summary="Show what an online run sampled, with scores, KL and advantages.",
    story=[
        ("Goes in", "The output folder of ppo_train or grpo_train, finished or not."),
        (
            "Comes out",
            "Completions of the last step or another, or those that stand out; --json gives rows as they are.",
        ),
        ("Next", "easyrlhf report outputs/grpo"),
    ],
    examples=[
        "easyrlhf rollouts outputs/grpo",
        "easyrlhf rollouts outputs/grpo --step 40 --worst 5",
        "easyrlhf rollouts outputs/ppo --furthest 3 --json",
    ],
)

command = SettingsCommand("rollouts", RolloutsConfig, "easyrlhf.tools.rollouts:rollouts", PAGE, first="run")
