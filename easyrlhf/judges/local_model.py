"""A language model in this process as a judge: its own chat template, its own log-probabilities."""

import json
from dataclasses import replace

import torch
from torch import Tensor

from easyrlhf.config import PolicyConfig
from easyrlhf.data.batches import join, within_budget
from easyrlhf.data.chat_template import folded
from easyrlhf.data.records import Messages
from easyrlhf.engine.device import pick_micro_batch_tokens
from easyrlhf.errors import InputError
from easyrlhf.judges.asking import Ask, Reply
from easyrlhf.judges.letters import VERDICTS, read_choice, read_verdict
from easyrlhf.judges.pairs import Opinion, Pair
from easyrlhf.judges.questions import pair_question
from easyrlhf.models.logprobs import predicting_states, tempered
from easyrlhf.online.rollout import unpad
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.tools.policy import load_sampler, read_renderer
from easyrlhf.tools.resumable import deciding_settings
from easyrlhf.tools.scoring import longest

# What decides nothing about a reply but its rounding.
LEFT_ASIDE = {"devices", "micro_batch_tokens", "allow_incomplete"}


class LocalModel:
    """The model of a folder. Weights are loaded when it is asked first.

    flag         the setting that names it
    temperature  what text is drawn at
    Raises InputError for a folder that cannot be used.
    """

    workers = 1

    def __init__(self, config: PolicyConfig, batch: int, flag: str, temperature: float):
        self.config, self.batch, self.own_temperature = config, batch, temperature
        self.renderer = read_renderer(config, flag)
        if not self.renderer.tokenizer.chat_template:
            raise InputError(
                f"{flag} {config.model}: has no chat template, so it cannot be asked; give a model that follows "
                "instructions"
            )
        self.limit = longest(flag, config.model, config)
        self._sampler: HFSampler | None = None
        self._variants: dict[str, list[int]] = {}

    @property
    def name(self) -> str:
        """The folder or hub id."""
        return self.config.model

    @property
    def model(self) -> str:
        """What tells it from others: the folder, and the state of the stage that wrote it."""
        return json.dumps(deciding_settings(self.config, LEFT_ASIDE, {"model": self.name}))

    @property
    def sampler(self) -> HFSampler:
        """What samples from it, with the model itself."""
        if self._sampler is None:
            self._sampler = load_sampler(self.config, self.renderer, self.batch)
        return self._sampler

    def at(self, temperature: float) -> HFSampler:
        """What samples from it at a temperature."""
        return replace(self.sampler, temperature=temperature)

    def replies(self, asks: list[Ask]) -> list[Reply]:
        """The replies. Where choices are asked for at no temperature, their log-probabilities are all there is."""
        ids = [self.prompt_ids(ask.messages) for ask in asks]
        found: list[Reply | None] = [None] * len(asks)
        ways: dict[float | None, list[int]] = {}  # temperature, None where it is read off, → who is asked that way
        for i, ask in enumerate(asks):
            if self.fits(ids[i], ask):
                ways.setdefault(None if self.reads(ask) else self.temperature(ask), []).append(i)
        for way, group in ways.items():
            asked = [asks[i] for i in group], [ids[i] for i in group]
            said = self.likeliest(*asked) if way is None else self.sampled(*asked, way)
            for i, reply in zip(group, said, strict=True):
                found[i] = reply
        return [reply or Reply("", finished=False) for reply in found]  # the question is too long for the model

    def reads(self, ask: Ask) -> bool:
        """Whether the answer is read from log-probabilities, and not written."""
        return bool(ask.choices) and ask.temperature is None

    def fits(self, ids: list[int], ask: Ask) -> bool:
        """Whether the model was made for a question of this length and its answer."""
        return self.limit is None or len(ids) + (1 if self.reads(ask) else self.config.max_new_tokens) <= self.limit

    def temperature(self, ask: Ask) -> float:
        """What an answer is drawn at."""
        return self.own_temperature if ask.temperature is None else ask.temperature

    def prompt_ids(self, messages: Messages) -> list[int]:
        """A question as the model reads it; a system turn goes into the user's, which every template knows."""
        return self.renderer.prompt_ids(folded(messages))

    @torch.no_grad()
    def likeliest(self, asks: list[Ask], ids: list[list[int]]) -> list[Reply]:
        """The log-probability of every token that is a choice, as the first token of an answer."""
        if not asks:
            return []
        lm, found = self.sampler.lm, [None] * len(asks)
        device = next(lm.parameters()).device
        budget = pick_micro_batch_tokens(self.config.micro_batch_tokens, device)
        for group in within_budget([len(one) + 1 for one in ids], budget):
            pad = self.renderer.pad_id
            input_ids, mask = join([ids[i] for i in group], [[pad]] * len(group), pad)
            hidden, before, _ = predicting_states(lm, input_ids.to(device), mask)
            logprobs = tempered(lm, hidden[before], 1.0).float().log_softmax(-1).cpu()
            for i, row in zip(group, logprobs, strict=True):
                found[i] = self.likely_reply(asks[i], row, len(ids[i]))
        return found

    def likely_reply(self, ask: Ask, logprobs: Tensor, length: int) -> Reply:
        """The choices' tokens with their log-probabilities, and the likeliest of them as what was said."""
        tokens = [token for choice in ask.choices for token in self.variants(choice)]
        if not tokens:
            return Reply("", tokens=length)
        values = logprobs[tokens].tolist()
        texts = [self.renderer.tokenizer.decode([token]) for token in tokens]
        said = texts[max(range(len(values)), key=values.__getitem__)]
        return Reply(said, tuple(zip(texts, values, strict=True)), length + 1)

    def variants(self, choice: str) -> list[int]:
        """The tokens that read as a choice."""
        if choice not in self._variants:
            decode, size = self.renderer.tokenizer.decode, len(self.renderer.tokenizer)
            special = set(self.renderer.tokenizer.all_special_ids)
            candidates = [i for i in range(size) if i not in special]
            self._variants[choice] = [i for i in candidates if read_choice(decode([i]), (choice,))]
        return self._variants[choice]

    def sampled(self, asks: list[Ask], ids: list[list[int]], temperature: float) -> list[Reply]:
        """Answers that are written, drawn from the questions' keys."""
        samples = self.at(temperature).generate(ids, [ask.key for ask in asks])
        said = unpad(samples.completion_ids, samples.completion_mask)
        rows = zip(ids, said, samples.finished.tolist(), strict=True)
        return [
            Reply(self.renderer.decode(answer).strip(), None, len(asked) + len(answer), finished)
            for asked, answer, finished in rows
        ]


class LocalJudge:
    """The model as a judge of pairs, whose opinion is read from its log-probabilities."""

    workers = 1

    def __init__(self, model: LocalModel):
        self.asked, self.name = model, model.name

    def __call__(self, pair: Pair) -> Opinion:
        """Its opinion."""
        [reply] = self.asked.replies([Ask("letter", pair_question(pair), VERDICTS)])
        return Opinion(read_verdict(reply).prefers_a, reply.said)
