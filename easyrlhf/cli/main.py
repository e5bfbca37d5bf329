"""The command `easyrlhf`: everything that is not a training stage, as subcommands."""

import difflib
import importlib
from typing import Any

import click

from easyrlhf.cli.options import version_option
from easyrlhf.cli.running import run_and_exit

# name -> ("module:attribute", one line for --help); a module is imported when its command is used
COMMANDS = {
    "init": (
        "easyrlhf.cli.init:command",
        "Make a tokenizer and a small random model, without any download.",
    ),
    "data": ("easyrlhf.cli.data:command", "Get training data."),
    "serve_reward": ("easyrlhf.cli.serve_reward:command", "Serve a trained reward model over HTTP."),
    "doctor": ("easyrlhf.cli.doctor:command", "Examine a reward model: should PPO lean on it?"),
    "export": ("easyrlhf.cli.export:command", "Write a reward model in the form that TRL and vLLM read."),
}
STAGES = {
    "sft_train": "Supervised fine-tuning on demonstrations.",
    "rm_train": "Reward model from comparisons.",
    "ppo_train": "PPO against a reward model or reward functions.",
    "grpo_train": "GRPO, RLOO or REINFORCE++ against the same; no value model.",
    "dpo_train": "DPO from comparisons; no reward model.",
    "ipo_train": "IPO from comparisons.",
    "kto_train": "KTO from single answers, liked or not.",
    "orpo_train": "ORPO from comparisons, from a base model.",
    "simpo_train": "SimPO from comparisons; no reference.",
    "cpo_train": "CPO from comparisons; no reference.",
    "rrhf_train": "RRHF from ranked answers.",
}


class ProgramGroup(click.Group):
    """A group of commands that ends with the same messages and exit codes as the stages."""

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> None:
        """Run as a program: parse, run the subcommand's job, exit with its code."""
        extra["standalone_mode"] = False
        run_and_exit(lambda: super(ProgramGroup, self).main(args, prog_name or self.name, **extra))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of a user's way through them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the subcommand; None when there is none of that name."""
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The subcommand that args begin with; a stage's name is answered with how to call it."""
        name = args[0]
        stage = name.removesuffix("_train") + "_train"
        if stage in STAGES:
            raise click.UsageError(f"{stage} is a program of its own: {stage} --help")
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, 1)
            hint = f"did you mean {near[0]}?" if near else "easyrlhf --help lists the commands"
            raise click.UsageError(f"unknown command {name}: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Subcommands from the table above, then the stages, which are separate programs."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        with formatter.section("The training stages are programs of their own"):
            formatter.write_dl(list(STAGES.items()))


main = ProgramGroup(
    "easyrlhf",
    params=[version_option()],
    help="SFT, reward model and PPO for language models. 'easyrlhf COMMAND --help' says more.",
)
