"""The command `easyrlhf fit STAGE`."""

from dataclasses import fields
from typing import Any

import click

from easyrlhf.cli.exit_codes import Job, job_on_models
from easyrlhf.cli.help_page import HelpPage, write_page
from easyrlhf.cli.lazy_group import LazyGroup
from easyrlhf.cli.options import SettingsCommand, build_config
from easyrlhf.config import TRAINING, FitConfig
from easyrlhf.report.opening import opened, opening_of

OWN = [setting.name for setting in fields(FitConfig)]
UNREAD = {"train_data": "none"}  # the stage wants it, and no row is read here


def page_of(stage: str) -> HelpPage:
    """What the help of `easyrlhf fit STAGE` says."""
    return HelpPage(
        summary=f"How much memory {stage}_train needs on each device, and what would make it fit.",
        story=[
            (
                "Goes in",
                f"The flags of {stage}_train as you would give them ({stage}_train --help lists them), and the "
                "devices. Of models only config.json is read; no weights, no rows.",
            ),
            (
                "Comes out",
                "Bytes per device of every model and every phase, for rows as long as the settings allow; whether "
                "that fits with a tenth kept free; and, when it does not, the cheapest flags that make it fit "
                "(easyrlhf docs memory).",
            ),
            ("Next", f"{stage}_train with the same flags"),
        ],
        examples=[
            f"easyrlhf fit {stage} --model outputs/sft --devices 80GB",
            f"easyrlhf fit {stage} --model outputs/sft --micro_batch_tokens 4096 --lora_r 16 --devices 24GB",
            f"easyrlhf fit {stage} --model outputs/sft --devices 8x80GB --deepspeed zero3",
        ],
    )


class FitCommand(SettingsCommand):
    """Takes the flags of a stage, with its own meaning of --devices and --deepspeed."""

    def __init__(self, stage: str):
        super().__init__(stage, TRAINING[stage], "easyrlhf.tools.fitting.fit:print_fit", page_of(stage))

    def prepare(self, config: str | None, **flags: Any) -> Job:
        """The call of the tool with the settings of the stage and its own."""
        command = click.get_current_context().command_path
        given = {name: value for name, value in flags.items() if value is not None}
        own = {name: given.pop(name) for name in OWN if name in given}
        stage = build_config(self.config_class, config, UNREAD | given, command)
        settings = build_config(FitConfig, None, own, command)
        return opened(opening_of(settings), job_on_models(self.target, stage, settings))

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The page of what is not a flag of the stage."""
        formatter.write(write_page(self.page, FitConfig, ctx.command_path))


class FitGroup(LazyGroup):
    """One command per stage, under its name or that of its program."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a stage; None when there is no such stage."""
        stage = name.removesuffix("_train")
        return FitCommand(stage) if stage in TRAINING else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The stage that args begin with; a wrong one is answered with the nearest right one."""
        return super().resolve_command(ctx, [args[0].replace("-", "_").removesuffix("_train"), *args[1:]])


command = FitGroup(
    "fit",
    {stage: (__name__, f"Memory of {stage}_train.") for stage in TRAINING},
    help=(
        "How much memory a stage needs, and what would make it fit: give the flags of the stage, and --devices. "
        "For example: easyrlhf fit ppo --model outputs/sft --devices 80GB"
    ),
)
