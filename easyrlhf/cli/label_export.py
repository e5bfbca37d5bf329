"""The command `easyrlhf label export`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import LabelExportConfig

PAGE = HelpPage(
    summary="Write the labels as rows to train on, and all of them as labels.jsonl.",
    story=[
        ("Goes in", "The folder of the labels. People may go on labelling meanwhile; the rows are of one moment."),
        (
            "Comes out",
            "Rows with how many labelled each, who by number, how many agree, and where the answers come from. "
            "DIR/labels.jsonl with everything but names of people, and notes only with --notes: easyrlhf label import "
            "restores the folder from it. The same command again replaces what it wrote.",
        ),
        ("Next", "rm_train --model outputs/sft --train_data outputs/labels/comparisons.jsonl"),
    ],
    examples=[
        "easyrlhf label export --output comparisons.jsonl",
        "easyrlhf label export --merge reliability --min_labels 2 --drop_flag cut_off",
        "easyrlhf label export --as margin --output margins.jsonl",
        "easyrlhf label export --as demonstrations",
        "easyrlhf label export --annotators ann,bob --ties drop --output both.jsonl",
    ],
)

command = SettingsCommand("export", LabelExportConfig, "easyrlhf.tools.labelling.exporting:export_labels", PAGE)
