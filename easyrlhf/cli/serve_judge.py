"""The command `easyrlhf serve_judge`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import ServeJudgeConfig

PAGE = HelpPage(
    summary="Serve a language model's marks as rewards over HTTP, for --reward_url of ppo_train and grpo_train.",
    story=[
        ("Goes in", "A language model that follows instructions: behind an OpenAI-compatible server, or in a folder."),
        (
            "Comes out",
            "A server that answers POST / with rewards from -1 to 1: the judge marks each answer from 1 to 9, and the "
            "mean mark by its log-probabilities counts. The same text is marked once. Ctrl-C ends it.",
        ),
        ("Next", "ppo_train --reward_url http://127.0.0.1:8001 --train_data prompts.jsonl"),
    ],
    examples=[
        "easyrlhf serve_judge --judge_url http://127.0.0.1:8000 --judge_model qwen",
        "easyrlhf serve_judge --judge_dir Qwen/Qwen2.5-7B-Instruct --rubric rubric.txt --port 8002",
    ],
)

command = SettingsCommand("serve_judge", ServeJudgeConfig, "easyrlhf.tools.serve_judge:serve_judge", PAGE)
