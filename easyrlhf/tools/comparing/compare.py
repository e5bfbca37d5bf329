"""easyrlhf compare: several models answer the same prompts, and their answers are judged; docs/comparing.md."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from easyrlhf.config import CompareConfig
from easyrlhf.data.records import Messages
from easyrlhf.errors import InputError, RunError
from easyrlhf.files import make_folder
from easyrlhf.judges.judges import Judge, check_judge, find_judge
from easyrlhf.offline.reference import cache_folder
from easyrlhf.paths import split_paths
from easyrlhf.report.compare_page import compare_lines, compare_page
from easyrlhf.report.comparison import JUDGE, ComparedAnswer, measured, short_names
from easyrlhf.report.console import Console, counting_bar
from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.functions import check_parameters, load_functions
from easyrlhf.run.claim import locked
from easyrlhf.stages.reward_sources import check_reward_model
from easyrlhf.tools.comparing.contestants import (
    ANSWER_KEY,
    Contestant,
    Prompts,
    answer_all,
    chunks,
    common_prompts,
    journal_keys,
    measures_kl,
    read_contestants,
)
from easyrlhf.tools.comparing.journal import (
    claim_journal,
    read_journal_record,
    write_record,
)
from easyrlhf.tools.comparing.marking import (
    JUDGEMENT_KEY,
    REWARD_MODEL,
    completion,
    judge_all,
    score_all,
    scores_in,
    verdict_of,
)
from easyrlhf.tools.journal import Journal, Key
from easyrlhf.tools.loaded import texts_of
from easyrlhf.tools.resumable import beside, deciding_settings, write_result
from easyrlhf.tools.scoring import reward_folder

COMPARE_FILE, PAGE_FILE = "compare.json", "compare.html"
ANSWERS_FILE, JUDGEMENTS_FILE = "answers.jsonl", "judgements.jsonl"
# What may differ when a command goes on: where and how it is computed and asked, not what.
FREE_TO_CHANGE = {"output_dir", "overwrite", "devices", "batch_size", "micro_batch_tokens", "allow_incomplete"}
FREE_TO_CHANGE |= {"reward_timeout", "judge_url", "judge_key_env", "judge_workers"}


@dataclass(frozen=True)
class Contest:
    """Who takes part: models, the judge of pairs, and reward functions by name."""

    contestants: list[Contestant]
    judge: Judge | None
    functions: dict[str, RewardFunction]

    def scored_by(self, config: CompareConfig) -> list[str]:
        """Names of what scores every answer."""
        return [REWARD_MODEL] * bool(config.reward_model) + list(self.functions)


def compare(models: Any, prompts: Any, **settings: Any) -> dict[str, Any]:
    """Compare models as `easyrlhf compare` does, into `output_dir`; returns what its compare.json holds.

    models    folders or hub ids, the first of which the others are compared with
    prompts   a file, folder or hub id, a comma list of them, or a list of texts and conversations
    settings  those of the command: reward_model, reward_funcs and judge (functions will do), samples, output_dir…
    Raises InputError for what cannot be used; RunError when a judge fails.
    """
    if not isinstance(prompts, str | os.PathLike):
        prompts = file_of(prompts)
    folder = compare_models(CompareConfig(models=models, prompts=prompts, **settings))
    return json.loads((folder / COMPARE_FILE).read_text(encoding="utf-8"))


def file_of(prompts: Iterable[Messages | str]) -> Path:
    """A file with these prompts, the same for the same ones, so that the same call goes on.

    Raises InputError for what is no prompt, and where the file cannot be written.
    """
    rows = as_lines({"prompt": prompt} for prompt in texts_of(prompts, "prompts"))
    file = cache_folder("prompts") / f"{hashlib.sha256(rows.encode()).hexdigest()[:16]}.jsonl"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_result(file, rows)
    except (OSError, RunError) as error:
        raise InputError(
            f"prompts: cannot be kept in {file.parent}; set EASYRLHF_CACHE to another folder, or give a file"
        ) from error
    return file


def compare_models(config: CompareConfig) -> Path:
    """Compare the models, print the result, and write it into `output_dir`; returns the folder.

    Raises InputError for models, prompts, judges or a folder that cannot be used; RunError when a judge fails.
    """
    folder = Path(config.output_dir)
    console = Console(config.stage)
    cast = check(config)
    make_folder(folder)
    with locked(folder), TemporaryDirectory() as scratch:
        models = [*config.paths, *filter(None, [config.reward_model, config.judge_dir])]
        settings = deciding_settings(config, FREE_TO_CHANGE, {path: path for path in models})
        state = claim_journal(folder, settings, config.overwrite)
        prompts = common_prompts(config, cast.contestants, Path(scratch))
        check_function_columns(config, cast, prompts)
        if state != "new" and read_journal_record(folder)["data"] != prompts.sha256:
            raise InputError(
                f"--output_dir {folder}: the prompts have changed since this was begun; put them back, give another "
                "folder, or --overwrite to begin anew"
            )
        if state == "complete" and (folder / COMPARE_FILE).exists():
            console.note(f"{folder}: is complete already; nothing to do")
            found = json.loads((folder / COMPARE_FILE).read_text(encoding="utf-8"))
        else:
            if config.overwrite:
                remove_comparison(folder)
            write_record(folder, settings, prompts.sha256, False)
            found = carry_out(config, cast, prompts, folder)
            write_record(folder, settings, prompts.sha256, True)
        remove_parts(folder)
    console.note("\n".join(["", *compare_lines(found, console.width)]))
    console.finish([*found["verdicts"], "", str(folder / COMPARE_FILE), str(folder / PAGE_FILE)])
    return folder


def check(config: CompareConfig) -> Contest:
    """Everything the settings name, checked before any weights are loaded. Raises InputError."""
    specs = split_paths(config.reward_funcs)
    functions = load_functions(specs)
    for spec, function in zip(specs, functions, strict=True):
        check_parameters(spec, function)
    names = [spec.rpartition(":")[2] for spec in specs]
    twice = next((name for i, name in enumerate(names) if name in (*names[:i], REWARD_MODEL, JUDGE)), None)
    if twice:
        raise InputError(f"--reward_funcs {config.reward_funcs}: the name {twice} is taken; give the function another")
    if config.reward_model:
        check_reward_model("--reward_model", reward_folder(config), config)
    sources = {
        name: RewardFunction(function, name, config.reward_timeout)
        for name, function in zip(names, functions, strict=True)
    }
    return Contest(read_contestants(config), find_judge(config), sources)


def check_function_columns(config: CompareConfig, cast: Contest, prompts: Prompts) -> None:
    """Raise InputError when a function cannot be called with the columns of the prompts."""
    columns = {name for row in prompts.rows for name in json.loads(row["columns"])}
    check_judge(config, cast.judge, columns)
    for spec, source in zip(split_paths(config.reward_funcs), cast.functions.values(), strict=True):
        try:
            check_parameters(spec, source.function, columns)
        except InputError as error:
            raise InputError(str(error).replace("--train_data", "--prompts")) from error


def remove_comparison(folder: Path) -> None:
    """Delete what an earlier comparison wrote into the folder and nothing else."""
    for name in (COMPARE_FILE, PAGE_FILE, ANSWERS_FILE, JUDGEMENTS_FILE):
        (folder / name).unlink(missing_ok=True)
    remove_parts(folder)


def remove_parts(folder: Path) -> None:
    """Delete the journals."""
    for name in (ANSWERS_FILE, JUDGEMENTS_FILE):
        beside(folder / name, "part").unlink(missing_ok=True)


def carry_out(config: CompareConfig, cast: Contest, prompts: Prompts, folder: Path) -> dict[str, Any]:
    """Answer, score, judge, and write what came of it; returns what compare.json holds."""
    places = [place for part in chunks(config, len(prompts.rows)) for place in part]
    keys = [journal_keys(contestant, places) for contestant in cast.contestants]
    said = Journal(beside(folder / ANSWERS_FILE, "part"), ANSWER_KEY)
    judged = Journal(beside(folder / JUDGEMENTS_FILE, "part"), JUDGEMENT_KEY)
    every = [key for own in keys for key in own]
    fill_journals(config, cast, prompts, said, judged, every)
    answers = [[answer_of(said, key) for key in own] for own in keys]
    verdicts = [[verdict_of(said, judged, key) for key in own] for own in keys[1:]] if cast.judge else None
    found = measured(short_names(config.paths), cast.scored_by(config), answers, verdicts)
    found = summary(config, cast, found, len(prompts.rows))
    write_result(folder / ANSWERS_FILE, as_lines(answer_row(config, prompts, key, said.records[key]) for key in every))
    if cast.judge:
        rows = (judgement_row(config, key, judged.records[key]) for key in sorted(judged.records))
        write_result(folder / JUDGEMENTS_FILE, as_lines(rows))
    texts = [prompts.text(number) for number in range(len(prompts.rows))]
    write_result(folder / PAGE_FILE, compare_page(found, texts, answers, verdicts))
    write_result(folder / COMPARE_FILE, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def fill_journals(
    config: CompareConfig, cast: Contest, prompts: Prompts, said: Journal, judged: Journal, every: list[Key]
) -> None:
    """Answer, score and judge, as far as the journals lack it."""
    with counting_bar("answer", len(every), len(every) - len(said.missing(every, "ids"))) as advance:
        answer_all(config, cast.contestants, prompts, said, advance)
    score_all(config, cast.functions, prompts, said, every)
    if cast.judge:
        judge_all(cast.judge, prompts, said, judged, every)


def answer_of(said: Journal, key: Key) -> ComparedAnswer:
    """An answer with all that was measured of it."""
    record = said.records[key]
    ratio = record["logprob"] - record["first_logprob"] if "first_logprob" in record else None
    return ComparedAnswer(key[1], key[2], record["text"], record["finished"], scores_in(record), ratio)


def summary(config: CompareConfig, cast: Contest, found: dict[str, Any], prompts: int) -> dict[str, Any]:
    """The numbers with what they are about: settings, versions, and why a KL is missing."""
    for contestant, entry in zip(cast.contestants, found["models"], strict=True):
        entry["kl_why"] = why_no_kl(config, contestant, cast.contestants[0])
    return found | {
        "first": short_names(config.paths)[0],
        "names": short_names(config.paths),
        "paths": list(config.paths),
        "prompts": prompts,
        "samples": config.samples,
        "judge_name": cast.judge.name if cast.judge else None,
        "settings": dataclasses.asdict(config),
        "easyrlhf_version": importlib.metadata.version("easyrlhf"),
    }


def why_no_kl(config: CompareConfig, contestant: Contestant, first: Contestant) -> str | None:
    """Why the distance of a model from the first is not measured; None where it is, and for the first."""
    if contestant is first or measures_kl(config, contestant):
        return None
    if not contestant.same:
        return f"its tokenizer or chat template is another than that of {first.path}"
    return "at --temperature 0 nothing is drawn at random"


def answer_row(config: CompareConfig, prompts: Prompts, key: Key, record: dict[str, Any]) -> dict[str, Any]:
    """A line of answers.jsonl."""
    number, prompt, sample = key
    asked = prompts.prompt(prompt)
    line = {"prompt": asked, "completion": completion(asked, record["text"]), "model": config.paths[number]}
    line |= {"number": prompt, "sample": sample, "finished": record["finished"], "scores": scores_in(record)}
    logprob = {name: record[name] for name in ("logprob", "first_logprob") if record.get(name) is not None}
    return line | logprob | {"columns": prompts.columns(prompt)}


def judgement_row(config: CompareConfig, key: Key, record: dict[str, Any]) -> dict[str, Any]:
    """A line of judgements.jsonl."""
    number, prompt, sample, order = key
    model, first = config.paths[number], config.paths[0]
    a, b = (model, first) if order == 0 else (first, model)
    return {"number": prompt, "sample": sample, "a": a, "b": b} | record


def as_lines(rows: Iterator[dict[str, Any]]) -> str:
    """Rows as the text of a .jsonl file."""
    return "".join(json.dumps(one, ensure_ascii=False, default=str) + "\n" for one in rows)
