"""The command `easyrlhf score`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import ScoreConfig

PAGE = HelpPage(
    summary="Score the answers of a file, or one text, with a reward model.",
    story=[
        ("Goes in", "The folder of rm_train, or a sequence classifier with one label, and rows of any kind or a text."),
        (
            "Comes out",
            "The rows, in their order, with score, or chosen_score, rejected_score and score_margin, or "
            "completion_scores. A stopped command goes on where it was. The score of one text is printed.",
        ),
        ("Next", "easyrlhf doctor outputs/rm --valid_data heldout.jsonl"),
    ],
    examples=[
        "easyrlhf score outputs/rm --data heldout.jsonl --output scored.jsonl",
        "easyrlhf score outputs/rm --data scored.jsonl --output both.jsonl --column second",
        "easyrlhf score outputs/rm --text Hello.",
        "easyrlhf score outputs/rm --prompt Hello. --completion Goodbye.",
    ],
)

command = SettingsCommand("score", ScoreConfig, "easyrlhf.tools.score:score", PAGE, first="reward_model")
