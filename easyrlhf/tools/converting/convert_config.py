"""`easyrlhf convert-config`: a settings file of another program as one of ours."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

from easyrlhf.config.peers import path_of, unfold
from easyrlhf.config.yaml_file import read_yaml
from easyrlhf.errors import InputError, SettingError
from easyrlhf.tools.converting import common
from easyrlhf.tools.converting.draft import Draft, Line, yaml_value
from easyrlhf.tools.converting.lengths import finish_lengths
from easyrlhf.tools.converting.peers import PEERS, peer_of

WHOLE = ("deepspeed", "chat_template_kwargs")  # blocks that are one setting


class Converted(NamedTuple):
    """Our stage and its settings, what has no counterpart and why, and both as lines of a file."""

    stage: str
    settings: dict[str, Any]
    comments: list[str]
    lines: list[Line]


def convert_settings(
    theirs: dict[str, Any], peer: str | None = None, *, stage: str | None = None, devices: int = 1
) -> Converted:
    """Another program's settings as ours; every key of theirs gives a setting or a comment, but for what is null.

    peer     one of PEERS; recognised by the keys when left out
    stage    ours, where the file does not say it (TRL's)
    devices  that the file is for: a device's batch size counts so many times
    Raises InputError when the program is not recognised or the method has no counterpart.
    """
    peer = peer or peer_of(set(theirs))
    if peer is None:
        raise InputError(f"not recognised as a file of {', '.join(PEERS)}; say which with --from")
    program = PEERS[peer]
    flat = {
        key: value
        for top, block in theirs.items()
        for key, value in ([(top, block)] if top in WHOLE else unfold(str(top).replace("-", "_"), block))
        if value is not None
    }
    draft = Draft(stage or program.stage_of(flat), flat, devices)
    rules = common.RULES | program.rules
    for key, value in flat.items():
        if key not in draft.done:
            path = path_of(key)
            rule = rules.get(path) or rules.get(path.rpartition(".")[2], Draft.carry)
            rule(draft, key, value)
            draft.done.add(key)
    program.finish(draft)
    finish_lengths(draft)
    draft.settle()
    return Converted(draft.stage, draft.settings, [one.remark for one in draft.lines if not one.name], draft.lines)


def as_yaml(converted: Converted, source: str, title: str, file: str) -> str:
    """The file: the command first, then a line for each setting, a comment for what has none."""
    lines = [f"# {converted.stage}_train --config {file}", f"# Converted from {source}, a file of {title}.", ""]
    if "train_data" not in converted.settings:
        lines.append("# train_data: FILE  (theirs names no data; give it here or as a flag)")
    for line in converted.lines:
        remark = " ".join(line.remark.split())
        if line.name:
            lines.append(f"{line.name}: {yaml_value(line.value)}" + (f"  # {remark}" if remark else ""))
        else:
            lines.append(f"# {remark}")
    return "\n".join(lines) + "\n"


def convert_config(
    file: str, output_file: str | None, peer: str | None, stage: str | None, devices: int, overwrite: bool
) -> None:
    """Read, convert and write or print; what was recognised is said on stderr."""
    try:
        theirs = {key: value for key, (value, _) in read_yaml(file).items()}
    except ValueError as error:
        raise InputError(str(error)) from None
    if output_file and Path(output_file).exists() and not overwrite:
        raise InputError(f"--output_file {output_file}: is there already; give another, or --overwrite")
    peer = peer or peer_of(set(theirs))
    try:
        converted = convert_settings(theirs, peer, stage=stage, devices=devices)
    except (InputError, SettingError) as error:
        raise InputError(f"{file}: {error}") from None
    text = as_yaml(converted, file, PEERS[peer].title, output_file or "FILE.yaml")
    if output_file:
        Path(output_file).write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    where = f"; {converted.stage}_train --config {output_file}" if output_file else ""
    print(
        f"{PEERS[peer].title}: {converted.stage}_train, {len(converted.settings)} settings, {len(converted.comments)} "
        f"lines without a counterpart{where}",
        file=sys.stderr,
    )
