"""The settings of a run then and now: which differ, and which of them merely name the same thing otherwise."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from easyrlhf.config import TRAINING, TrainConfig
from easyrlhf.config.base import FILES, FREE, FREE_BUT_FOR_BEST, MODEL, ROWS
from easyrlhf.config.values import convert, is_path
from easyrlhf.errors import InputError, SettingError
from easyrlhf.files import written_to
from easyrlhf.models.parents import changed_files, possible_places, recorded_parent, same_contents
from easyrlhf.paths import split_paths
from easyrlhf.run.inputs import PARTS, contents_of_setting, parted
from easyrlhf.run.manifest import STAGE_FILE, read_stage

SETTINGS_FILE = "args.yaml"
PRECISIONS = {"float32": "float32", "bfloat16": "bf16"}  # as stage.json has it → as settings have it
PARENTS = "parents"  # models of other runs' checkpoints that a run builds on
LENGTHS = ("max_length", "max_prompt_length", "overlength")  # those whose defaults follow from other settings


@dataclass(frozen=True)
class Difference:
    """A setting that is another than that of the run in a folder.

    kind  what becomes of it when the run is continued, as settings.py has it; None: it must be as it was
    why   what differs of what the two name
    """

    name: str
    kind: str | None
    then: Any
    now: Any
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {in_words(self.then)} → {in_words(self.now)}{f' ({self.why})' if self.why else ''}"

    @property
    def is_undecided(self) -> bool:
        """Whether only the rows that are read by it can tell."""
        return self.kind == ROWS and not (self.name in PARTS.values() and None in (self.then, self.now))


def differences(folder: Path, config: TrainConfig) -> list[Difference]:
    """Every setting of which the run in the folder had another, by name; those that may differ are left out.

    So are those whose words differ where what they name is the same to the byte. Raises InputError.
    """
    then, stage = settings_then(folder, config), read_stage(folder)
    kept = {config.value(place.name) for place in (folder / PARENTS).glob("*")}  # what it builds on, it has
    found = []
    for setting in sorted(dataclasses.fields(config), key=lambda setting: setting.name):
        name, kind = setting.name, kind_of_setting(setting, config)
        before, now = then.get(name), config.value(name)
        if kind == FREE or (kind == MODEL and before == now and now in kept):
            continue
        if kind is None or (before is None) != (now is None):
            why = None if before == now else ""
        else:
            why = other_content(name, kind, before, now, recorded_parent(stage, name), folder)
        if why is not None:
            found.append(Difference(name, kind, before, now, why))
    gone = sorted(then.keys() - {setting.name for setting in dataclasses.fields(config)})
    return found + [Difference(name, None, then[name], None) for name in gone]


def kind_of_setting(setting: dataclasses.Field, config: TrainConfig) -> str | None:
    """What becomes of a setting when a run is continued: FREE, ROWS, MODEL, FILES, or None, which must be as it was."""
    kind = setting.metadata.get("on_resume")
    if kind == FREE_BUT_FOR_BEST:
        return None if config.keep_best else FREE
    return kind


def settings_then(folder: Path, config: TrainConfig) -> dict[str, Any]:
    """The settings of the run in a folder; {} where it left none. Raises InputError for a file that is no settings."""
    file = folder / SETTINGS_FILE
    try:
        then = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}); restore the file") from error
    if not isinstance(then, dict):
        raise InputError(f"{file}: is no list of settings; restore the file")
    if then:  # a setting that is newer than the run had its default
        settings = dataclasses.fields(config)
        then = {one.name: one.default for one in settings if one.default is not dataclasses.MISSING} | then
        paths = {one.name: one for one in settings if is_path(one) and then.get(one.name) is not None}
        then |= {name: convert(setting, then[name]) for name, setting in paths.items()}  # once they were kept as given
    return then


def other_content(name: str, kind: str | None, then: Any, now: Any, known: Any, folder: Path) -> str | None:
    """What differs of what a setting named then and names now; None when that is the same as far as can be seen.

    known  its contents then, as stage.json keeps them; None: the run is older than that
    """
    if then is None or (then == now and (kind == FILES or known is None)):
        return None  # a file that is edited in its place is meant to be
    if known is None and (then_here := placed(then, kind, folder)) is not None:
        known = contents_of_setting(name, kind, then_here)
    found = contents_of_setting(name, kind, now)
    if found is None or known is None:
        return None if then == now else ""
    if kind == MODEL:
        return None if same_contents(known, found) else changed_files(known, found)
    return None if found == known else "its content is not the same"


def placed(written: str, kind: str, folder: Path) -> str | None:
    """A value of the settings in a folder with the paths of today; None where one of them leads to nothing."""
    items = list(map(parted, split_paths(written))) if kind == FILES else [(written, "")]
    found = [next((place for place in possible_places(path, folder) if place.exists()), None) for path, _ in items]
    if None in found:
        return None
    return ",".join(f"{place}{function}" for place, (_, function) in zip(found, items, strict=True))


def edited(folder: Path, config: TrainConfig) -> list[str]:
    """A line for every file of a setting that was edited in its place since the run in the folder started."""
    stage, then, lines = read_stage(folder), settings_then(folder, config), []
    for setting in dataclasses.fields(config):
        name, now = setting.name, config.value(setting.name)
        known = recorded_parent(stage, name)
        if kind_of_setting(setting, config) == FILES and known is not None and then.get(name) == now:
            found = contents_of_setting(name, FILES, now)
            if found is not None and found != known:
                lines.append(f"{name} {now}: is not as it was when the run started; its further steps go by it")
    return lines


def in_words(value: Any) -> str:
    """A setting's value as a user writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def as_begun(config: TrainConfig) -> TrainConfig:
    """A copy with the lengths that were not given as the run in its folder began with them, so that it can go on.

    What follows from other settings may have followed otherwise then. A folder without a run, or one with other
    lengths than those that were given, changes nothing.
    """
    try:
        then = {} if config.overwrite else settings_then(Path(config.output_dir), config)
    except InputError:  # the folder's own check says so
        return config
    given = {name: length for name in LENGTHS if (length := config.value(name)) is not None}
    if any(then.get(name) != value for name, value in given.items()):
        return config
    return dataclasses.replace(config, **{name: then[name] for name in LENGTHS if name in then})


def write_settings(folder: Path, config: TrainConfig) -> None:
    """Write the resolved settings as args.yaml, which --config accepts."""
    with written_to(folder / SETTINGS_FILE):
        (folder / SETTINGS_FILE).write_text(config.to_yaml(), encoding="utf-8")


def recorded_settings(folder: Path, known: dict) -> TrainConfig:
    """The settings of the run in a folder, whose stage.json is known. Raises InputError when no stage wrote it."""
    file = folder / SETTINGS_FILE
    if known.get("stage") not in TRAINING or not file.is_file() or known.get("precision") not in PRECISIONS:
        raise InputError(
            f"{folder}: is not the output folder of a training stage (it has no {STAGE_FILE} and {SETTINGS_FILE} of "
            "one); give the --output_dir of sft_train, rm_train, ppo_train and so on"
        )
    try:
        return TRAINING[known["stage"]].from_yaml(file)
    except (SettingError, ValueError) as error:
        raise InputError(f"{error}; restore the file as the run wrote it") from error
