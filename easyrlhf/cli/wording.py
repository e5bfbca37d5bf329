"""Words about a command line: flags in another spelling, twice or without a value; click's errors as ours."""

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import click

from easyrlhf.paths import broken_link
from easyrlhf.shipped import how_to_get, settings_files


def with_underscores(words: list[str], command: click.Command) -> list[str]:
    """The words with flags of the command that were written with dashes, `--train-data`, as they are spelled here."""
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}

    def spelled(word: str) -> str:
        flag, equals, value = word.partition("=")
        ours = f"--{flag[2:].replace('-', '_')}"
        return ours + equals + value if flag.startswith("--") and ours in known else word

    return [spelled(word) for word in words]


def given_flags(words: list[str], command: click.Command) -> Iterator[tuple[click.Option, str, str]]:
    """(option, flag as it was written, value; "" for a switch) of each flag that counts once, in their order."""
    options = {name: o for o in command.params for name in (*o.opts, *o.secondary_opts) if isinstance(o, click.Option)}
    for word, following in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag in options and not options[flag].multiple:
            option = options[flag]
            yield option, flag, "" if option.is_flag else value if equals else following


def explain_twice(words: list[str], command: click.Command, joined: set[str]) -> tuple[list[str], list[str]]:
    """What to say of flags that are given more than once: what cannot be meant, and what may but should be known.

    joined  settings that take several values with commas between them
    """
    given: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for option, flag, value in given_flags(words, command):
        given[option.name].append((flag, value))
    wrong, known = [], []
    for name, pairs in given.items():
        flags, values = ([*dict.fromkeys(column)] for column in zip(*pairs, strict=True))
        if len(flags) > 1:
            wrong.append(f"{' and '.join(flags)} are both given; keep one")
        elif len(values) > 1 and name == "config":
            files = ", ".join(values)
            wrong.append(f"--config is given twice ({files}), and only one file is read; join them, or use flags")
        elif len(values) > 1 and name in joined:
            wrong.append(f"{flags[0]} is given twice; join its values by commas: {flags[0]} {','.join(values)}")
        elif len(values) > 1:
            known.append(f"{flags[0]} is given twice; the last one counts: {pairs[-1][1]}, not {pairs[0][1]}")
    return wrong, known


def missing_file(path: str) -> str:
    """What is wrong with a settings file that is not there, or is a folder."""
    file = Path(path).expanduser()
    if file.is_dir():
        inside = file / "args.yaml"
        return f"{path}: is a folder" + (f"; did you mean {inside}?" if inside.is_file() else "")
    if broken := broken_link(file):
        return f"{path}: {broken}"
    beside = {one.name: one for one in sorted(file.parent.glob("*")) if one.suffix in (".yaml", ".yml")}
    same = [name for name in beside if name.partition(".")[0] == file.name]
    if near := same or difflib.get_close_matches(file.name, beside, 1):
        return f"{path}: no such file; did you mean {beside[near[0]]}?"
    if brought := how_to_get(path):
        return f"{path}: no such file{brought}"
    if file.stem in settings_files():
        return f"{path}: no such file; easyrlhf recipes {file.stem} > {path} takes it from the package"
    return f"{path}: no such file"


def in_our_words(error: click.ClickException) -> str:
    """The message of an error that click raised."""
    for kind, words in OURS.items():
        if isinstance(error, kind):
            return words(error)
    message = error.format_message()
    stray = message.removeprefix("Got unexpected extra argument")
    return f"stray argument {stray.lstrip('s').strip(' ().')}" if stray != message else message


def _flag_and_value(error: click.BadOptionUsage) -> str:
    flag = error.option_name
    return f"{flag} takes no value" if "not take" in error.format_message() else f"{flag} needs a value"


def _missing(error: click.MissingParameter) -> str:
    if isinstance(error.param, click.Argument):
        return f"{error.param.make_metavar(error.ctx)} is missing; {error.ctx.command_path} --help says what it is"
    return f"{error.param.opts[0]} is required. {error.param.help}"


def _bad_value(error: click.BadParameter) -> str:
    if error.param is None:
        return error.format_message()
    name = error.param.opts[0] if isinstance(error.param, click.Option) else error.param.make_metavar(error.ctx)
    found = re.match(r"(?:'(?P<text>.*)'|(?P<number>\S+)) is not ", error.message, re.DOTALL)
    if wanted := _wanted(error.param.type, found and found["text"]):
        return f"{name} {found['text'] or found['number']}: {wanted}"
    return f"{name}: {error.message}"


def _wanted(kind: click.ParamType, given: str | None) -> str | None:
    """What an option takes, in the words of settings.py; None for a type of our own."""
    if isinstance(kind, click.Choice):
        near = difflib.get_close_matches(given or "", kind.choices, 1)
        return f"must be one of {', '.join(kind.choices)}" + (f"; did you mean {near[0]}?" if near else "")
    if isinstance(kind, click.IntRange) and given is None:
        return f"must be {kind.min} or more"
    return {"integer": "takes a whole number", "float": "takes a number"}.get(kind.name.split()[0])


def _no_such(error: click.NoSuchOption) -> str:
    near = f"did you mean {sorted(error.possibilities)[0]}?" if error.possibilities else "--help lists those there are"
    return f"unknown flag {error.option_name}: {near}"


# the first class that fits
OURS: dict[type[click.ClickException], Callable[..., str]] = {
    click.NoSuchOption: _no_such,
    click.MissingParameter: _missing,
    click.BadOptionUsage: _flag_and_value,
    click.BadParameter: _bad_value,
}
