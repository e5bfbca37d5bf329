"""easyrlhf score: what a reward model thinks of the rows of a file, or of one text; docs/using_models.md."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from easyrlhf.config import ScoreConfig
from easyrlhf.data.chat_template import arguments_for
from easyrlhf.data.formats import require_format
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import read_records
from easyrlhf.data.records import Comparison, Feedback, Messages, Prompt, Ranking, Record
from easyrlhf.data.render import Renderer
from easyrlhf.data.sources import open_sources
from easyrlhf.errors import InputError
from easyrlhf.report.console import say
from easyrlhf.run.renderers import open_renderer
from easyrlhf.tools.loaded import RewardModel
from easyrlhf.tools.output import Output, Printed, open_output
from easyrlhf.tools.scoring import Scorer, load_scorer, longest, reward_folder, scores_of, why_no_score

ROWS_AT_ONCE = 256  # scored together, then written


@dataclass(frozen=True)
class Item:
    """A row as it lies in the file, the record it is, and the token ids of prompt and answer, for each answer."""

    row: dict[str, Any]
    record: Record
    sequences: list[list[int]]


def score(config: ScoreConfig) -> None:
    """Score the rows of `data` into `output`, or print the score of one text.

    Raises InputError for data, a model or an output file that cannot be used.
    """
    if config.data:
        score_file(config, longest("--reward_model", config.reward_model, config))
    else:
        print_score(config)


def print_score(config: ScoreConfig) -> None:
    """The score of `text`, or of `completion` as the answer to `prompt`: a turn each, where there is a template."""
    model = RewardModel(config)
    prompt: Messages | str = config.prompt or ""
    completion: Messages | str = config.completion or config.text
    if config.prompt and model.renderer.tokenizer.chat_template:
        prompt = [{"role": "user", "content": config.prompt}]
        completion = [{"role": "assistant", "content": config.completion}]
    elif config.prompt:
        print(f"note: {config.reward_model} has no chat template, so both are read as plain text", file=sys.stderr)
    ids = model.renderer.sequence(prompt, completion)
    [found] = scores_of(model.scorer, [ids], model.limit)
    if found is None:
        raise InputError(f"--{'completion' if config.prompt else 'text'}: {why_no_score(ids, model.limit)}")
    print(f"{found:.6f}")


def score_file(config: ScoreConfig, limit: int | None) -> None:
    """Score a file; the same command goes on after the last rows that were written."""
    if config.format is not None:
        require_format(config.format)
    renderer = open_renderer(reward_folder(config), config)
    with open_output(config) as output:
        output.begin(*survey(config, renderer, Ledger("data", output.bad_rows)))
        if output.complete:
            print(f"{output.file}: is complete already; nothing to do")
        else:
            scorer = load_scorer(config)
            todo = islice(items_of_rows(config, renderer, Ledger("data", output.bad_rows)), output.done, None)
            with output.progress("row"):
                while chunk := list(islice(todo, ROWS_AT_ONCE)):
                    output.write(scored_rows(scorer, chunk, limit, config.column, output.tally), len(chunk))
        output.finish()
        say(score_summary(output, limit))


def survey(config: ScoreConfig, renderer: Renderer, ledger: Ledger) -> tuple[str, int]:
    """Read all rows before a model is loaded: their SHA-256, and how many there are. Raises InputError."""
    digest = hashlib.sha256()
    for item in items_of_rows(config, renderer, ledger):
        digest.update(json.dumps(item.row, default=str).encode() + b"\n")
        ledger.use([{"length": max(map(len, item.sequences))}])
    if not ledger.used:
        kept = f"; the dropped ones are in {ledger.bad_rows}" if ledger.bad_rows else ""
        raise InputError(f"{config.data}: no usable row{kept}")
    say(ledger.summary(digest.hexdigest()).lines())
    return digest.hexdigest(), ledger.used


def items_of_rows(config: ScoreConfig, renderer: Renderer, ledger: Ledger) -> Iterator[Item]:
    """The usable rows of all sources, in their order. Raises InputError."""
    for source in open_sources(config.data, field=config.field, transform=config.transform):
        if source.weight != 1:
            raise InputError(f"{source.name}={source.weight:g}: every row is scored once; leave the weight out")
        for record, row in read_records(source, None, ledger, format=config.format, on_bad_row=config.on_bad_row):
            check_new_columns(config, record, row)
            try:
                yield Item(row, record, sequences_of(record, renderer))
            except InputError as error:
                if config.on_bad_row == "stop":
                    raise InputError(f"{record.place}: {error}") from error
                ledger.drop("not renderable", record.place, row, str(error))


def sequences_of(record: Record, renderer: Renderer) -> list[list[int]]:
    """Token ids of prompt and answer, for each answer of a record. Raises InputError."""
    arguments = arguments_for(record.prompt, record.columns)
    return [renderer.sequence(*answer, arguments) for answer in scored_answers(record)]


def scored_answers(record: Record) -> list[tuple[Messages | str, Messages | str, bool]]:
    """Prompt, answer, and whether it was finished, for each answer of a record. Raises InputError when it has none."""
    if isinstance(record, Prompt):
        raise InputError("a prompt without an answer: there is nothing to score; easyrlhf generate writes answers")
    columns = record.columns  # easyrlhf generate says there which answers were cut off
    if isinstance(record, Comparison):
        sides = (("chosen", record.chosen), ("rejected", record.rejected))
        return [(record.prompt, answer, columns.get(f"{side}_finished") is not False) for side, answer in sides]
    if isinstance(record, Ranking):
        return [(record.prompt, answer, True) for answer in record.completions]
    finished = columns.get("finished") is not False
    if isinstance(record, Feedback) or isinstance(record.completion, str):
        return [(record.prompt, record.completion, finished)]
    return [(record.as_prompt().prompt, record.completion[-1:], finished)]


def new_columns(record: Record, scores: list[float | None], name: str) -> dict[str, Any]:
    """What a row gains.

    A comparison's own `margin` and a ranking's own `scores` are data that stages learn from: the new ones have other
    names.
    """
    if isinstance(record, Comparison):
        chosen, rejected = scores
        margin = None if None in scores else chosen - rejected
        return {f"chosen_{name}": chosen, f"rejected_{name}": rejected, f"{name}_margin": margin}
    if isinstance(record, Ranking):
        return {f"completion_{name}s": scores}
    return {name: scores[0]}


def check_new_columns(config: ScoreConfig, record: Record, row: dict[str, Any]) -> None:
    """Raise InputError when a row has a column of the new ones' name, which would be lost."""
    names = [*new_columns(record, [None, None], config.column), f"{config.column}_note"]
    if taken := [name for name in names if name in row]:
        raise InputError(
            f"{record.place}: has a column '{taken[0]}' already, which would be lost; give the new ones another name "
            "with --column"
        )


def scored_rows(
    scorer: Scorer, chunk: list[Item], limit: int | None, name: str, tally: Counter
) -> list[dict[str, Any]]:
    """The rows with their new columns, and a note where a score is null."""
    found = iter(scores_of(scorer, [ids for item in chunk for ids in item.sequences], limit))
    rows = []
    for item in chunk:
        scores = list(islice(found, len(item.sequences)))
        row = item.row | new_columns(item.record, scores, name)
        if None in scores:
            row[f"{name}_note"] = why_no_score(max(item.sequences, key=len), limit)
        rows.append(row)
        tally_scores(tally, item.record, scores)
    return rows


def tally_scores(tally: Counter, record: Record, scores: list[float | None]) -> None:
    """Sum up for the last words."""
    known = [score for score in scores if score is not None]
    tally.update(answers=len(known), sum=sum(known), unscored=len(scores) - len(known))
    if isinstance(record, Comparison) and len(known) == 2 and not record.is_tie:
        tally.update(pairs=1, right=(known[0] > known[1]) + 0.5 * (known[0] == known[1]))


def score_summary(output: Output | Printed, limit: int | None) -> Iterator[str]:
    """What was written, and what the scores say."""
    tally = output.tally
    yield f"{output.file}: {output.total:,} rows"
    if tally["answers"]:
        yield f"mean score of {tally['answers']:,} answers: {tally['sum'] / tally['answers']:+.4f}"
    if tally["pairs"]:
        yield f"chosen scores higher in {tally['right'] / tally['pairs']:.1%} of {tally['pairs']:,} comparisons"
    if tally["unscored"]:
        yield f"warning: {tally['unscored']:,} answers have no score (null): longer than {limit:,} tokens"
