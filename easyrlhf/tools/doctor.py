"""easyrlhf doctor: a reward model is examined on held-out comparisons; docs/reward_models.md says how to read it."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from datasets import Dataset

from easyrlhf.config import DoctorConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import DataSettings, check_winners, dropping, load_tokens
from easyrlhf.engine.device import dtype_name, pick_device, pick_dtype
from easyrlhf.errors import InputError
from easyrlhf.files import make_folder
from easyrlhf.labels.measures import measured_labels, read_labels
from easyrlhf.labels.store import Store
from easyrlhf.report.console import Console, counting_bar, say
from easyrlhf.report.plots import DOCTOR_FILE
from easyrlhf.report.rm_eval import rm_evaluation
from easyrlhf.report.rm_page import PAGE_FILE, doctor_lines, write_doctor_page
from easyrlhf.report.rm_verdict import write_examination
from easyrlhf.rewards.model import score_sequences
from easyrlhf.rewards.probes import PARTS, examine, positions
from easyrlhf.run.differences import SETTINGS_FILE
from easyrlhf.run.manifest import read_stage
from easyrlhf.tools.scoring import Scorer, load_scorer, reward_folder

LENGTH = 1024
AT_ONCE = 256  # answers whose lengths are sorted into forward passes


def examine_reward_model(config: DoctorConfig) -> Path:
    """Examine a reward model, print the result, and write doctor.json and doctor.html into `output_dir`.

    Returns the folder. Raises InputError for a folder that is no reward model, and for data without a usable pair.
    """
    folder, top = Path(config.output_dir), ceiling_of_labels(config.labels)
    scorer = load_scorer(config)  # reads of the settings what both commands have
    limits = limits_of(config, positions(scorer.model))
    make_folder(folder)
    with TemporaryDirectory() as scratch:
        rows = read_pairs(config, scorer.renderer, limits, Path(scratch))
        dtype = pick_dtype(config.precision, pick_device(config.devices))
        labels = rows["chosen_probability"][:]
        measured = rm_evaluation(*scores_and_lengths(config, scorer, rows), rows["source"][:], labels)
        with counting_bar("part", PARTS, 0) as advance:
            measured |= examine(scorer, rows, dtype, most=config.examine_rows, advance=advance)
    measured |= top
    found = write_examination(folder, config.reward_model, config.valid_data, dtype_name(dtype), measured)
    write_doctor_page(folder, found)
    console = Console(config.stage)
    console.note(
        "\n".join([*doctor_lines(found, console.width), "", *map(str, (folder / DOCTOR_FILE, folder / PAGE_FILE))])
    )
    return folder


def ceiling_of_labels(folder: str | None) -> dict[str, Any]:
    """The ceiling that labels set for the accuracy; {} without labels.

    Raises InputError where no two can be compared.
    """
    if folder is None:
        return {}
    with Store(folder) as store:
        found = measured_labels(read_labels(store))
    if found["ceiling"] is None:
        raise InputError(
            f"--labels {folder}: no two annotators have named a winner of the same answers, so there is no ceiling; "
            "easyrlhf label serve --overlap 2 has every item labelled by two"
        )
    return {"ceiling": found["ceiling"]}


@dataclass(frozen=True)
class PairLimits:
    """How long pairs may be, in tokens, and what becomes of longer ones: as rm_train has these settings."""

    max_length: int
    max_prompt_length: int
    overlength: str | None


def limits_of(config: DoctorConfig, places: int | None) -> PairLimits:
    """Those of the settings, else those that the model was trained with, so that the same rows are judged alike.

    places  tokens that the model was made for; None: not known
    Raises InputError when it has no place for as many.
    """
    trained = trained_limits(Path(reward_folder(config)))
    length = config.max_length or min(trained.get("max_length") or LENGTH, places or LENGTH)
    if places and length > places:
        raise InputError(
            f"--max_length {length}: {config.reward_model} was made for {places} tokens at most; use "
            f"--max_length {places} or less"
        )
    prompt = config.max_prompt_length or min(trained.get("max_prompt_length") or length - 1, length - 1)
    if prompt >= length:
        raise InputError(
            f"--max_prompt_length {prompt}: must be less than max_length {length}, or no completion fits; lower it or "
            "raise max_length"
        )
    return PairLimits(length, prompt, config.overlength or trained.get("overlength"))


def trained_limits(folder: Path) -> dict[str, Any]:
    """The settings of the rm_train that made a folder; {} when it was another program."""
    file = folder.expanduser() / SETTINGS_FILE
    if read_stage(folder).get("stage") != "rm" or not file.exists():
        return {}
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def read_pairs(config: DoctorConfig, renderer: Renderer, limits: PairLimits, scratch: Path) -> Dataset:
    """The pairs of `valid_data`. Raises InputError."""
    settings = DataSettings.of(
        config,
        max_length=limits.max_length,
        max_prompt_length=limits.max_prompt_length,
        **dropping(limits.overlength),
        cache_dir=scratch,
        name="valid",
        bad_rows=Path(config.output_dir) / "bad_rows.jsonl",
    )
    data = load_tokens(config.valid_data, "comparison", renderer, settings)
    say(data.summary.lines())
    check_winners("--valid_data", data.rows["chosen_probability"])
    return data.rows


def scores_and_lengths(config: DoctorConfig, scorer: Scorer, rows: Dataset) -> tuple[np.ndarray, ...]:
    """Scores of chosen and rejected, then their completion tokens, each [N]. Raises InputError for NaN."""
    answers = [rows["chosen_ids"][:], rows["rejected_ids"][:]]
    sequences = [p + ids for side in answers for p, ids in zip(rows["prompt_ids"], side, strict=True)]
    scores = []
    with counting_bar("answer", len(sequences), 0) as advance:
        for start in range(0, len(sequences), AT_ONCE):
            some = sequences[start : start + AT_ONCE]
            scores += score_sequences(scorer, some)
            advance(len(some))
    chosen, rejected = np.array(scores).reshape(2, -1)
    broken = np.flatnonzero(~np.isfinite(chosen + rejected))
    if broken.size:
        raise InputError(
            f"--reward_model {config.reward_model}: scores {broken.size:,} of {len(rows):,} pairs NaN or infinite; "
            "train it again with a lower learning_rate, or give --precision float32"
        )
    return chosen, rejected, *(np.array([len(ids) for ids in side]) for side in answers)
