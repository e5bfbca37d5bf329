"""Settings that decide how conversations are rendered, the same in stages and tools."""

import json
from typing import Any

from easyrlhf.config.base import DATA, SettingError, opt

# Parameters of apply_chat_template that decide what comes back, and what is given to the template itself.
RESERVED = {"conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"}
RESERVED |= {"sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
RESERVED |= {"return_assistant_tokens_mask", "tokenizer_kwargs"}


def chat_template_kwargs(whose: str = "the model's own") -> Any:
    """The setting `chat_template_kwargs`."""
    return opt(
        None,
        'Variables for the chat template, as a JSON object: \'{"reasoning_effort": "low"}\'. A row\'s own, in '
        "its column chat_template_kwargs, win. A stage keeps them with its model.",
        group=DATA,
        metavar="JSON",
        shown=whose,
        mapping=True,
    )


def enable_thinking(whose: str = "the model's own") -> Any:
    """The setting `enable_thinking`."""
    return opt(
        None,
        "The variable enable_thinking of the chat template, where it has one, as Qwen3's has.",
        group=DATA,
        choices=("true", "false"),
        shown=whose,
    )


def fold_system(whose: str = "the model's own, else off") -> Any:
    """The setting `fold_system`."""
    return opt(
        None,
        "Put a system turn at the beginning of the first user turn, a blank line between: for chat templates that "
        "refuse system turns or move them, as Gemma's and Mistral's do. A stage keeps it with its model.",
        group=DATA,
        shown=whose,
    )


def continue_final_message() -> Any:
    """The setting `continue_final_message`."""
    return opt(
        False,
        "A prompt may end with an assistant turn: the answer continues it. Without it such a prompt is refused.",
        group=DATA,
    )


def learned_answers() -> Any:
    """The setting `learn`."""
    return opt(
        "all",
        "Answers of a conversation that are learned: all, or the last one alone. Where the chat template rewrites "
        "earlier turns, all makes an example of each answer.",
        group=DATA,
        choices=("all", "last"),
    )


def template_kwargs(config) -> dict[str, Any]:
    """The variables for the chat template that the settings give. SettingError when they cannot be used."""
    text, thinking = config.chat_template_kwargs, config.enable_thinking
    try:
        found = json.loads(text) if text else {}
    except ValueError as error:
        raise SettingError("chat_template_kwargs", f"chat_template_kwargs {text}: is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise SettingError(
            "chat_template_kwargs",
            f"chat_template_kwargs {text}: must be a JSON object, such as '{{\"enable_thinking\": false}}'",
        )
    if taken := sorted(found.keys() & RESERVED):
        raise SettingError(
            "chat_template_kwargs", f"chat_template_kwargs {text}: '{taken[0]}' is not a variable of a template"
        )
    if thinking is None:
        return found
    value = thinking == "true"
    if found.get("enable_thinking", value) is not value:
        raise SettingError(
            "enable_thinking", f"enable_thinking {thinking}: chat_template_kwargs says otherwise; give one of the two"
        )
    return found | {"enable_thinking": value}
