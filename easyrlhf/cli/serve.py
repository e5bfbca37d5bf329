"""The command `easyrlhf serve`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import ServeConfig

PAGE = HelpPage(
    summary="Serve models to OpenAI clients, and to your browser as a page to talk to them.",
    story=[
        (
            "Goes in",
            "One model or several; with --reward_model one that scores their answers. Needs "
            "pip install 'easyrlhf[serve]'.",
        ),
        (
            "Comes out",
            "A server on this machine: the printed link opens the page, POST /v1/chat/completions and "
            "/v1/completions answer any OpenAI client that gives the printed key. Answers are those of easyrlhf "
            "generate, however many clients ask. Ctrl-C ends it.",
        ),
        ("Next", "easyrlhf docs serving shows clients in Python and curl, and what is not supported"),
    ],
    examples=[
        "easyrlhf serve outputs/ppo",
        "easyrlhf serve outputs/sft outputs/ppo --reward_model outputs/rm",
        "easyrlhf serve Qwen/Qwen2.5-0.5B-Instruct outputs/dpo/adapter --port 8001 --temperature 0.7",
    ],
)

command = SettingsCommand("serve", ServeConfig, "easyrlhf.tools.serve:serve_models", PAGE, first="model")
