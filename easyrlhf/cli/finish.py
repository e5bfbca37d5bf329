"""The command `easyrlhf finish`."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import FinishConfig

PAGE = HelpPage(
    summary="End a run where it stopped: its newest checkpoint becomes a complete model.",
    story=[
        (
            "Goes in",
            "The folder of a run of any stage that was stopped, has failed or was killed, with a checkpoint. One "
            "process does it, whatever number of them trained. What the run started from must still be there; its "
            "data need not.",
        ),
        (
            "Comes out",
            "The folder as the stage leaves it at its end: weights, adapter, head, tokenizer, report and card, which "
            "say that it ended early. Every stage and tool takes it. The checkpoints stay.",
        ),
        ("Next", "easyrlhf chat outputs/sft, or the next stage with --model outputs/sft"),
    ],
    examples=[
        "easyrlhf finish outputs/sft",
        "easyrlhf finish outputs/ppo --step 40",
    ],
)

command = SettingsCommand("finish", FinishConfig, "easyrlhf.tools.finish:finish_run", PAGE, first="run")
