"""The command `easyrlhf compare`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import CompareConfig

PAGE = HelpPage(
    summary="Is one model better than another? All answer the same prompts, and their answers are judged.",
    story=[
        (
            "Goes in",
            "Two models or more, prompts they have not seen, and a judge or several: a reward model, python functions, "
            "or a language model behind an OpenAI-compatible server.",
        ),
        (
            "Comes out",
            "For each model its win rate against the first with a 95 % interval, the win rate at equal length, the "
            "difference of scores, KL to the first model, and a verdict: printed, in compare.json, and with pictures "
            "and samples in compare.html; all answers in answers.jsonl. A stopped command goes on where it was.",
        ),
        ("Next", "open outputs/compare/compare.html; easyrlhf docs comparing says how to read it"),
    ],
    examples=[
        "easyrlhf compare outputs/sft outputs/ppo --prompts heldout.jsonl --reward_model outputs/rm",
        "easyrlhf compare sft dpo ppo --prompts heldout.jsonl --reward_model rm --samples 4",
        "easyrlhf compare sft ppo --prompts heldout.jsonl --judge judge.py:shorter_wins",
        "easyrlhf compare sft ppo --prompts p.jsonl --judge_url http://127.0.0.1:8000 --judge_model qwen",
    ],
)

command = SettingsCommand(
    "compare", CompareConfig, "easyrlhf.tools.comparing.compare:compare_models", PAGE, first="models"
)
