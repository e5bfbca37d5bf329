"""Requests of OpenAI clients: what they may ask, and what they are told where they may not."""

import difflib
import re
import secrets
from dataclasses import dataclass
from typing import Any

from easyrlhf.config import ServeConfig
from easyrlhf.data.chat_template import opens, template_arguments
from easyrlhf.data.messages import messages
from easyrlhf.data.records import Messages
from easyrlhf.errors import InputError
from easyrlhf.rollout.shape import SamplingShape
from easyrlhf.serve.models import Served
from easyrlhf.web.refusals import Refusal
from easyrlhf.web.values import flag_value, number_within, whole_or_none, whole_within

MOST_LIKELIEST = 20  # top_logprobs
MOST_STOPS = 16
MOST_ANSWERS = 128  # n
SEEDS = 2**64
COLDEST = 1e-9  # a temperature below which logits divided by it are no numbers: the likeliest token is taken
PENALTIES = (0.01, 100)  # for the same reason

ANY = object()
# Keys that say something of the client and nothing of the answer.
ASIDE = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    "parallel_tool_calls",
)
# Keys that are not supported, with the values that change nothing.
NEUTRAL: dict[str, Any] = dict.fromkeys(ASIDE, ANY) | {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "min_p": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
SHARED = (
    *("model", "max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "stop", "seed", "n", "stream"),
    *("stream_options", "logprobs"),
)
CHAT_KEYS = (
    *("messages", *SHARED, "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "chat_template_kwargs"),
    *("continue_final_message", "add_generation_prompt"),
)
TEXT_KEYS = ("prompt", *SHARED)
TEXT_NEUTRAL: dict[str, Any] = NEUTRAL | {"echo": (False,), "best_of": (1,), "suffix": ("",)}


@dataclass(frozen=True)
class Asked:
    """A request that can be answered.

    prompts    token ids of each prompt
    likeliest  tokens whose log-probabilities are asked for beside the one drawn; None: no log-probabilities
    continues  whether the answer goes on with what the prompt ends with
    """

    model: Served
    prompts: list[list[int]]
    limits: list[int]
    temperature: float
    shape: SamplingShape
    stops: tuple[str, ...]
    seed: int
    n: int
    likeliest: int | None
    stream: bool
    include_usage: bool
    continues: bool


def chat_request(body: Any, models: dict[str, Served], config: ServeConfig) -> Asked:
    """What a request to /v1/chat/completions asks. Raises Refusal."""
    check_keys(body, CHAT_KEYS, NEUTRAL)
    model = model_of(body, models)
    continues = flag_value(body, "continue_final_message")
    if flag_value(body, "add_generation_prompt", not continues) is continues:
        raise Refusal(
            "add_generation_prompt: is true where an answer begins, and false with continue_final_message: true",
            param="add_generation_prompt",
        )
    turns = conversation_turns(body, continues)
    arguments = template_arguments_of(body, model)
    try:
        ids = model.prompt_ids(turns, arguments)
    except InputError as error:
        raise Refusal(str(error), param="messages") from error
    likeliest = whole_within(body, "top_logprobs", 0, MOST_LIKELIEST, None)
    wanted = flag_value(body, "logprobs")
    if likeliest is not None and not wanted:
        raise Refusal("top_logprobs: needs logprobs: true", param="top_logprobs")
    return shared_request(body, config, model, [ids], (likeliest or 0) if wanted else None, continues)


def text_request(body: Any, models: dict[str, Served], config: ServeConfig) -> Asked:
    """What a request to /v1/completions asks. Raises Refusal."""
    check_keys(body, TEXT_KEYS, TEXT_NEUTRAL)
    model = model_of(body, models)
    prompts = [prompt_ids_of(prompt, model) for prompt in prompts_of(body)]
    return shared_request(body, config, model, prompts, whole_within(body, "logprobs", 0, MOST_LIKELIEST, None), True)


def shared_request(
    body: dict, config: ServeConfig, model: Served, prompts: list[list[int]], likeliest: int | None, continues: bool
) -> Asked:
    """The part of a request that all kinds of them share. Raises Refusal."""
    stream = flag_value(body, "stream")
    n = whole_within(body, "n", 1, min(MOST_ANSWERS, config.max_waiting), 1)
    if n * len(prompts) > config.max_waiting:
        raise Refusal(f"n: {n} answers to {len(prompts)} prompts are more than {config.max_waiting}", param="n")
    shape = SamplingShape(
        number_within(body, "top_p", config.top_p, 0, 1),
        max(0, whole_within(body, "top_k", -1, None, config.top_k)),
        number_within(body, "repetition_penalty", config.repetition_penalty, *PENALTIES),
    )
    seed, temperature = whole_or_none(body, "seed"), number_within(body, "temperature", config.temperature, 0, 100)
    return Asked(
        model=model,
        prompts=prompts,
        limits=[limit_of(body, config, model, len(ids)) for ids in prompts],
        temperature=temperature if temperature >= COLDEST else 0.0,
        shape=shape,
        stops=stops_of(body),
        seed=secrets.randbelow(SEEDS) if seed is None else seed % SEEDS,
        n=n,
        likeliest=likeliest,
        stream=stream,
        include_usage=usage_wanted(body, stream),
        continues=continues,
    )


def check_keys(body: Any, known: tuple[str, ...], neutral: dict[str, Any]) -> None:
    """Raise Refusal for a body that is no object, and for keys that would change an answer and are not known."""
    if not isinstance(body, dict):
        raise Refusal('the request must be a JSON object, such as {"model": …, "messages": […]}')
    for key, value in body.items():
        if key in known or value is None:
            continue
        if key not in neutral:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else "leave it out"
            raise Refusal(f"{key}: is not supported by this server; {hint}", param=key, code="unknown_parameter")
        if neutral[key] is not ANY and value not in neutral[key]:
            allowed = " or ".join(map(repr, neutral[key]))
            raise Refusal(f"{key}: is not supported by this server but as {allowed}; leave it out", param=key)


def model_of(body: dict, models: dict[str, Served]) -> Served:
    """The model that a request names. Raises Refusal."""
    name, served = body.get("model"), ", ".join(models)
    if not isinstance(name, str):
        raise Refusal(f"model: must be the name of a model; this server has {served}", param="model")
    if name not in models:
        raise Refusal(
            f"model {name!r}: is not served here; this server has {served}",
            status=404,
            param="model",
            code="model_not_found",
        )
    return models[name]


def conversation_turns(body: dict, continues: bool) -> Messages:
    """The conversation, in the normal form. Raises Refusal."""
    try:
        turns = messages(body.get("messages"), "messages")
    except InputError as error:
        raise Refusal(str(error), param="messages") from error
    if not turns:
        raise Refusal("messages: is empty; give a turn of the user's", param="messages")
    if opens(turns) is not continues:
        rule = (
            "ends with an assistant turn; end with a user turn, or give continue_final_message: true"
            if not continues
            else "must end with the assistant turn that continue_final_message is to continue"
        )
        raise Refusal(f"messages: {rule}", param="messages")
    return turns


def template_arguments_of(body: dict, model: Served) -> dict[str, Any]:
    """What the chat template is told beside the turns. Raises Refusal for what it would not read."""
    choice = body.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise Refusal("tool_choice: 'auto' and 'none' alone are supported", param="tool_choice")
    own = {name: body[name] for name in ("tools", "chat_template_kwargs") if body.get(name) is not None}
    if choice == "none":
        own.pop("tools", None)
    try:
        arguments = template_arguments(own)
    except InputError as error:
        raise Refusal(str(error), param="tools" if "tools" in str(error) else "chat_template_kwargs") from error
    template = model.renderer.tokenizer.chat_template
    for name in arguments if isinstance(template, str) else ():
        if not re.search(rf"\b{re.escape(name)}\b", template):
            param = "tools" if name == "tools" else "chat_template_kwargs"
            what = "does not write tools" if name == "tools" else f"has no variable '{name}'"
            raise Refusal(f"{param}: the chat template of {model.id} {what}, so they would change nothing", param=param)
    return arguments


def prompts_of(body: dict) -> list[str | list[int]]:
    """The prompts of a request for texts: a text or token ids, or a list of such. Raises Refusal."""
    given = body.get("prompt")
    prompts = given if isinstance(given, list) and given and isinstance(given[0], str | list) else [given]
    for prompt in prompts:
        ids = isinstance(prompt, list) and all(type(number) is int for number in prompt)
        if not (isinstance(prompt, str) or ids) or not prompt:
            raise Refusal(
                "prompt: must be a text or a list of token ids, or a list of such, none of them empty", param="prompt"
            )
    return prompts


def prompt_ids_of(prompt: str | list[int], model: Served) -> list[int]:
    """Token ids of a text. Raises Refusal."""
    size = len(model.renderer.tokenizer)
    if isinstance(prompt, str):
        if ids := model.prompt_ids(prompt, None):
            return ids
        raise Refusal("prompt: has no token", param="prompt")
    if not all(0 <= number < size for number in prompt):
        raise Refusal(f"prompt: holds token ids that {model.id} has not; they are below {size}", param="prompt")
    return prompt


def limit_of(body: dict, config: ServeConfig, model: Served, length: int) -> int:
    """Most tokens of an answer to a prompt of so many. Raises Refusal when the model has no place for them."""
    names = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    given = [whole_within(body, name, 1, None, None) for name in names]
    if len(set(given)) > 1:
        raise Refusal("max_tokens: max_completion_tokens says otherwise; give one of the two", param="max_tokens")
    room = None if model.positions is None else model.positions - length
    if room is not None and room < 1:
        raise Refusal(
            f"the prompt has {length:,} tokens, which leave no place for an answer: {model.id} takes "
            f"{model.positions:,} tokens, prompt and answer together; shorten the prompt",
            param="messages" if "messages" in body else "prompt",
            code="context_length_exceeded",
        )
    if not given:
        return config.max_new_tokens if room is None else min(config.max_new_tokens, room)
    if room is not None and given[0] > room:
        raise Refusal(
            f"{names[0]} {given[0]:,}: the prompt has {length:,} tokens and {model.id} takes {model.positions:,}, "
            f"prompt and answer together; ask for {room:,} or less, or shorten the prompt",
            param=names[0],
            code="context_length_exceeded",
        )
    return given[0]


def stops_of(body: dict) -> tuple[str, ...]:
    """The texts that end an answer. Raises Refusal."""
    given = body.get("stop")
    texts = [] if given is None else [given] if isinstance(given, str) else given
    right = isinstance(texts, list) and all(isinstance(text, str) and text for text in texts)
    if not right or len(texts) > MOST_STOPS:
        raise Refusal(f"stop: must be a text or a list of up to {MOST_STOPS}, none of them empty", param="stop")
    return tuple(texts)


def usage_wanted(body: dict, stream: bool) -> bool:
    """Whether a stream is to end with what it has used. Raises Refusal."""
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream:
        raise Refusal("stream_options: belongs to stream: true", param="stream_options")
    if not isinstance(options, dict) or not options.keys() <= {"include_usage", "include_obfuscation"}:
        raise Refusal('stream_options: must be an object such as {"include_usage": true}', param="stream_options")
    return flag_value(options, "include_usage")
