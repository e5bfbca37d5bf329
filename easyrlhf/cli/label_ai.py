"""The command `easyrlhf label ai`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import LabelAIConfig

PAGE = HelpPage(
    summary="Have pairs and rankings labelled by a judge, which is one more annotator.",
    story=[
        (
            "Goes in",
            "The folder of easyrlhf label import, and a judge: a language model behind an OpenAI-compatible server or "
            "in a folder, or a python function. With a constitution it judges by principles.",
        ),
        (
            "Comes out",
            "Its labels in the same folder, probabilities from both orders of every pair; every reply is kept, and a "
            "stopped command asks only what is missing. What it looks at, places, lengths, and how far people agree, "
            "is printed and in judge-NAME.json.",
        ),
        ("Next", "easyrlhf label export --output comparisons.jsonl"),
    ],
    examples=[
        "easyrlhf label ai --judge_url http://127.0.0.1:8000 --judge_model qwen",
        "easyrlhf label ai --judge_dir Qwen/Qwen2.5-7B-Instruct --average logit",
        "easyrlhf label ai --judge judge.py:shorter_wins --labels outputs/labels",
        "easyrlhf label ai --judge_url http://h --judge_model m --constitution configs/constitution.yaml",
        "easyrlhf label ai --judge_url http://h --judge_model m --thoughts --judge_budget 1000000",
    ],
)

command = SettingsCommand("ai", LabelAIConfig, "easyrlhf.tools.labelling.ai:label_by_judge", PAGE)
