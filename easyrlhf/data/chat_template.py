"""Conversations as the chat template gets them, and the settings that decide how."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.config.rendering import RESERVED
from easyrlhf.data.encode import Encoder
from easyrlhf.data.messages import SYSTEM
from easyrlhf.data.records import Messages
from easyrlhf.errors import InputError


@dataclass(frozen=True)
class Rendering:
    """How conversations are rendered, beside the template itself.

    template_kwargs         variables that the template gets; a row's own win
    fold_system             a system turn goes into the first user turn
    continue_final_message  a prompt may end with an assistant turn, which the answer continues
    learn                   which answers of a demonstration: all, or the last of each row
    """

    template_kwargs: dict[str, Any] = field(default_factory=dict)
    fold_system: bool = False
    continue_final_message: bool = False
    learn: str = "all"

    def as_dict(self) -> dict[str, Any]:
        """What a folder keeps, for those who read it: the settings that belong to the model, not to the data."""
        return {"chat_template_kwargs": self.template_kwargs, "fold_system": self.fold_system}


def template_arguments(columns: dict[str, Any]) -> dict[str, Any]:
    """What a row's columns say to the chat template: its tools, and variables of its own.

    Raises InputError for columns of these names that are something else.
    """
    tools, own = columns.get("tools") or [], columns.get("chat_template_kwargs") or {}
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError("key 'tools': expected a list of objects, each of which describes a tool")
    if not isinstance(own, dict):
        raise InputError(f"key 'chat_template_kwargs': expected an object, found {type(own).__name__}")
    check_template_kwargs(own)
    return ({"tools": tools} if tools else {}) | own


def arguments_for(prompt: Messages | str, columns: dict[str, Any]) -> dict[str, Any] | None:
    """What a row tells the chat template of a conversation; None for a plain text, which has none."""
    return None if isinstance(prompt, str) else template_arguments(columns)


def check_template_kwargs(kwargs: dict[str, Any]) -> None:
    """Raise InputError for names that no variable of a template can have."""
    if taken := sorted(kwargs.keys() & RESERVED):
        raise InputError(f"chat_template_kwargs: '{taken[0]}' is not a variable of a template; remove it")


def opens(prompt: Messages | str) -> bool:
    """Whether a prompt ends with an assistant turn, which the answer is to continue."""
    return not isinstance(prompt, str) and bool(prompt) and prompt[-1]["role"] == "assistant"


def with_answer(prompt: Messages | str, text: str) -> tuple[Messages | str, Messages | str]:
    """A prompt and what was said to it, each as the data would have them.

    White space around a turn is not part of it, as templates put their own; a turn that the prompt began, or its
    thought, is one turn with what continues it.
    """
    if isinstance(prompt, str):
        return prompt, text
    if not opens(prompt):
        return prompt, [{"role": "assistant", "content": text.strip()}]
    begun = prompt[-1]
    if begun.get("reasoning_content") and not begun["content"]:
        thought, _, text = text.partition("</think>")
        begun = {**begun, "reasoning_content": (begun["reasoning_content"] + thought).rstrip()}
    return prompt[:-1], [{**begun, "content": (begun["content"] + text).strip()}]


def folded(turns: Messages) -> Messages:
    """The turns with each system turn at the beginning of the next user turn, a blank line between.

    Where no user turn follows it becomes one.
    """
    found: Messages = []
    waiting: list[str] = []
    for turn in turns:
        if turn["role"] in SYSTEM:
            waiting.append(turn["content"])
        elif turn["role"] == "user" and waiting:
            found.append({**turn, "content": "\n\n".join([*waiting, turn["content"]])})
            waiting = []
        else:
            found.append(turn)
    return [*found, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else found


class Template:
    """The chat template of one tokenizer, which writes conversations as text.

    Special tokens in the strings of a row are marked (see Encoder.marked) before the template gets them.
    """

    def __init__(self, encoder: Encoder, rendering: Rendering):
        self.encoder, self.rendering = encoder, rendering
        self._last_opening: tuple[str, str] = "", ""

    def opening(self, turns: Messages, arguments: dict | None) -> str:
        """The rendering up to where an answer begins; kept, since both answers of a pair ask."""
        key = repr((turns, arguments))  # not ==, which takes 1 for true, and orders of keys for equal
        if key != self._last_opening[0]:
            self._last_opening = key, self.text(turns, arguments, answer_next=True)
        return self._last_opening[1]

    def open_answer(self, turns: Messages, arguments: dict | None) -> str:
        """The rendering of turns whose last one, the assistant's, is not ended."""
        last = turns[-1]
        key = "reasoning_content" if last.get("reasoning_content") and not last["content"] else True
        try:
            return self.text(turns, arguments, continue_final_message=key)
        except InputError as error:
            raise InputError(
                "the chat template does not write the last assistant turn as it is (it leaves out thoughts, say), so "
                "that turn cannot be continued; shorten it, or end the prompt with a user turn"
            ) from error

    def text(self, turns: Messages, arguments: dict | None = None, *, answer_next: bool = False, **how) -> str:
        """The template's text. Raises InputError when there is no template, or it refuses the conversation."""
        tokenizer = self.encoder.tokenizer
        if not tokenizer.chat_template:
            raise InputError(
                "a conversation needs a chat template and this tokenizer has none; "
                "give one with --chat_template chatml|hh|llama3|PATH"
            )
        own = self.encoder.marked(arguments or {})
        how = {**self.rendering.template_kwargs, **own, "add_generation_prompt": answer_next, **how}
        error = None
        for form in self.forms(turns):
            try:
                text = tokenizer.apply_chat_template(form, tokenize=False, **how)
            except Exception as raised:  # a template is a program: it may fail in any way
                error = error or raised
                continue
            if not any(python in text for python in python_texts(form)):
                return text
        raise self.refusal(turns, error) from error

    def forms(self, turns: Messages) -> Iterator[Messages]:
        """The turns as templates may want them: arguments of tool calls as objects, or else as JSON text."""
        turns = folded(turns) if self.rendering.fold_system else turns
        shown = [{k: v for k, v in turn.items() if k != "learned"} for turn in turns]
        marked = [self.encoder.marked(turn, thinks=turn["role"] == "assistant") for turn in shown]
        yield marked
        if any(turn.get("tool_calls") for turn in turns):
            yield [with_text_arguments(turn) for turn in marked]

    def refusal(self, turns: Messages, error: Exception | None) -> InputError:
        """What is said of a conversation that the template does not write."""
        roles = ", ".join(turn["role"] for turn in turns)
        message = f"the chat template refuses this conversation ({error or 'it writes tool calls as Python objects'}); "
        message += f"its roles: {roles}"
        if not self.rendering.fold_system and any(turn["role"] in SYSTEM for turn in turns):
            message += "; --fold_system puts a system turn into the first user turn"
        return InputError(message)


def python_texts(turns: Messages) -> list[str]:
    """How Python writes the arguments of the tool calls, where JSON is written otherwise."""
    calls = [call["function"]["arguments"] for turn in turns for call in turn.get("tool_calls") or []]
    objects = [arguments for arguments in calls if isinstance(arguments, dict) and arguments]
    return [str(one) for one in objects if str(one) != json.dumps(one, ensure_ascii=False)]


def with_text_arguments(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn with the arguments of its tool calls as JSON text."""
    if not turn.get("tool_calls"):
        return turn
    calls = []
    for call in turn["tool_calls"]:
        arguments = call["function"]["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": text}})
    return {**turn, "tool_calls": calls}
