"""Models in Python: a policy that answers and a reward model that scores; docs/python.md."""

import copy
import difflib
import warnings
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch

from easyrlhf.config import PolicyConfig, RewardModelConfig
from easyrlhf.config.base import SAMPLING
from easyrlhf.config.peers.sampling import SAMPLES
from easyrlhf.config.suggestions import explain_keyword
from easyrlhf.data import fields as read
from easyrlhf.data.batches import join
from easyrlhf.data.chat_template import with_answer
from easyrlhf.data.records import Messages
from easyrlhf.data.row_errors import ContentFault, StructuralFault
from easyrlhf.errors import InputError, SettingError
from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.run.renderers import open_renderer
from easyrlhf.tools.answer_rows import GeneratedAnswer
from easyrlhf.tools.generate import answers_to
from easyrlhf.tools.policy import load_policy_lm, read_renderer, room_for_prompt, sampler_of
from easyrlhf.tools.scoring import load_scorer, longest, reward_folder, scores_of, why_no_score

Text = Messages | str
OF_AN_ANSWER = {setting.name for setting in PolicyConfig.grouped()[SAMPLING]} | {"seed"}


class Token(NamedTuple):
    """A token of a completion and its log-probability, in nats."""

    id: int
    text: str
    logprob: float


class Policy:
    """A language model in memory that answers prompts, as `easyrlhf generate` does.

    config    its settings, whose sampling settings hold for every call that does not change them
    renderer  its tokenizer and chat template
    lm        the model of transformers
    """

    def __init__(self, config: PolicyConfig):
        self.config = config
        self.renderer = read_renderer(config, "model")
        self.lm = load_policy_lm(config, self.renderer)

    def generate(
        self, prompts: Text | Iterable[Text], *, num_samples: int = 1, batch_size: int = 64, **settings: Any
    ) -> list[GeneratedAnswer]:
        """Answer prompts: `num_samples` answers to the first, then those to the second, and so on.

        prompts   texts, which are continued as they are, or conversations, lists of messages; or a single one
        settings  of the sampling, for this call: max_new_tokens, temperature, top_p, top_k, repetition_penalty, stop,
                  stop_finishes, seed
        An answer is what `easyrlhf generate` draws for a prompt of this number with these settings. `batch_size`
        answers are decoded together, which changes none of them. Raises InputError.
        """
        if foreign := [name for name in settings if name not in OF_AN_ANSWER]:
            raise SettingError(foreign[0], not_of_an_answer(foreign[0], settings[foreign[0]]))
        config = replace(self.config, **settings)
        for name, count in (("num_samples", num_samples), ("batch_size", batch_size)):
            if type(count) is not int or count < 1:
                raise SettingError(name, f"{name} {count!r}: takes a whole number, 1 or more")
        asked = texts_of(prompts, "prompts")
        renderer = copy.copy(self.renderer)
        renderer.stops = config.stop_texts
        ids = self._prompt_ids(config, asked)
        keys = [(config.seed, number, sample) for number in range(len(asked)) for sample in range(num_samples)]
        sampler = sampler_of(self.lm, config, renderer, batch_size)
        if not keys:
            return []
        each = [number for number in range(len(asked)) for _ in range(num_samples)]
        return answers_to(renderer, sampler, [asked[i] for i in each], [ids[i] for i in each], keys)

    def logprobs(self, prompt: Text, completion: Text, *, temperature: float = 1.0) -> list[Token]:
        """The log-probability of each token of a completion given its prompt, through the end-of-turn token.

        completion   a text, or messages: one of the assistant
        temperature  what the logits are divided by
        Raises InputError.
        """
        if temperature <= 0:
            raise SettingError("temperature", f"temperature {temperature}: must be greater than 0")
        asked, said = pair_of((prompt, completion), "completion")
        prompt_ids, [ids] = self.renderer.answers(asked, [said])
        limit = longest("model", self.config.model, self.config)
        if limit is not None and len(prompt_ids) + len(ids) > limit:
            raise InputError(f"completion: with its prompt {why_no_score([*prompt_ids, *ids], limit)}")
        device = next(self.lm.parameters()).device
        input_ids, mask = join([prompt_ids], [ids], self.renderer.pad_id)
        with torch.no_grad():
            found = row_token_logprobs(self.lm, input_ids.to(device), mask.to(device), temperature).tolist()
        tokens = self.renderer.tokenizer.convert_ids_to_tokens(ids)
        return [Token(*one) for one in zip(ids, tokens, found, strict=True)]

    def _prompt_ids(self, config: PolicyConfig, prompts: list[Text]) -> list[list[int]]:
        """Token ids of the prompts. Raises InputError for one that the template refuses or that leaves no room."""
        if self.renderer.tokenizer.chat_template and any(isinstance(prompt, str) for prompt in prompts):
            warnings.warn(plain(self.config.model), stacklevel=3)
        room, found = room_for_prompt(config), []
        for number, prompt in enumerate(prompts):
            try:
                ids = self.renderer.prompt_ids(prompt)
            except InputError as error:
                raise InputError(f"prompts[{number}]: {error}") from error
            if room is not None and len(ids) > room:
                raise InputError(
                    f"prompts[{number}]: {why_no_score(ids, room)}, which is the room that max_new_tokens "
                    f"{config.max_new_tokens} leaves; shorten it"
                )
            found.append(ids)
        return found


class RewardModel:
    """A reward model in memory that scores texts, as `easyrlhf score` does."""

    def __init__(self, config: RewardModelConfig):
        self.config = config
        self.limit = longest("reward_model", config.reward_model, config)
        self.renderer = open_renderer(reward_folder(config), config)
        self.scorer = load_scorer(config)

    def score(self, rows: Any) -> list[float]:
        """The score of each row; a single row gives a list of one.

        rows  texts as they are; conversations that end with the assistant's answer; or pairs (prompt, completion),
              whose completion is a text, the assistant's message or an Answer of Policy.generate
        Raises InputError, which names the row, for one that is none of these, or longer than the model can read.
        """
        whole = list(rows) if is_many(rows) else [rows]
        pairs = [pair_of(row, f"rows[{number}]") for number, row in enumerate(whole)]
        if self.renderer.tokenizer.chat_template and any(prompt and isinstance(prompt, str) for prompt, _ in pairs):
            warnings.warn(plain(self.config.reward_model), stacklevel=2)
        sequences = []
        for number, (row, (prompt, completion)) in enumerate(zip(whole, pairs, strict=True)):
            finished = row[1].finished if isinstance(row, tuple) and isinstance(row[1], GeneratedAnswer) else True
            try:
                sequences.append(self.renderer.sequence(prompt, completion, finished))
            except InputError as error:
                raise InputError(f"rows[{number}]: {error}") from error
            if self.limit is not None and len(sequences[-1]) > self.limit:
                raise InputError(
                    f"rows[{number}]: {why_no_score(sequences[-1], self.limit)}; shorten it or leave it out"
                )
        return scores_of(self.scorer, sequences, self.limit)


def load_policy(model: Any, **settings: Any) -> Policy:
    """Load a language model that answers: the folder of a stage or of an adapter, any checkpoint, or a hub id.

    settings  those of `easyrlhf chat`: adapter, chat_template, devices, precision, max_new_tokens, temperature…
    Raises InputError: SettingError for a setting, with the name that was probably meant.
    """
    config = PolicyConfig(model=model, **settings)
    if config.reward_model:
        raise SettingError(
            "reward_model", "reward_model: a policy scores nothing; load_reward_model(folder).score scores its answers"
        )
    return Policy(config)


def load_reward_model(reward_model: Any, **settings: Any) -> RewardModel:
    """Load a reward model: the folder of rm_train, or a sequence classifier with one label.

    settings  max_length, fold_system, devices, precision, micro_batch_tokens… of `easyrlhf score`
    Raises InputError: SettingError for a setting, with the name that was probably meant.
    """
    return RewardModel(RewardModelConfig(reward_model=reward_model, **settings))


def generate(
    model: Any, prompts: Text | Iterable[Text], *, num_samples: int = 1, batch_size: int = 64, **settings: Any
) -> list[GeneratedAnswer]:
    """Answers of a model to prompts, as Policy.generate gives them.

    model     a Policy, or what load_policy takes
    settings  those of Policy.generate, and of load_policy where the model is loaded here
    Raises InputError.
    """
    if isinstance(model, Policy):
        return model.generate(prompts, num_samples=num_samples, batch_size=batch_size, **settings)
    asked = texts_of(prompts, "prompts")  # before a model is loaded
    return load_policy(model, **settings).generate(asked, num_samples=num_samples, batch_size=batch_size)


def not_of_an_answer(name: str, value: Any) -> str:
    """Why generate does not take a keyword."""
    if name in {f.name for f in fields(PolicyConfig)}:
        return f"{name}: belongs to the model; give it to load_policy"
    if name in SAMPLES:
        return f"{name}: is no setting of generate; here it is num_samples"
    said = explain_keyword(name, PolicyConfig, value).replace(PolicyConfig.__name__, "generate")
    near = difflib.get_close_matches(name, ["num_samples", "batch_size"], 1, 0.8)
    return f"{said}; did you mean {near[0]}?" if near and ";" not in said else said


def plain(model: str) -> str:
    """What is said of texts for a model that reads conversations."""
    return (
        f"{model} has a chat template, and a text is read as it is, without it; a question to a chat model is "
        '[{"role": "user", "content": text}]'
    )


def is_many(value: Any) -> bool:
    """Whether a value holds several texts or conversations, and is not one itself."""
    if isinstance(value, str | tuple | dict) or not isinstance(value, Iterable):
        return False
    return not (isinstance(value, list) and value and isinstance(value[0], dict))


def texts_of(value: Any, name: str) -> list[Text]:
    """Texts and conversations that were given, checked. Raises InputError, which names the first that is neither."""
    return [text_of(one, f"{name}[{i}]") for i, one in enumerate(value if is_many(value) else [value])]


def text_of(value: Any, name: str, check: Any = read.check_question) -> Text:
    """A text or a conversation, checked. Raises InputError."""
    try:
        found = read.text_or_messages(value, name)
        check(found)
    except (StructuralFault, ContentFault) as fault:
        raise InputError(str(fault) if str(fault).startswith("key ") else f"{name}: {fault}") from fault
    return found


def pair_of(row: Any, name: str) -> tuple[Text, Text]:
    """Prompt and completion of a row to score; a text has an empty prompt. Raises InputError."""

    def ends(turns: Text) -> None:
        read.check_completion(turns if isinstance(turns, str) else read.last_answer(turns)[1], name)

    if not isinstance(row, tuple):
        found = text_of(row, name, ends)
        return ("", found) if isinstance(found, str) else (found[:-1], found[-1:])
    if len(row) != 2:
        raise InputError(f"{name}: expected a pair of prompt and completion, found {len(row)} items")
    prompt, completion = text_of(row[0], f"{name}[0]"), row[1]
    if isinstance(completion, GeneratedAnswer):
        return with_answer(prompt, completion.text)
    completion = text_of(completion, f"{name}[1]", ends)
    if isinstance(completion, str):
        return with_answer(prompt, completion)
    if isinstance(prompt, str):
        raise InputError(f"{name}: the completion is messages, but the prompt is a text; use one form")
    return prompt, completion
