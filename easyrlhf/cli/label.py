"""The commands `easyrlhf label …`."""

from easyrlhf.cli.lazy_group import LazyGroup

command = LazyGroup(
    "label",
    {
        "import": ("easyrlhf.cli.label_import:command", "Make items to label of rows, or restore the labels."),
        "serve": ("easyrlhf.cli.label_serve:command", "A page on which people label, one link a person."),
        "agree": ("easyrlhf.cli.label_agree:command", "How far those who label agree, and what that limits."),
        "ai": ("easyrlhf.cli.label_ai:command", "Have a judge label: a language model or a python function."),
        "export": ("easyrlhf.cli.label_export:command", "Write the labels as rows to train on."),
        "forget": ("easyrlhf.cli.label_forget:command", "Delete an annotator's name; the labels stay."),
    },
    help="Have answers labelled by people and judges; turn the labels into training data.",
)
