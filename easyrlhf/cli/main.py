"""The command `easyrlhf`: everything that is not a training stage, as subcommands."""

import importlib
from typing import Any

import click

from easyrlhf.cli.exit_codes import run_and_exit
from easyrlhf.cli.lazy_group import LazyGroup
from easyrlhf.cli.options import version_option
from easyrlhf.stage_table import STAGES as STAGE_TABLE

COMMANDS = {
    "recipes": ("easyrlhf.cli.recipes:command", "Settings files and toy data: list, print or copy them."),
    "init-config": ("easyrlhf.cli.init_config:command", "Print a settings file with every setting of a stage."),
    "docs": ("easyrlhf.cli.docs:command", "Read the documentation in the terminal."),
    "init": (
        "easyrlhf.cli.init:command",
        "Make a tokenizer and a small random model, without any download.",
    ),
    "convert-config": (
        "easyrlhf.cli.convert_config:command",
        "Turn a settings file of another program into one of ours.",
    ),
    "data": ("easyrlhf.cli.data:command", "Get, check, look at and convert training data."),
    "label": ("easyrlhf.cli.label:command", "Have answers labelled by people and judges; use the labels."),
    "serve": ("easyrlhf.cli.serve:command", "Serve models to OpenAI clients and your browser."),
    "serve_reward": ("easyrlhf.cli.serve_reward:command", "Serve a trained reward model over HTTP."),
    "serve_judge": ("easyrlhf.cli.serve_judge:command", "Serve a judge's marks as rewards over HTTP."),
    "vllm_serve": ("easyrlhf.cli.vllm_serve:command", "Start a vLLM server that samples for PPO or GRPO."),
    "fit": ("easyrlhf.cli.fit:command", "How much memory a stage needs, and what would make it fit."),
    "doctor": ("easyrlhf.cli.doctor:command", "Examine a reward model: should PPO lean on it?"),
    "report": ("easyrlhf.cli.report:command", "Write a run's report anew, or compare several runs on one page."),
    "rollouts": ("easyrlhf.cli.rollouts:command", "What an online run sampled: the worst, the best, the longest."),
    "finish": ("easyrlhf.cli.finish:command", "End a run where it stopped, with a complete model."),
    "export": ("easyrlhf.cli.export:command", "Merge, split or convert a model for other programs."),
    "push": ("easyrlhf.cli.push:command", "Upload a finished model to the Hugging Face hub."),
    "chat": ("easyrlhf.cli.chat:command", "Talk to a model."),
    "generate": ("easyrlhf.cli.generate:command", "Answer a file of prompts: all samples, or the best."),
    "play": ("easyrlhf.cli.play:command", "Watch a model act in an environment."),
    "revise": ("easyrlhf.cli.revise:command", "Have answers criticised and revised by principles."),
    "score": ("easyrlhf.cli.score:command", "Score a file or a text with a reward model."),
    "compare": ("easyrlhf.cli.compare:command", "Is one model better than another? Win rates with intervals."),
}
STAGES = {stage.command: stage.about for stage in STAGE_TABLE.values()}


class ProgramGroup(LazyGroup):
    """A group of commands that ends with the same messages and exit codes as the stages."""

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> None:
        """Run as a program: parse, run the subcommand's job, exit with its code."""
        extra["standalone_mode"] = False
        run_and_exit(lambda: super(ProgramGroup, self).main(args, prog_name or self.name, **extra))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the table, then those of the stages."""
        return [*self.table, *STAGES]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the subcommand or the stage; None when there is neither of that name."""
        if name in STAGES:
            return getattr(importlib.import_module("easyrlhf.cli.stages"), name)
        return super().get_command(ctx, name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The subcommand that args begin with; `sft` and `sft_train` are the stage."""
        stage = f"{args[0].replace('-', '_')}_train"
        return super().resolve_command(ctx, [stage, *args[1:]] if stage in STAGES else args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The subcommands, then the stages, which are programs too."""
        super().format_commands(ctx, formatter)
        with formatter.section(
            "The training stages: programs of their own, which easyrlhf sft, easyrlhf rm… call as well"
        ):
            formatter.write_dl(list(STAGES.items()))


main = ProgramGroup(
    "easyrlhf",
    COMMANDS,
    params=[version_option()],
    help="SFT, reward model and PPO for language models. 'easyrlhf COMMAND --help' says more.",
)
