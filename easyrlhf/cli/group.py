"""Groups of commands that are imported when they are used, so that help never waits for what a command needs."""

import difflib
import importlib
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands stand in a table.

    table  name → ("module:attribute", one line for --help)
    """

    def __init__(self, name: str, table: dict[str, tuple[str, str]], **more: Any):
        super().__init__(name, **more)
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
        """The subcommand that args begin with; a wrong name is answered with the nearest right one."""
        name, *rest = args
        name = next((one for one in self.table if one.replace("-", "_") == name.replace("-", "_")), name)
        if name not in self.table:
            near = difflib.get_close_matches(name, self.table, 1)
            hint = f"did you mean {near[0]}?" if near else f"{ctx.command_path} --help lists the commands"
            raise click.UsageError(f"unknown command {name}: {hint}")
        return super().resolve_command(ctx, [name, *rest])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Subcommands with their line of the table; none is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])
