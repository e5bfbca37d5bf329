"""How `--help` reads: what goes in and comes out, commands to copy, then the settings by group."""

import shutil
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields

import click

from easyrlhf.config.base import Settings
from easyrlhf.config.values import setting_kind

WIDTH = 100
MIN_WIDTH = 60
FLAG_COLUMN = 31
MOST_CHOICES = 40  # characters; longer lists of choices are named in the text

ALWAYS = (
    (
        "--config FILE",
        "Read settings from a YAML file with lines such as 'batch_size: 32'. A flag beats the "
        "file, the file beats the default. The args.yaml in a run's folder is such a file; easyrlhf "
        "init-config prints one with every setting, easyrlhf recipes has examples.",
    ),
    ("--version", "Print the version."),
    ("-h, --help", "Print this page."),
)
SWITCHES = (
    "Names are written with underscores; dashes are the same. --[no_]name is a switch: --name turns it on, --no_name "
    "off (in YAML: true, false). 'none' takes a value of the YAML file back where none is allowed."
)


@dataclass(frozen=True)
class HelpPage:
    """What a command's help says before its settings."""

    summary: str
    story: Sequence[tuple[str, str]]  # what goes in, what comes out, the next command
    examples: Sequence[str]


def write_page(page: HelpPage, config_class: type[Settings], usage: str, first: str = "") -> str:
    """The whole help page, 100 columns wide, or as wide as a narrower terminal.

    first  a setting whose value may stand without its flag, as the first word
    """
    columns = shutil.get_terminal_size(fallback=(WIDTH, 24)).columns
    formatter = click.HelpFormatter(width=max(MIN_WIDTH, min(columns, WIDTH)))
    formatter.write_usage(usage, _usage_arguments(config_class, first))
    formatter.write_paragraph()
    with formatter.indentation():
        formatter.write_text(page.summary)
        formatter.write_paragraph()
        formatter.write_dl(list(page.story))
    with formatter.section(_title("Examples")):
        for example in page.examples:
            formatter.write(f"  {example}\n")
    for group, settings in config_class.grouped().items():
        _write_group(formatter, group, [_row(setting, config_class) for setting in settings])
    _write_group(formatter, "Always there", ALWAYS)
    formatter.write_paragraph()
    formatter.write_text(SWITCHES)
    return formatter.getvalue().rstrip("\n")


def _write_group(formatter: click.HelpFormatter, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Flags left, texts right; padding keeps the texts of all groups in one column."""
    with formatter.section(_title(title)):
        padded = [(flag.ljust(FLAG_COLUMN), text) for flag, text in rows]
        formatter.write_dl(padded, col_max=FLAG_COLUMN)


def _title(text: str) -> str:
    return click.style(text, bold=True)


def _usage_arguments(config_class: type[Settings], first: str) -> str:
    needed = [f for f in fields(config_class) if f.default is MISSING]
    words = [_flag(f).partition(" ")[2] if f.name == first else _flag(f) for f in needed]
    return " ".join([*words, "[--config FILE] [--setting VALUE]..."])


def _flag(setting: Field) -> str:
    """The left column: `--seed N`, `--[no_]overwrite`, `--overlength drop|truncate`."""
    kind, _ = setting_kind(setting)
    if kind is bool:
        return f"--[no_]{setting.name}"
    name = setting.metadata.get("flag", setting.name)
    if "choices" in setting.metadata:
        choices = "|".join(setting.metadata["choices"])
        return f"--{name} {choices}" if len(choices) <= MOST_CHOICES else f"--{name} NAME"
    value = setting.metadata.get("metavar") or {int: "N", float: "X"}.get(kind, "TEXT")
    return f"--{name} {value}"


def _row(setting: Field, config_class: type[Settings]) -> tuple[str, str]:
    text = setting.metadata["help"]
    if "choices" in setting.metadata and _flag(setting).endswith(" NAME"):
        text += f" One of {', '.join(setting.metadata['choices'])}."
    if setting.default is MISSING:
        return _flag(setting), f"{text}  [required]"
    default = config_class.default_text(setting)
    return _flag(setting), f"{text}  [default: {default or 'none'}]"
