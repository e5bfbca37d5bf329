"""Turns a settings dataclass into a command: a flag per field, `--config FILE`, checks, then a job.

Precedence: default of the dataclass < YAML file < flag. Types and limits are the dataclass's own
work, so a value means the same wherever it comes from.
"""

import re
import sys
from dataclasses import MISSING, fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import click

from easyrlhf.cli.exit_codes import Job, job, job_on_models, job_on_one_gpu, run_and_exit
from easyrlhf.cli.help_page import HelpPage, write_page
from easyrlhf.cli.wording import explain_twice, missing_file, with_underscores
from easyrlhf.config import TrainConfig
from easyrlhf.config.base import Settings
from easyrlhf.config.peers import unfold
from easyrlhf.config.suggestions import explain_unknown, is_foreign_block
from easyrlhf.config.values import setting_kind
from easyrlhf.config.yaml_file import read_yaml, yaml_places
from easyrlhf.errors import SettingError
from easyrlhf.report.opening import opened, opening_of

MANY = 4  # unknown keys that make a file another program's
START = "easyrlhf.launch:start"  # a training stage runs in as many processes as its settings ask for


class SettingsCommand(click.Command):
    """A command whose flags are the fields of a config class; it calls `target(config)`.

    first  a setting that may also stand as the first word, without its flag: `easyrlhf chat outputs/sft`; one that
           takes several values may be several words: `easyrlhf serve outputs/sft outputs/ppo`
    """

    def __init__(self, name: str, config_class: type[Settings], target: str, page: HelpPage, *, first: str = ""):
        super().__init__(
            name,
            params=_options(config_class),
            callback=self.prepare,
            help=page.summary,
            short_help=page.summary,
            context_settings={"allow_extra_args": True, "help_option_names": ["-h", "--help"]},
        )
        self.config_class = config_class
        self.target = target
        self.page = page
        self.first = first

    def prepare(self, config: str | None, **flags: Any) -> Job:
        """The call of the stage with its checked config; nothing heavy is imported yet."""
        command = click.get_current_context().command_path
        given = {name: value for name, value in flags.items() if value not in (None, ())}
        settings = build_config(self.config_class, config, given, command)
        if isinstance(settings, TrainConfig):
            work = job(START, self.target, settings)
        else:
            work = opened(opening_of(settings), job_on_models(self.target, settings))
        return job_on_one_gpu(vars(settings).get("devices"), work)  # some compute nothing

    def main(self, args: Any = None, prog_name: str | None = None, **extra: Any) -> None:
        """Run as a program: parse, run the stage, exit with its code."""
        extra["standalone_mode"] = False
        run_and_exit(lambda: super(SettingsCommand, self).main(args, prog_name or self.name, **extra))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Click's parsing, with better words for flags that do not exist and stray arguments."""
        args = with_underscores(self.with_first_flag(args), self)
        words = list(args)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.UsageError(self.explain_flags(error.option_name, words, ctx)) from None
        except click.BadOptionUsage as error:
            if error.option_name in _switches(self.config_class):
                raise click.UsageError(_no_value(error.option_name)) from None
            raise
        for name, given in ctx.params.items():
            for value in given if isinstance(given, tuple) else [given]:
                if isinstance(value, str) and value.startswith("--"):
                    raise click.UsageError(f"--{name} needs a value, but {value} follows it")
        if ctx.args:
            raise click.UsageError(_explain_stray(ctx.args[0], words, self.config_class))
        wrong, known = explain_twice(words, self, {f.name for f in fields(self.config_class) if f.metadata.get("many")})
        if wrong:
            raise click.UsageError("\n".join(wrong))
        for line in known:
            click.echo(f"note: {line}", err=True)
        return rest

    def with_first_flag(self, args: list[str]) -> list[str]:
        """The words with the flag of the setting that may come first; of one that takes several, all before a flag."""
        if not self.first:
            return args
        values = list(takewhile(lambda word: word == "-" or not word.startswith("-"), args))
        several = any(f.name == self.first and f.metadata.get("many") for f in fields(self.config_class))
        values = values if several else values[:1]
        return [f"--{self.first}", ",".join(values), *args[len(values) :]] if values else args

    def explain_flags(self, first: str, words: list[str], ctx: click.Context) -> str:
        """A line for every flag that does not exist; `first` is the one that click found."""
        known = {name for option in self.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        typed = [_as_typed(first, words)]
        typed += [flag for word in words if (flag := word.split("=")[0]).startswith("--") and flag not in known]
        return "\n".join(
            explain_unknown(flag, self.config_class, ctx.command_path, _value_after(flag, words))
            for flag in dict.fromkeys(typed)
        )

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Our page in place of click's."""
        formatter.write(write_page(self.page, self.config_class, ctx.command_path, self.first))


def _options(config_class: type[Settings]) -> list[click.Parameter]:
    """A click option per setting; None means "not given", as the dataclass has the defaults."""
    options: list[click.Parameter] = [
        click.Option(["--config"], metavar="FILE"),
        version_option(),
    ]
    for setting in fields(config_class):
        name, (kind, _) = setting.name, setting_kind(setting)
        flag = f"--{name}/--no_{name}" if kind is bool else f"--{name}"
        several = setting.metadata.get("apart", False)
        flags = [f"--{setting.metadata['flag']}", flag] if "flag" in setting.metadata else [flag]
        options.append(click.Option([*flags, name], default=None, multiple=several, help=setting.metadata["help"]))
    return options


def version_option() -> click.Option:
    """`--version`; the package's metadata is read only when it is asked for."""
    return click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Print the version.",
    )


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"easyrlhf {version('easyrlhf')}")
        ctx.exit()


def build_config(config_class: type[Settings], path: str | None, flags: dict[str, Any], command: str) -> Settings:
    """The config from a YAML file (or None) and the flags that were given.

    click.UsageError names the flag, or the file and line, of the value that cannot be used.
    """
    keys = _keys_of(path) if path else {}
    unknown = _unknown_keys(config_class, path, {key: value for key, (value, _) in keys.items()})
    blocks = {re.split(r"[.\[]", key)[0] for key, _, _ in unknown}
    values = {name: value for name, (value, _) in keys.items() if name not in blocks} | flags
    missing = [f for f in fields(config_class) if f.default is MISSING and values.get(f.name) is None]
    for setting in missing:
        values.pop(setting.name, None)
    problems = [f"{place}: {explain_unknown(key, config_class, command, value)}" for key, value, place in unknown]
    typed = {f.name: f.metadata.get("flag", f.name) for f in fields(config_class) if f.name in flags}
    problems += [_placed(error, typed, keys) for error in config_class.wrong_values(values)]
    problems.sort(key=lambda problem: _line(problem, path))
    if not unknown:  # which may hold it under another name
        problems += [f"--{f.name} is required. {f.metadata['help']}" for f in missing]
    if problems:
        raise click.UsageError("\n".join(problems + _origin(path, list(keys), len(unknown))))
    try:
        return config_class(**values)
    except SettingError as error:
        raise click.UsageError(_placed(error, typed, keys)) from None


def _keys_of(path: str) -> dict[str, tuple[Any, str]]:
    """The keys of a YAML file as read_yaml gives them. Raises click.UsageError."""
    if not Path(path).expanduser().is_file():
        raise click.UsageError(f"--config {missing_file(path)}")
    try:
        return read_yaml(path)
    except ValueError as error:
        raise click.UsageError(f"--config {error}") from None


def _origin(path: str | None, keys: list[str], unknown: int) -> list[str]:
    """A line that says whose file it is, where that stands out from several keys that are not ours."""
    if unknown < MANY:
        return []
    from easyrlhf.tools.converting.peers import PEERS, peer_of

    peer = peer_of(set(keys), least=2)
    looks = f"{path} looks like a file of {PEERS[peer].title}" if peer else ""
    return [f"{looks}: easyrlhf convert-config {path} turns it into one of ours"] if peer else []


def _unknown_keys(config_class: type[Settings], path: str | None, keys: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """(key, value, "file:line") of all that is no setting, block by block."""
    names = {f.name for f in fields(config_class)}
    unknown = [
        inner
        for key, value in keys.items()
        if key not in names or is_foreign_block(key, value)
        for inner in unfold(key, value)
    ]
    places = yaml_places(path) if path and unknown else {}
    return [(key, value, places[key]) for key, value in unknown]


def _line(problem: str, path: str | None) -> int:
    """The line of the file that a message begins with; those of flags come after all lines."""
    found = re.match(rf"{re.escape(str(path))}:(\d+): ", problem)
    return int(found[1]) if found else sys.maxsize


def _placed(error: SettingError, typed: dict[str, str], keys: dict[str, tuple[Any, str]]) -> str:
    """The error's message, begun with where the value was given.

    typed  settings that were given as flags → how the flag is spelled
    """
    if error.setting in typed:
        return f"--{typed[error.setting]}{str(error).removeprefix(error.setting)}"
    return f"{keys[error.setting][1]}: {error}" if error.setting in keys else str(error)


def _as_typed(option: str, words: list[str]) -> str:
    """The unknown option in full; click reports `-output_dir x` as `-o`."""
    if not option.startswith("--"):
        option = next((word for word in words if re.match(rf"-\w*{re.escape(option[1:])}", word)), option)
    return option.split("=")[0]


def _value_after(flag: str, words: list[str]) -> Any:
    """What follows a flag, behind its = or as the next word; True where nothing does."""
    given = next((word for word in words if word.split("=")[0] == flag), flag)
    if "=" in given:
        return given.split("=", 1)[1]
    following = words[words.index(given) + 1 :][:1] if given in words else []
    return following[0] if following and not following[0].startswith("--") else True


def _switches(config_class: type[Settings]) -> set[str]:
    return {f"--{no}{f.name}" for f in fields(config_class) if setting_kind(f)[0] is bool for no in ("", "no_")}


def _no_value(switch: str) -> str:
    name = switch.removeprefix("--").removeprefix("no_")
    return f"{switch} takes no value; write --{name} to turn it on, --no_{name} to turn it off"


def _explain_stray(stray: str, words: list[str], config_class: type[Settings]) -> str:
    """What was probably meant by an argument that belongs to no flag."""
    previous = next((w for w in reversed(words[: words.index(stray)]) if w.startswith("--")), "")
    if previous in _switches(config_class):
        return _no_value(previous)
    if stray.endswith((".yaml", ".yml")):
        return f"stray argument {stray}; a settings file is given as --config {stray}"
    if "=" in stray:
        name, value = stray.split("=", 1)
        return f"stray argument {stray}; settings are given as --{name.lstrip('-')} {value}"
    if previous in {f"--{f.name}" for f in fields(config_class) if f.metadata.get("apart")}:
        return f"stray argument {stray}; a text with spaces needs quotes around it, as in {previous} '… {stray}'"
    if previous:
        return f"stray argument {stray}; several values of {previous} are joined by commas"
    return f"stray argument {stray}; every value follows its flag"
