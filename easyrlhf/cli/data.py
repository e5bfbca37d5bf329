"""The commands `easyrlhf data …`."""

from easyrlhf.cli.lazy_group import LazyGroup

command = LazyGroup(
    "data",
    {
        "download": ("easyrlhf.cli.data_download:command", "Download a data set and unpack it."),
        "check": ("easyrlhf.cli.data_check:command", "Read all rows as a stage would; say what is wrong."),
        "convert": ("easyrlhf.cli.data_convert:command", "Write rows of any format in TRL's."),
        "reasoning_gym": (
            "easyrlhf.cli.data_reasoning_gym:command",
            "Write items of reasoning-gym's tasks as prompts.",
        ),
        "split": ("easyrlhf.cli.data_split:command", "Hold out rows for validation, by prompt."),
        "preview": ("easyrlhf.cli.data_preview:command", "Show rows as the model sees them, token by token."),
    },
    help="Get, check, look at, split and convert training data.",
)
