"""easyrlhf generate: answers to a file of prompts: all, the best of N, or those good enough; docs/using_models.md."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset

from easyrlhf.config import GenerateConfig
from easyrlhf.data.chat_template import arguments_for, opens
from easyrlhf.data.read_row import recognise
from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.load import positions_of
from easyrlhf.online.rollout import unpad
from easyrlhf.report.console import say
from easyrlhf.report.next_steps import next_line
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.tools.answer_rows import (
    EMPTY,
    FAILED,
    LOW,
    TIED,
    UNFINISHED,
    UNSCORED,
    GeneratedAnswer,
    answered,
    comparison_row,
    kept,
    kl_bound,
    row_of,
)
from easyrlhf.tools.episodes import AnsweringPlayer, check_left_out, episodes_of, open_player
from easyrlhf.tools.output import Output, Printed, open_output
from easyrlhf.tools.policy import load_sampler, read_renderer, room_for_prompt
from easyrlhf.tools.scoring import Scorer, load_scorer, reward_folder, scores_of
from easyrlhf.tools.texts import ask, print_answers

Rows = Output | Printed
NO_LIMIT = 2**31 - 1
READ_AS = {"demonstrations": "prompt_completion", "comparisons": "preference"}


def generate(config: GenerateConfig) -> None:
    """Answer every prompt and write or print the rows that the settings keep, in the order of the prompts.

    Raises InputError for models, data or an output file that cannot be used; RunError when no answer was worth keeping.
    """
    renderer = read_renderer(config)
    with open_output(config) as output:
        with TemporaryDirectory() as scratch:
            rows = prompt_rows(config, renderer, output, Path(scratch))
            player = open_player(config, renderer, rows)
            if output.complete:
                print(f"{output.file}: is complete already; nothing to do")
            else:
                write_answers(config, renderer, rows, output, player)
        output.finish()
        for line in last_words(config, output):
            print(line)
        if not output.tally["rows"]:
            raise RunError(f"{output.file}: is empty, since no answer could be kept; see what was left out, above")


def prompt_rows(config: GenerateConfig, renderer: Renderer, output: Rows, scratch: Path) -> Dataset:
    """The prompts of the settings, a text or rows. Raises InputError; loads no model."""
    if config.texts:
        return Dataset.from_list(ask(config, renderer, output))
    return claim_prompts(config, renderer, output, scratch)


def claim_prompts(config: GenerateConfig, renderer: Renderer, output: Rows, scratch: Path) -> Dataset:
    """The prompt rows, for which the output is claimed. Raises InputError; loads no model."""
    room = room_for_prompt(config)
    if room and config.max_prompt_length and config.max_prompt_length > room:
        raise InputError(
            f"--max_prompt_length {config.max_prompt_length}: with --max_new_tokens {config.max_new_tokens} there is "
            f"room for {room} tokens; lower one of the two"
        )
    settings = DataSettings.of(
        config,
        max_length=NO_LIMIT,
        max_prompt_length=config.max_prompt_length or room or NO_LIMIT,
        cache_dir=scratch,
        name="prompts",
        bad_rows=output.bad_rows,
        seed=config.seed,
    )
    data = load_tokens(config.prompts, "prompt", renderer, settings)
    say(data.summary.lines())
    check_kept_columns(config, data.rows)
    output.begin(data.summary.sha256, len(data.rows))
    return data.rows


def check_kept_columns(config: GenerateConfig, rows: Dataset) -> None:
    """Raise InputError when a prompt's other columns would make the stages read the output as something else."""
    wanted = READ_AS[config.to]
    answers = [GeneratedAnswer(0, "", True)] * (2 if config.to == "comparisons" else 1)
    for number, cell in enumerate(rows["columns"], 1):
        columns = json.loads(cell)
        found = recognise(
            row_of("", columns, answers[0]) if len(answers) == 1 else comparison_row("", columns, *answers)
        )
        if found != wanted:
            raise InputError(
                f"{config.prompts}: with the columns of prompt {number} ({', '.join(columns)}) the new row would be "
                f"read as {found}, not as {wanted}; rename or remove them"
            )


def write_answers(
    config: GenerateConfig, renderer: Renderer, rows: Dataset, output: Rows, player: AnsweringPlayer | None
) -> None:
    """Sample, score and keep, some prompts at a time.

    player  plays the environment; None without one
    Raises EnvironmentFailed, RunError.
    """
    judge = None
    if config.reward_model:
        limit = positions_of(reward_folder(config), trust_remote_code=config.trust_remote_code)
        judge = Judge(load_scorer(config), limit)
    sampler = load_sampler(config, renderer, config.batch_size)
    answering = Answering(config, renderer, sampler, player, judge)
    at_once = max(1, config.batch_size // config.draws)
    with output.progress("prompt"):
        while output.done < output.total:
            numbers = range(output.done, min(output.done + at_once, output.total))
            chunk = [rows[number] for number in numbers]
            written = []
            for row, answers in zip(chunk, draw_answers(answering, chunk, numbers), strict=True):
                check_left_out(answers, output.tally, output.total * config.draws)
                written += kept(config, row, answers, output.tally)
            if config.readable:
                print_answers(config, output, written)
                output.write([], len(chunk))
            else:
                output.write(written, len(chunk))


@dataclass(frozen=True)
class Judge:
    """A reward model and the most tokens it can read."""

    scorer: Scorer
    limit: int | None

    def rewards(
        self, prompts: list[Messages | str], columns: list[dict[str, Any]], answers: list[GeneratedAnswer]
    ) -> list[float | None]:
        """The score of each answer's text, as `easyrlhf score` would give it; None for those too long.

        Raises InputError when the reward model's own template refuses a prompt.
        """
        both = zip(prompts, columns, answers, strict=True)
        try:
            ids = [
                self.scorer.renderer.sequence(*answered(prompt, a), a.finished, told(prompt, columns, a))
                for prompt, columns, a in both
            ]
        except InputError as error:
            raise InputError(f"--reward_model: {error}") from error
        return scores_of(self.scorer, ids, self.limit)


def told(prompt: Messages | str, columns: dict[str, Any], answer: GeneratedAnswer) -> dict[str, Any] | None:
    """What the chat template is told of an answered prompt."""
    arguments = arguments_for(prompt, columns)
    return arguments | {"tools": answer.tools} if answer.tools else arguments


@dataclass(frozen=True)
class Answering:
    """What draws answers: the model, the environment that it acts in, and who scores them, where there are such."""

    config: GenerateConfig
    renderer: Renderer
    sampler: HFSampler
    player: AnsweringPlayer | None
    judge: Judge | None


def draw_answers(answering: Answering, rows: list[dict[str, Any]], numbers: range) -> Iterator[list[GeneratedAnswer]]:
    """The answers to each prompt, with their rewards where there is a judge or an environment that scores."""
    config = answering.config
    keys = [(config.seed, number, sample) for number in numbers for sample in range(config.draws)]
    asked = [row for row in rows for _ in range(config.draws)]
    prompts = [json.loads(row["prompt"]) for row in asked]
    if answering.player:
        answers = episodes_of(answering.player, answering.sampler, asked, keys)
    else:
        prompt_ids = [row["prompt_ids"] for row in asked]
        answers = answers_to(answering.renderer, answering.sampler, prompts, prompt_ids, keys)
    if answering.judge:
        columns = [json.loads(row["columns"]) for row in asked]
        rewards = answering.judge.rewards(prompts, columns, answers)
        answers = [replace(answer, reward=r, judged=True) for answer, r in zip(answers, rewards, strict=True)]
    for start in range(0, len(answers), config.draws):
        yield answers[start : start + config.draws]


def answers_to(
    renderer: Renderer,
    sampler: HFSampler,
    prompts: list[Messages | str],
    prompt_ids: list[list[int]],
    keys: list[tuple[int, ...]],
) -> list[GeneratedAnswer]:
    """An answer to each prompt, drawn from its key, whose last number is the sample's."""
    samples = sampler.generate(prompt_ids, keys)
    ids = unpad(samples.completion_ids, samples.completion_mask)
    found = zip(prompts, keys, ids, samples.finished.tolist(), strict=True)
    return [GeneratedAnswer(key[-1], as_completion(renderer, prompt, ids), ended) for prompt, key, ids, ended in found]


def as_completion(renderer: Renderer, prompt: Messages | str, ids: list[int]) -> Messages | str:
    """A completion in the prompt's form; white space around a turn is not part of it, as templates put their own."""
    text = renderer.decode(ids)
    if isinstance(prompt, str):
        return text
    return [{"role": "assistant", "content": text.rstrip() if opens(prompt) else text.strip()}]


def last_words(config: GenerateConfig, output: Rows) -> Iterator[str]:
    """What was written and left out, and what the rewards say; of texts for a reader, only what is not seen in them."""
    tally = output.tally
    cut_off = f"cut off at --max_new_tokens {config.max_new_tokens}{' or at a --stop text' * bool(config.stop)}"
    if config.readable:
        if tally["kept_unfinished"]:
            yield f"note: {tally['kept_unfinished']:,} of {tally['rows']:,} answers were {cut_off}"
        return
    yield f"{output.file}: {tally['rows']:,} rows of {output.total:,} prompts and {tally['answers']:,} answers"
    if left := [
        f"{tally[reason]:,} {reason}" for reason in (FAILED, UNFINISHED, EMPTY, UNSCORED, LOW, TIED) if tally[reason]
    ]:
        yield f"left out: {', '.join(left)}"
    if tally["without"]:
        yield f"prompts without a row: {tally['without']:,}"
    if tally["compared"]:
        first, best = (tally[name] / tally["compared"] for name in ("first", "best"))
        more = f", best of {config.draws} {best:+.4f}" if config.draws > 1 else ""
        yield f"mean reward: first answer {first:+.4f}{more}"
    if config.best_of:
        n = config.best_of
        yield f"KL(best of {n} || model) <= log {n} - {n - 1}/{n} = {kl_bound(n):.4f} nats"
    yield from warnings_of(tally, cut_off)
    if tally["rows"] and not config.to_screen:
        stage = "sft_train" if config.to == "demonstrations" else "dpo_train"
        yield next_line([stage, "--model", config.model, "--train_data", str(output.file)])


def warnings_of(tally: Counter, cut_off: str) -> Iterator[str]:
    """What training on the answers that were written would suffer from."""
    if tally["kept_unfinished"]:
        yield (
            f"warning: {tally['kept_unfinished']:,} of the answers written were {cut_off}; "
            "training on them teaches the model to end there: --only_finished leaves them out"
        )
    if tally["kept_empty"]:
        yield f"warning: {tally['kept_empty']:,} of the answers written are empty; sft_train drops such rows"
    if tally["kept_unscored"]:
        yield f"warning: {tally['kept_unscored']:,} of the answers written have no reward (null): {UNSCORED}"
