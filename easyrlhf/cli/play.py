"""The command `easyrlhf play`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import PlayConfig

PAGE = HelpPage(
    summary="Watch a model act in an environment: what it says and calls, what it is answered, what that is worth.",
    story=[
        (
            "Goes in",
            "An environment as --environment of ppo_train takes it, or --tools; a model; prompts, if it needs any.",
        ),
        ("Comes out", "A transcript of each episode, with calls, results, errors, the reward and how it ended."),
        ("Next", "grpo_train --environment FILE.py:NAME, or easyrlhf generate with it for episodes in a file."),
    ],
    examples=[
        "easyrlhf play data/toy/wardrobe.py:Wardrobe --model outputs/sft --prompts prompts.jsonl",
        "easyrlhf play game.py:Game --model Qwen/Qwen2.5-0.5B-Instruct --episodes 2 --max_turns 4",
        "easyrlhf play --tools tools.py:search,tools.py:clock --model outputs/ppo --prompts questions.jsonl",
    ],
)

command = SettingsCommand("play", PlayConfig, "easyrlhf.tools.play:play", PAGE, first="environment")
