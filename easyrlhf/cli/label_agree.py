"""The command `easyrlhf label agree`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import LabelAgreeConfig

PAGE = HelpPage(
    summary="How far those who label agree, and how well a reward model can do on such labels.",
    story=[
        ("Goes in", "The folder of the labels, and a reward model to hold against them if you like."),
        (
            "Comes out",
            "DIR/agreement.html and DIR/agreement.json: agreement with its interval, Cohen's kappa, Krippendorff's "
            "alpha, checks passed, place preferences, speed, reliability of each annotator, and the ceiling: the "
            "accuracy of one label, which no reward model exceeds. People are numbers in both files.",
        ),
        ("Next", "easyrlhf label export --output comparisons.jsonl"),
    ],
    examples=[
        "easyrlhf label agree",
        "easyrlhf label agree --labels outputs/labels --annotators ann,bob",
        "easyrlhf label agree --reward_model outputs/rm",
    ],
)

command = SettingsCommand("agree", LabelAgreeConfig, "easyrlhf.tools.labelling.agreeing:agree", PAGE)
