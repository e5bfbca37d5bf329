"""Tools that the policy may call: described to the chat template, found in what it says, and called."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.data.records import Message
from easyrlhf.data.render import Renderer
from easyrlhf.data.templates import ANSWERS_READ, CHATML, LLAMA3
from easyrlhf.errors import InputError


@dataclass(frozen=True)
class Tools:
    """Functions that the policy may call, by name.

    schemas  how the chat template is told of them
    """

    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)
    schemas: list[dict[str, Any]] = field(default_factory=list)

    def parse(self, ids: list[int], before: list[int], renderer: Renderer) -> Message:
        """A turn of the policy as a message, with the calls that it holds; broken ones are text like any other.

        before  ids that the turn was sampled behind: templates begin answers, and a thought may be open
        """
        text = {"role": "assistant", "content": renderer.decode(ids)}
        if not self.schemas:
            return text
        from trl.chat_template_utils import parse_response

        if ids[-1] in renderer.ends and ids[-1] != renderer.end_of_turn_id:
            ids = ids[:-1]  # parsers know the template's own end of turn, and take another for text
        try:
            parsed = parse_response(renderer.tokenizer, ids, prefix=before, tools=self.schemas)
        except Exception:  # what is read was sampled: brackets without end, say, are more than a parser of JSON takes
            return text
        found = {name: parsed[name] for name in ("reasoning_content", "tool_calls") if parsed.get(name)}
        return text | {"content": parsed.get("content") or ""} | found if found else text


def described_tools(functions: dict[str, Callable[..., Any]], flag: str) -> list[dict[str, Any]]:
    """The schemas of these functions, from their signatures and docstrings. Raises InputError where one lacks them."""
    from transformers.utils import get_json_schema

    schemas = []
    for name, function in functions.items():
        try:
            schemas.append(get_json_schema(function))
        except Exception as error:  # a parser of docstrings may fail in any way
            raise InputError(
                f"{flag}: the tool {name} cannot be described to the model ({error}); give every parameter a type and "
                "the docstring a line for each, as in Google's style"
            ) from error
    return schemas


def enable_parsing(renderer: Renderer) -> None:
    """Let the tokenizer find calls in answers. Raises InputError for a chat template whose calls are not known."""
    tokenizer = renderer.tokenizer
    if getattr(tokenizer, "response_template", None) or getattr(tokenizer, "response_schema", None):
        return
    if (tokenizer.chat_template or "").endswith((CHATML, LLAMA3)):  # a BOS may stand before it
        tokenizer.response_template = ANSWERS_READ
        return
    from trl.chat_template_utils import add_response_schema

    try:
        add_response_schema(tokenizer)
    except ValueError as error:
        raise InputError(
            "tools are called in the form that a chat template has for them, and it is not known how this one writes "
            "calls; give --chat_template chatml or llama3, one of Qwen2.5, Qwen3, Llama 3.1 or another that trl knows, "
            "or set response_template in tokenizer_config.json"
        ) from error


def arguments_of(call: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a call. Raises ValueError for arguments that are no object."""
    function = call.get("function", call)  # a template may be read with or without it around name and arguments
    arguments = function.get("arguments") or {}
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        raise ValueError(f"arguments are {type(arguments).__name__}, not an object")
    return function["name"], arguments


def check_arguments(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Raise TypeError when a function does not take these arguments, or needs others besides."""
    inspect.signature(function).bind(**arguments)


def as_tool_text(result: Any) -> str:
    """What a tool gave, as the model reads it: texts as they are, anything else as JSON."""
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
