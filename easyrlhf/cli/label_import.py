"""The command `easyrlhf label import`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import LabelImportConfig

PAGE = HelpPage(
    summary="Make items to label of rows: pairs of answers, rankings, single answers. The same item twice is one.",
    story=[
        (
            "Goes in",
            "Rows of any format that have answers. All answers to one prompt become one item; comparisons and rankings "
            "come in for second opinions. labels.jsonl of an export restores the folder.",
        ),
        (
            "Comes out",
            "DIR/labels.db with the items and where each answer comes from: model, sample, seed, temperature, reward, "
            "file:line. Rows that cannot be read go to DIR/bad_rows.jsonl.",
        ),
        ("Next", "easyrlhf label serve --annotators ann,bob, or easyrlhf label ai; easyrlhf docs labelling"),
    ],
    examples=[
        "easyrlhf label import answers.jsonl",
        "easyrlhf label import answers.jsonl --kind ranking",
        "easyrlhf label import answers.jsonl --pick uncertain --checks known.jsonl",
        "easyrlhf label import comparisons.jsonl --hide_labels",
        "easyrlhf label import outputs/labels/labels.jsonl --labels outputs/restored",
    ],
)

command = SettingsCommand(
    "import", LabelImportConfig, "easyrlhf.tools.labelling.importing:import_rows", PAGE, first="data"
)
