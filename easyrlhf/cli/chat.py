"""The command `easyrlhf chat`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import ChatConfig

PAGE = HelpPage(
    summary="Talk to a model: one line, one answer, which appears while it is written.",
    story=[
        ("Goes in", "A model folder or hub id with a chat template, and lines from the terminal or a pipe."),
        (
            "Comes out",
            "Answers; with --reward_model the reward of each. /reset forgets the conversation, /system TEXT sets the "
            "system prompt, /exit or the end of input ends it, Ctrl-C stops an answer.",
        ),
        ("Next", "easyrlhf generate outputs/sft --prompts prompts.jsonl --output answers.jsonl"),
    ],
    examples=[
        "easyrlhf chat outputs/ppo",
        "easyrlhf chat outputs/ppo --reward_model outputs/rm --temperature 1",
        "easyrlhf chat Qwen/Qwen2.5-0.5B-Instruct --adapter outputs/dpo/adapter --seed 7",
        "easyrlhf chat outputs/grpo --tools tools.py:search,tools.py:clock",
    ],
)

command = SettingsCommand("chat", ChatConfig, "easyrlhf.tools.chat:chat", PAGE, first="model")
