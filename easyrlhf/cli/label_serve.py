"""The command `easyrlhf label serve`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import LabelServeConfig

PAGE = HelpPage(
    summary="A page on which people label, by keyboard or touch: one link a person, and one for whoever organises it.",
    story=[
        (
            "Goes in",
            "The folder of easyrlhf label import; or a model, with --chat, to talk to. Needs pip install "
            "'easyrlhf[label]'.",
        ),
        (
            "Comes out",
            "Labels in the same folder, on disk before the page goes on. Where an answer comes from and what others "
            "say of it is not shown. Ctrl-C ends the server; the same command goes on.",
        ),
        ("Next", "easyrlhf label agree shows how far people agree, easyrlhf label export makes training files"),
    ],
    examples=[
        "easyrlhf label serve",
        "easyrlhf label serve --annotators ann,bob --overlap 2 --guidelines guidelines.txt",
        "easyrlhf label serve --chat outputs/ppo --chat_against outputs/sft",
        "easyrlhf label serve --annotators ann,bob --until 500 --scale 3",
    ],
)

command = SettingsCommand("serve", LabelServeConfig, "easyrlhf.tools.labelling.serve:serve_labels", PAGE)
