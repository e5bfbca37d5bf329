"""Paths among the arguments of commands that have no config class."""

from typing import Any

import click

from easyrlhf.config.values import expanded


class PathType(click.ParamType):
    """A path whose ~ and $VARIABLES are filled in."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As settings.expanded."""
        return expanded(f"--{param.name}" if isinstance(param, click.Option) else "", value)


PATH = PathType()
