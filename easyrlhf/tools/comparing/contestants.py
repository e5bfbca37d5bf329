"""Models that are compared: checked, given the same prompts, and one after another made to answer them."""

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from easyrlhf.config import CompareConfig, PolicyConfig
from easyrlhf.data.batches import join, within_budget
from easyrlhf.data.chat_template import arguments_for
from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.engine.device import pick_micro_batch_tokens
from easyrlhf.errors import InputError
from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.online.rollout import unpad
from easyrlhf.report.console import say
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.tools.at_hand import at_hand
from easyrlhf.tools.generate import NO_LIMIT, as_completion
from easyrlhf.tools.journal import Journal, Key
from easyrlhf.tools.policy import load_sampler, read_renderer, room_for_prompt

ANSWER_KEY = ("model", "prompt", "sample")
SHARED = (
    *("devices", "precision", "micro_batch_tokens", "attn_implementation", "trust_remote_code", "allow_incomplete"),
    *("max_length", "max_new_tokens", "temperature", "seed"),
    *("chat_template_kwargs", "enable_thinking", "fold_system", "continue_final_message"),
)


@dataclass(frozen=True)
class Contestant:
    """One of the models.

    number    its place among them, 0 for the first
    settings  as the commands for a single model have them
    same      whether it reads and writes the tokens of the first model, with its template
    """

    number: int
    settings: PolicyConfig
    renderer: Renderer
    same: bool

    @property
    def path(self) -> str:
        """The folder or hub id."""
        return self.settings.model

    def longest_prompt(self, config: CompareConfig) -> int:
        """Tokens that a prompt may have. Raises InputError when the settings leave no room for as many."""
        room = room_for_prompt(self.settings)
        if room and config.max_prompt_length and config.max_prompt_length > room:
            raise InputError(
                f"--max_prompt_length {config.max_prompt_length}: with --max_new_tokens {config.max_new_tokens} "
                f"{self.path} has room for {room} tokens; lower one of the two"
            )
        return config.max_prompt_length or room or NO_LIMIT


@dataclass(frozen=True)
class Prompts:
    """What is asked.

    rows    [P] with prompt (JSON) and columns (JSON), as load_tokens gives them
    ids     [M][P] token ids for each contestant
    sha256  of the rows
    """

    rows: list[dict[str, Any]]
    ids: list[list[list[int]]]
    sha256: str

    def prompt(self, number: int) -> Messages | str:
        """A prompt as the data have it."""
        return json.loads(self.rows[number]["prompt"])

    def columns(self, number: int) -> dict[str, Any]:
        """The other columns of its row."""
        return json.loads(self.rows[number]["columns"])

    def text(self, number: int) -> str:
        """A prompt as people read it: its last turn, the earlier ones above."""
        prompt = self.prompt(number)
        return prompt if isinstance(prompt, str) else "\n\n".join(turn["content"] for turn in prompt)


def read_contestants(config: CompareConfig) -> list[Contestant]:
    """The models of the settings. Loads no weights. Raises InputError for one that cannot be used."""
    contestants: list[Contestant] = []
    for number, path in enumerate(config.paths):
        settings = settings_for(config, path)
        renderer = read_renderer(settings, "--models", strict=False)
        mark = mark_of(renderer)
        same = not contestants or mark == mark_of(contestants[0].renderer)
        contestants.append(Contestant(number, settings, renderer, same))
    return contestants


def mark_of(renderer: Renderer) -> dict[str, Any]:
    """What two models must have in common to get the same token ids of a prompt."""
    return tokenizer_fingerprint(renderer.tokenizer) | renderer.rendering.as_dict()


def settings_for(config: CompareConfig, path: str) -> PolicyConfig:
    """The settings of a command for this model alone; the chat template is for models that have none."""
    template = config.chat_template
    folder = at_hand("--models", path, allow_incomplete=config.allow_incomplete)
    if template and load_tokenizer(folder, trust_remote_code=config.trust_remote_code).chat_template:
        template = None
    return PolicyConfig(model=path, chat_template=template, **{name: config.value(name) for name in SHARED})


def common_prompts(config: CompareConfig, contestants: list[Contestant], scratch: Path) -> Prompts:
    """The prompts that every model has room for. Raises InputError; loads no model."""
    limits = [contestant.longest_prompt(config) for contestant in contestants]
    settings = DataSettings.of(
        config,
        max_length=NO_LIMIT,
        max_prompt_length=limits[0],
        cache_dir=scratch,
        name="prompts",
        bad_rows=Path(config.output_dir) / "bad_rows.jsonl",
        seed=config.seed,
    )
    data = load_tokens(config.prompts, "prompt", contestants[0].renderer, settings)
    say(data.summary.lines())
    rows = [
        {
            "prompt": row["prompt"],
            "columns": row["columns"],
            "prompt_ids": row["prompt_ids"],
        }
        for row in data.rows
    ]
    ids = [prompt_ids(contestant, rows) for contestant in contestants]
    for contestant, own, limit in zip(contestants, ids, limits, strict=True):
        if dropped := sum(len(one) > limit for one in own):
            print(f"dropped: {dropped:,} prompts of more than {limit:,} tokens for {contestant.path}")
    kept = [i for i in range(len(rows)) if all(len(own[i]) <= limit for own, limit in zip(ids, limits, strict=True))]
    if not kept:
        raise InputError(f"--prompts {config.prompts}: no prompt is short enough for every model")
    return Prompts([rows[i] for i in kept], [[own[i] for i in kept] for own in ids], data.summary.sha256)


def prompt_ids(contestant: Contestant, rows: list[dict[str, Any]]) -> list[list[int]]:
    """Token ids of the prompts for one model. Raises InputError when its template refuses one."""
    if contestant.same:
        return [row["prompt_ids"] for row in rows]
    try:
        asked = [(json.loads(row["prompt"]), json.loads(row["columns"])) for row in rows]
        return [contestant.renderer.prompt_ids(prompt, arguments_for(prompt, cells)) for prompt, cells in asked]
    except InputError as error:
        raise InputError(f"--models {contestant.path}: {error}") from error


def answer_all(
    config: CompareConfig,
    contestants: list[Contestant],
    prompts: Prompts,
    journal: Journal,
    advance: Callable[[int], None],
) -> None:
    """Let every model answer every prompt, and measure how likely the answers are, as far as the journal lacks it.

    One model is in memory at a time: the first one comes last, since it measures the others' answers too.
    """
    parts = list(chunks(config, len(prompts.rows)))
    for contestant in [*contestants[1:], contestants[0]]:
        own = [part for part in parts if journal.missing(journal_keys(contestant, part), "ids")]
        others = [other for other in contestants[1:] if measures_kl(config, other)] if not contestant.number else []
        foreign = [
            (other, part)
            for other in others
            for part in parts
            if journal.missing(journal_keys(other, part), "first_logprob")
        ]
        if not own and not foreign:
            continue
        sampler = load_sampler(contestant.settings, contestant.renderer, config.batch_size)
        for part in own:
            journal.add(answer_chunk(config, contestant, sampler, prompts, part))
            advance(len(part))
        for other, part in foreign:
            keys = journal_keys(other, part)
            found = logprobs_under(
                config, contestant, sampler.lm, prompts, keys, [journal.records[key]["ids"] for key in keys]
            )
            journal.add(answer_record(key, first_logprob=value) for key, value in zip(keys, found, strict=True))
        del sampler
        gc.collect()
        torch.cuda.empty_cache()


def chunks(config: CompareConfig, prompts: int) -> Iterator[list[tuple[int, int]]]:
    """(prompt, sample) of the answers that are drawn together, the same whatever has been done before."""
    at_once = max(1, config.batch_size // config.samples)
    for start in range(0, prompts, at_once):
        numbers = range(start, min(start + at_once, prompts))
        yield [(number, sample) for number in numbers for sample in range(config.samples)]


def journal_keys(contestant: Contestant, part: list[tuple[int, int]]) -> list[Key]:
    """The journal's keys of a model's answers."""
    return [(contestant.number, *place) for place in part]


def measures_kl(config: CompareConfig, contestant: Contestant) -> bool:
    """Whether its distance from the first model can be measured: the same tokens, drawn at a temperature."""
    return contestant.number > 0 and contestant.same and config.temperature > 0


def answer_chunk(
    config: CompareConfig, contestant: Contestant, sampler: HFSampler, prompts: Prompts, part: list[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """The answers of a chunk, as the journal keeps them.

    The random numbers are those that `easyrlhf generate` draws with, the same for every model.
    """
    asked = [prompts.ids[contestant.number][number] for number, _ in part]
    samples = sampler.generate(asked, [(config.seed, *place) for place in part])
    ids = unpad(samples.completion_ids, samples.completion_mask)
    keys = journal_keys(contestant, part)
    own: list[float | None] = [None] * len(part)
    if measures_kl(config, contestant):
        own = logprobs_under(config, contestant, sampler.lm, prompts, keys, ids)
    for key, one, finished, logprob in zip(keys, ids, samples.finished.tolist(), own, strict=True):
        completion = as_completion(contestant.renderer, prompts.prompt(key[1]), one)
        text = completion if isinstance(completion, str) else completion[0]["content"]
        yield answer_record(key, ids=one, text=text, finished=finished, logprob=logprob)


def answer_record(key: Key, **fields: Any) -> dict[str, Any]:
    """A line of the journal."""
    return dict(zip(ANSWER_KEY, key, strict=True)) | fields


def logprobs_under(
    config: CompareConfig,
    contestant: Contestant,
    lm: nn.Module,
    prompts: Prompts,
    keys: list[Key],
    completions: list[list[int]],
) -> list[float]:
    """Log-probability of each completion under a model at the temperature of the sampling, summed over its tokens."""
    asked = [prompts.ids[contestant.number][number] for _, number, _ in keys]
    return tempered_sequence_logprobs(
        lm, asked, completions, contestant.renderer.pad_id, config.temperature, config.micro_batch_tokens
    )


@torch.no_grad()
def tempered_sequence_logprobs(
    lm: nn.Module,
    prompts: list[list[int]],
    completions: list[list[int]],
    pad_id: int,
    temperature: float,
    micro_batch_tokens: int | None,
) -> list[float]:
    """Log-probability of each completion given its prompt, summed over its tokens, nats."""
    device = next(lm.parameters()).device
    sums = torch.zeros(len(prompts), dtype=torch.float64)
    lengths = [len(prompt) + len(ids) for prompt, ids in zip(prompts, completions, strict=True)]
    for group in within_budget(lengths, pick_micro_batch_tokens(micro_batch_tokens, device)):
        input_ids, mask = join([prompts[i] for i in group], [completions[i] for i in group], pad_id)
        found = row_token_logprobs(lm, input_ids.to(device), mask.to(device), temperature).cpu().double()
        owners = torch.tensor(group).repeat_interleave(mask.sum(1))
        sums.index_add_(0, owners, found)
    return sums.tolist()
