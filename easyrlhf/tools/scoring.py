"""Scores of answers, for the commands that print or write them: one rule for the long, the cut off and the broken."""

import math
import threading
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.config import PolicyConfig, RewardModelConfig, ScoringConfig
from easyrlhf.data.chat_template import arguments_for, with_answer
from easyrlhf.data.records import Messages
from easyrlhf.data.tokenizer import tokenizer_fingerprint
from easyrlhf.engine.device import choose_threads, pick_dtype, pick_micro_batch_tokens, take_device
from easyrlhf.errors import InputError
from easyrlhf.models.folder import check_probes, load_scalar_model
from easyrlhf.models.load import load_config, positions_of
from easyrlhf.models.sequence_classifier import check_classifier, is_classifier
from easyrlhf.models.value_head import check_head_file
from easyrlhf.rewards.model import ScoringModel, score_sequences
from easyrlhf.run.manifest import read_stage, require_whole
from easyrlhf.run.renderers import own_renderer
from easyrlhf.tools.at_hand import at_hand


def longest(flag: str, path: str, config: PolicyConfig | RewardModelConfig) -> int | None:
    """Tokens that prompt and answer may have together: `max_length`, or what the model was made for; None: no limit.

    flag  the one that names the model
    Raises InputError when the model has no place for max_length.
    """
    folder = at_hand(flag, path, allow_incomplete=config.allow_incomplete)
    most = positions_of(folder, trust_remote_code=config.trust_remote_code)
    if most and config.max_length and config.max_length > most:
        raise InputError(
            f"--max_length {config.max_length}: {flag} {path} was made for {most} tokens at most; use --max_length "
            f"{most} or less"
        )
    return config.max_length or most


def scores_of(scorer: "Scorer", sequences: list[list[int]], limit: int | None) -> list[float | None]:
    """The score of each sequence; None for those longer than the limit, of which nothing is cut.

    Raises InputError when the model's scores are no numbers.
    """
    fitting = [i for i, ids in enumerate(sequences) if limit is None or len(ids) <= limit]
    found = score_sequences(scorer, [sequences[i] for i in fitting])
    if broken := sum(not math.isfinite(score) for score in found):
        raise InputError(
            f"the reward model scores {broken:,} of {len(found):,} answers NaN or infinite; train it again with a "
            "lower learning_rate, or give --precision float32"
        )
    scores: list[float | None] = [None] * len(sequences)
    for i, score in zip(fitting, found, strict=True):
        scores[i] = score
    return scores


def why_no_score(ids: list[int], limit: int) -> str:
    """Why a sequence has no score."""
    return f"{len(ids):,} tokens, more than {limit:,}"


TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")


MOST_DIGITS = 18


class BadRequest(ValueError):
    """A request that cannot be answered; the message says what it should hold.

    status  of the HTTP answer
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Scorer(ScoringModel):
    """Answers requests with a reward model, one at a time.

    tokenizer  fingerprint of its tokenizer and template
    limit      tokens that the model was made for; None: no limit
    """

    tokenizer: dict[str, str]
    limit: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: Any) -> dict[str, list]:
        """The answer to a request's JSON: scores, and where some are null, notes that say why. Raises BadRequest."""
        with self.lock:
            try:
                sequences = self.sequences(body)
            except InputError as error:  # a conversation that the template refuses
                raise BadRequest(str(error)) from error
            scores = scores_of(self, sequences, self.limit)
        if None not in scores:
            return {"scores": scores}
        both = zip(scores, sequences, strict=True)
        return {
            "scores": scores,
            "notes": [why_no_score(ids, self.limit) if one is None else None for one, ids in both],
        }

    def sequences(self, body: Any) -> list[list[int]]:
        """Prompt + completion of each row, in the model's tokens. Raises BadRequest."""
        prompts, completions = list_of(body, "prompts"), list_of(body, "completions")
        if len(prompts) != len(completions):
            raise BadRequest(f"{len(prompts)} prompts, but {len(completions)} completions: give one for each")
        finished = list_of(body, "finished", [True] * len(prompts), length=len(prompts))
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            check_text("prompts", place, prompt)
            check_text("completions", place, completion)
            if not isinstance(completion, str) and len(completion) != 1:
                raise BadRequest(f"completions[{place}]: must be one message, not {len(completion)}")
        given = template_arguments_asked(body, prompts)
        if body.get("tokenizer") == self.tokenizer and "completion_ids" in body:
            ids = list_of(body, "completion_ids", length=len(prompts))
            if not all(is_ids(one, len(self.renderer.tokenizer)) for one in ids):
                raise BadRequest("completion_ids: must hold a list of at least one token id for each prompt")
            ids = [self.renderer.ended(one) if end else one for one, end in zip(ids, finished, strict=True)]
            asked = map(self.renderer.prompt_ids, prompts, given)
            return [prompt + one for prompt, one in zip(asked, ids, strict=True)]
        rows = zip(prompts, completions, finished, given, strict=True)
        return [
            self.renderer.sequence(*with_answer(prompt, answer_text_of(completion)), bool(ended), arguments)
            for prompt, completion, ended, arguments in rows
        ]


def list_of(body: Any, name: str, default: list | None = None, *, length: int | None = None) -> list:
    """A list of the request. Raises BadRequest when it is not there, no list, or not of this length."""
    if not isinstance(body, dict):
        raise BadRequest('the request must be a JSON object: {"prompts": […], "completions": […]}')
    found = body.get(name, default)
    if not isinstance(found, list) or length not in (None, len(found)):
        raise BadRequest(f"{name}: must be a list{'' if length is None else f' of {length}, one for each prompt'}")
    return found


def template_arguments_asked(body: dict[str, Any], prompts: list) -> list[dict[str, Any] | None]:
    """What the columns of the request tell the chat template, for each prompt. Raises BadRequest."""
    columns = {name: list_of(body, name, [None] * len(prompts), length=len(prompts)) for name in TEMPLATE_COLUMNS}
    try:
        return [
            arguments_for(prompt, {name: column[place] for name, column in columns.items()})
            for place, prompt in enumerate(prompts)
        ]
    except InputError as error:
        raise BadRequest(str(error)) from error


def check_text(name: str, place: int, value: Any) -> None:
    """Raise BadRequest unless a prompt or completion is a string or a list of messages."""
    if isinstance(value, str):
        return
    if not isinstance(value, list) or not value or not all(map(is_message, value)):
        raise BadRequest(f'{name}[{place}]: must be a string or a list of messages {{"role": "user", "content": "…"}}')


def is_message(value: Any) -> bool:
    """Whether it has a role and a content, both texts."""
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def is_ids(value: Any, limit: int) -> bool:
    """Whether it is a list of token ids below the limit, at least one."""
    return isinstance(value, list) and bool(value) and all(type(i) is int and 0 <= i < limit for i in value)


def answer_text_of(completion: Messages | str) -> str:
    """The text of an answer."""
    return completion if isinstance(completion, str) else completion[0]["content"]


def reward_folder(config: ScoringConfig) -> str:
    """The folder of the settings' reward model; one made of a checkpoint where its run has not ended."""
    return at_hand("--reward_model", config.reward_model, allow_incomplete=config.allow_incomplete)


def load_scorer(config: ScoringConfig) -> Scorer:
    """The model of the settings, ready to answer. Raises InputError."""
    folder, trust = reward_folder(config), config.trust_remote_code
    device = take_device(config.devices)
    dtype = pick_dtype(config.precision, device)
    require_whole("--reward_model", folder, allow_incomplete=config.allow_incomplete)
    try:
        if is_classifier(folder, trust_remote_code=trust):
            check_classifier(folder, trust_remote_code=trust)
        else:
            hidden_size = load_config(folder, trust_remote_code=trust).get_text_config().hidden_size
            check_head_file(folder, hidden_size)
    except InputError as error:
        raise InputError(f"--reward_model {error}") from error
    renderer = own_renderer(folder, trust_remote_code=trust)
    tokenizer = renderer.tokenizer
    how = {"attn_implementation": config.attn_implementation, "trust_remote_code": trust}
    model = load_scalar_model(folder, tokenizer, dtype=dtype, **how).to(device).eval().requires_grad_(False)
    check_probes(model, read_stage(folder).get("probes", []), folder, dtype)
    choose_threads(device, sum(p.numel() for p in model.parameters()))
    tokens = pick_micro_batch_tokens(config.micro_batch_tokens, device)
    limit = positions_of(folder, trust_remote_code=trust)
    return Scorer(model, renderer, tokens, tokenizer_fingerprint(tokenizer), limit)
