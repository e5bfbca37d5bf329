"""A settings file that holds every setting of a stage, explained and commented out."""

import textwrap
from dataclasses import MISSING, Field
from typing import Any

import click

from easyrlhf.config.base import Settings
from easyrlhf.config.values import setting_kind

WIDTH = 100
LIMITS = {"low": "{} or more", "above": "above {}", "high": "{} or less", "below": "below {}"}


def print_commented(config_class: type[Settings]) -> None:
    """Print the settings file of a stage."""
    click.echo(write_commented(config_class), nl=False)


def write_commented(config_class: type[Settings]) -> str:
    """Every setting in the groups of --help. Words begin with `##`, settings with `#`: without it they are set.

    A line sets the default, or null where that depends on other settings; one that must be given, its kind of value.
    """
    program = f"{config_class.stage}_train"
    head = f'Every setting of {program}. Take the "# " from a line to set what it says.'
    parts = [f"## {head}\n##   {program} --config FILE.yaml\n## A flag beats a line of this file.\n"]
    for group, settings in config_class.grouped().items():
        parts.append(f"\n## ---- {group} ----\n")
        parts += [f"\n{_words(f, config_class)}\n# {_commented_line(f)}\n" for f in settings]
    return "".join(parts)


def _words(setting: Field, config_class: type[Settings]) -> str:
    """Help, kind of value and default, as comments."""
    kind, optional = setting_kind(setting)
    limits = setting.metadata
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    if "choices" in limits:
        words = "one of " + ", ".join(limits["choices"])
    ranges = [text.format(limits[name]) for name, text in LIMITS.items() if name in limits]
    words = ", ".join([words, *ranges]) + (", or null" if optional else "")
    if setting.default is MISSING:
        words += ". It must be given, here or as a flag."
    else:
        words += f". Default: {config_class.default_text(setting) or 'none'}."
    text = f"{setting.metadata['help']} Value: {words}"
    return textwrap.fill(
        text, WIDTH, initial_indent="## ", subsequent_indent="## ", break_long_words=False, break_on_hyphens=False
    )


def _commented_line(setting: Field) -> str:
    """`name: value` in YAML."""
    import yaml

    value: Any = setting.metadata["metavar"].partition("[")[0] if setting.default is MISSING else setting.default
    return yaml.safe_dump({setting.name: value}, allow_unicode=True, width=1000).strip()
