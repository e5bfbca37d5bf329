"""Groups of commands that are imported when they are used, so that help never waits for what a command needs."""

import difflib
import importlib
from typing import Any

import click

from easyrlhf.cli.wording import with_underscores


class LazyGroup(click.Group):
    """A group whose commands stand in a table.

    table  name → ("module:attribute", one line for --help)
    """

    def __init__(self, name: str, table: dict[str, tuple[str, str]], **more: Any):
        super().__init__(name, context_settings={"help_option_names": ["-h", "--help"]}, **more)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the table's order."""
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the subcommand; None when there is none of that name."""
        if name not in self.table:
            return None
        module, attribute = self.table[name][0].split(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The subcommand that args begin with, and the rest of them.

        Dashes and underscores are the same; a wrong name is answered with the nearest right one.
        """
        known = self.list_commands(ctx)
        name = next((one for one in known if one.replace("-", "_") == args[0].replace("-", "_")), args[0])
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"{ctx.command_path} --help lists the commands"
            raise click.UsageError(f"unknown command {name}: {hint}")
        _, command, rest = super().resolve_command(ctx, [name, *args[1:]])
        return name, command, with_underscores(rest, command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Subcommands with their line of the table; none is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])
