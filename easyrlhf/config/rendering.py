"""Settings that decide how conversations are rendered, the same in stages and tools."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from easyrlhf.config.base import DATA, Settings, opt
from easyrlhf.errors import SettingError

# Parameters of apply_chat_template that decide what comes back, and what is given to the template itself.
RESERVED = {"conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"}
RESERVED |= {"sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
RESERVED |= {"return_assistant_tokens_mask", "tokenizer_kwargs"}


@dataclass(kw_only=True, frozen=True)
class ChatTemplate(Settings):
    """The template of a model that has none."""

    group: ClassVar[str] = DATA
    whose: ClassVar[str] = "the model"  # where the defaults below come from

    chat_template: str | None = opt(
        None,
        "Template for a base model that has none: chatml, hh, llama3 or a Jinja file.",
        metavar="NAME|FILE",
        shown="{cls.whose}'s own",
    )


@dataclass(kw_only=True, frozen=True)
class TemplateVariables(Settings):
    """What a chat template is told."""

    group: ClassVar[str] = DATA
    whose: ClassVar[str] = "the model"
    may_continue: ClassVar[bool] = False  # whether a prompt may end with an assistant turn
    learned: ClassVar[str] = "all"  # which answers of a conversation are
    stop_texts: ClassVar[tuple[str, ...]] = ()  # what ends an answer beside the model's own end

    chat_template_kwargs: str | None = opt(
        None,
        'Variables for the chat template, as a JSON object: \'{"reasoning_effort": "low"}\'. A row\'s own, in '
        "its column chat_template_kwargs, win. A stage keeps them with its model.",
        metavar="JSON",
        shown="{cls.whose}'s own",
        mapping=True,
    )
    enable_thinking: str | None = opt(
        None,
        "The variable enable_thinking of the chat template, where it has one, as Qwen3's has.",
        choices=("true", "false"),
        shown="{cls.whose}'s own",
    )
    fold_system: bool | None = opt(
        None,
        "Put a system turn at the beginning of the first user turn, a blank line between: for chat templates that "
        "refuse system turns or move them, as Gemma's and Mistral's do. A stage keeps it with its model.",
        shown="{cls.whose}'s own, else off",
    )


@dataclass(kw_only=True, frozen=True)
class ChatRendering(TemplateVariables, ChatTemplate):
    """How conversations become text."""


@dataclass(kw_only=True, frozen=True)
class FinalTurn(Settings):
    """Whether an answer may have begun."""

    group: ClassVar[str] = DATA

    continue_final_message: bool = opt(
        False,
        "A prompt may end with an assistant turn: the answer continues it. Without it such a prompt is refused.",
    )

    @property
    def may_continue(self) -> bool:
        """Whether a prompt may end with an assistant turn."""
        return self.continue_final_message


@dataclass(kw_only=True, frozen=True)
class LearnedAnswers(Settings):
    """Which answers of a conversation are learned."""

    group: ClassVar[str] = DATA

    learn: str = opt(
        "all",
        "Answers of a conversation that are learned: all, or the last one alone. Where the chat template rewrites "
        "earlier turns, all makes an example of each answer.",
        choices=("all", "last"),
    )

    @property
    def learned(self) -> str:
        """Which answers of a conversation are learned."""
        return self.learn


def template_kwargs(config: TemplateVariables) -> dict[str, Any]:
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
