"""The command `easyrlhf label forget`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import LabelForgetConfig

PAGE = HelpPage(
    summary="Delete an annotator's name and links. The labels stay, under a number that nothing leads back from.",
    story=[
        ("Goes in", "A name that easyrlhf label serve --annotators was given, and the folder of the labels."),
        ("Comes out", "The folder without the name: no file of it holds it any longer. Exports never do."),
    ],
    examples=[
        "easyrlhf label forget ann",
        "easyrlhf label forget ann --labels outputs/labels",
    ],
)

command = SettingsCommand(
    "forget", LabelForgetConfig, "easyrlhf.tools.labelling.forget:forget_name", PAGE, first="name"
)
