"""The named templates: all that a conversation holds, as texts by hand, and the marks that other programs learn by."""

import json

import pytest

from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"town": "Bern"}}}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "reasoning_content": "Ask.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "It rains."},
]
ONE = '<tool_call>\n{"name": "get_weather", "arguments": {"town": "Bern"}}\n</tool_call>'
DECLARED = (
    "Be brief.\n\nThese tools can be called, by one JSON object with name and arguments between <tool_call> and "
    f"</tool_call> for each call.\n<tools>\n{json.dumps(TOOL)}\n</tools>"
)
THOUGHT = "<think>\nAsk.\n</think>\n\n"


def renderer_of(folder, name: str) -> Renderer:
    return Renderer(load_tokenizer(str(folder), chat_template=name))


def text(renderer: Renderer, ids: list[int]) -> str:
    return renderer.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def learned(ids: list[int], mask: list[int]) -> list[int]:
    return [token for token, on in zip(ids, mask, strict=True) if on]


def test_chatml_writes_thoughts_calls_and_tools(base_folder):
    renderer = renderer_of(base_folder, "chatml")
    [(ids, mask)] = renderer.examples(TURNS[:2], TURNS[2:], {"tools": [TOOL]})
    assert text(renderer, ids) == (
        f"<|im_start|>system\n{DECLARED}<|im_end|>\n<|im_start|>user\nWeather?<|im_end|>\n"
        f"<|im_start|>assistant\n{THOUGHT}{ONE}\n{ONE}<|im_end|>\n<|im_start|>tool\nrain<|im_end|>\n"
        "<|im_start|>assistant\nIt rains.<|im_end|>"
    )
    assert text(renderer, learned(ids, mask)) == f"{THOUGHT}{ONE}\n{ONE}<|im_end|>It rains.<|im_end|>"
    alone = text(renderer, renderer.prompt_ids(TURNS[1:2], {"tools": [TOOL]}))
    assert alone.startswith("<|im_start|>system\nThese tools") and alone.count("system") == 1
    spoken = {"role": "assistant", "content": "See.", "tool_calls": [CALL]}
    assert text(renderer, renderer.completion_ids(TURNS[:2], [spoken])) == f"See.\n{ONE}<|im_end|>"


def test_llama3_writes_thoughts_calls_and_tools(base_folder):
    renderer = renderer_of(base_folder, "llama3")
    [(ids, mask)] = renderer.examples(TURNS[:2], TURNS[2:], {"tools": [TOOL]})

    def turn(role: str, says: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n{says}<|eot_id|>"

    assert text(renderer, ids) == (
        turn("system", DECLARED)
        + turn("user", "Weather?")
        + turn("assistant", f"{THOUGHT}{ONE}\n{ONE}")
        + turn("tool", "rain")
        + turn("assistant", "It rains.")
    )
    assert text(renderer, learned(ids, mask)) == f"{THOUGHT}{ONE}\n{ONE}<|eot_id|>It rains.<|eot_id|>"


def test_hh_writes_thoughts_and_says_what_it_cannot_write(base_folder):
    renderer = renderer_of(base_folder, "hh")
    thoughtful = {"role": "assistant", "content": "Rain.", "reasoning_content": "Ask."}
    assert text(renderer, renderer.completion_ids(TURNS[:2], [thoughtful])) == f" {THOUGHT}Rain.<|endoftext|>"
    with pytest.raises(InputError, match="the hh template cannot write tool calls"):
        renderer.completion_ids(TURNS[:2], TURNS[2:3])
    with pytest.raises(InputError, match="the hh template cannot write tools"):
        renderer.prompt_ids(TURNS[:2], {"tools": [TOOL]})
    with pytest.raises(InputError, match="found role tool"):
        renderer.prompt_ids([*TURNS[:2], TURNS[3]])


@pytest.mark.parametrize("name", ["chatml", "hh", "llama3"])
def test_other_programs_learn_what_ours_learns(base_folder, name):
    """transformers' own mask of the assistant's tokens, and TRL's two demands on a template for it."""
    from trl.chat_template_utils import has_generation_markers, is_chat_template_stop_token_trained

    renderer = renderer_of(base_folder, name)
    turns = [
        {"role": "user", "content": "A colour?"},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "It is."},
    ]
    how = {"return_assistant_tokens_mask": True, "return_dict": True}
    theirs = renderer.tokenizer.apply_chat_template(turns, **how)
    [(ids, mask)] = renderer.examples(turns[:1], turns[1:])
    assert text(renderer, learned(theirs["input_ids"], theirs["assistant_masks"])) == text(renderer, learned(ids, mask))
    assert has_generation_markers(renderer.tokenizer.chat_template)
    assert is_chat_template_stop_token_trained(renderer.tokenizer)
