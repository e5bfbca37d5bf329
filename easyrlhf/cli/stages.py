"""The commands of the stages, `sft_train` to `rrhf_train`, and what their help says."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import TRAINING
from easyrlhf.stage_table import STAGES, Stage

COMMANDS = {stage.command: stage for stage in STAGES.values()}


def __getattr__(name: str) -> SettingsCommand:
    """The command of a stage by its name, such as `sft_train`."""
    if name not in COMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    stage = COMMANDS[name]
    return SettingsCommand(name, TRAINING[stage.name], stage.target, help_of(stage))


def help_of(stage: Stage) -> HelpPage:
    """What its help says before its settings."""
    story = [
        ("Goes in", stage.goes_in),
        ("Comes out", stage.comes_out),
        ("Worth a look", stage.worth_a_look),
        ("Next", stage.follows),
    ]
    return HelpPage(stage.summary, story, stage.examples)
