"""The command `easyrlhf serve_reward`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import ServeRewardConfig

PAGE = HelpPage(
    summary="Serve a trained reward model over HTTP, for --reward_url of ppo_train and grpo_train.",
    story=[
        ("Goes in", "The folder of rm_train, or a sequence classifier with one label."),
        (
            "Comes out",
            "A server that answers POST / with the scores that --reward_model would give. GET /health says that it "
            "is ready. Ctrl-C ends it.",
        ),
        ("Next", "ppo_train --reward_url http://127.0.0.1:8000 --train_data prompts.jsonl"),
    ],
    examples=[
        "easyrlhf serve_reward outputs/rm",
        "easyrlhf serve_reward outputs/rm --devices 1 --port 8001",
        "easyrlhf serve_reward --reward_model outputs/rm --host 0.0.0.0",
    ],
)

command = SettingsCommand(
    "serve_reward", ServeRewardConfig, "easyrlhf.tools.serve_reward:serve_reward", PAGE, first="reward_model"
)
