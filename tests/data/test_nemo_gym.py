"""Rows of NeMo Gym: what the policy is asked, and the row that the verifier gets."""

import json
from collections import Counter

import pytest

from easyrlhf.data.nemo_gym import WHOLE_ROW
from easyrlhf.data.read_row import read_row, recognise
from easyrlhf.data.row_errors import ContentFault, StructuralFault
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import InputError

USER = {"role": "user", "content": "Hi"}
CALL = {
    "type": "function_call",
    "call_id": "c1",
    "name": "add",
    "arguments": '{"a": 1}',
    "id": "fc",
    "status": "completed",
}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "2"}
ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}, "id": "c1"}
FLAT = {"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}, "strict": True}
NESTED = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}


def asked(given, **more):
    """The record of a row with this input."""
    row = {"responses_create_params": {"input": given} | more}
    return read_row("nemo_gym", row, "file:1", Counter(), "prompt").record


@pytest.mark.parametrize(
    "given, turns",
    [
        ("Hi", [USER]),
        ([USER], [USER]),
        ([USER | {"type": "message", "id": "m", "status": "completed"}], [USER]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "H"}, {"type": "input_text", "text": "i"}]}],
            [USER],
        ),
        ([{"role": "developer", "content": "Be brief."}, USER], [{"role": "developer", "content": "Be brief."}, USER]),
        (
            [
                USER,
                {"role": "assistant", "content": [{"type": "output_text", "text": "Hello", "annotations": []}]},
                USER,
            ],
            [USER, {"role": "assistant", "content": "Hello"}, USER],
        ),
        (
            [USER, CALL, RESULT],
            [
                USER,
                {"role": "assistant", "content": "", "tool_calls": [ADD]},
                {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "add"},
            ],
        ),
        (  # what the assistant thinks, says and calls is one turn
            [
                USER,
                {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}]},
                {"role": "assistant", "content": "Wait."},
                CALL,
                CALL | {"call_id": "c2"},
                RESULT,
            ],
            [
                USER,
                {
                    "role": "assistant",
                    "content": "Wait.",
                    "reasoning_content": "Hm.",
                    "tool_calls": [ADD, ADD | {"id": "c2"}],
                },
                {"role": "tool", "content": "2", "tool_call_id": "c1", "name": "add"},
            ],
        ),
    ],
    ids=["text", "messages", "items", "parts", "developer", "answered", "called", "thought"],
)
def test_the_input_becomes_the_turns_of_the_prompt(given, turns):
    assert asked(given).prompt == turns


def test_instructions_stand_before_the_input():
    assert asked("Hi", instructions="Be brief.").prompt == [{"role": "system", "content": "Be brief."}, USER]


def test_flat_tools_are_told_to_the_template_in_its_form_and_nested_ones_as_they_are():
    assert asked("Hi", tools=[FLAT, NESTED]).columns["tools"] == [NESTED, NESTED]
    assert "tools" not in asked("Hi", tools=None).columns


def test_arguments_of_the_template_stand_in_the_metadata():
    columns = asked("Hi", metadata={"chat_template_kwargs": '{"enable_thinking": false}'}).columns
    assert columns["chat_template_kwargs"] == {"enable_thinking": False}


BESIDE = {
    "messages": '[{"role": "user", "content": "x"}]',
    "prompt": None,
    "chosen": "a",
    "rejected": None,
    "completion": "b",
    "system": "Not for the policy.",
    "tools": ["not the policy's"],
    "images": ["x.png"],
    "history": [["a", "b"]],
    "context": "several words that stand nowhere",
    "ratio": 1.0,
    "é": [1, {"b": 2, "a": None}],
}


def test_every_other_key_is_kept_for_the_verifier_as_it_is(tmp_path, chatml_renderer):
    row = {"b": 1, "responses_create_params": {"input": [USER | {"type": "message"}], "temperature": 0.5}} | BESIDE
    assert recognise(row) == "nemo_gym"
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    settings = DataSettings(max_length=64, max_prompt_length=40, cache_dir=tmp_path / "cache")
    data = load_tokens(str(file), "prompt", chatml_renderer, settings)
    for number, found in enumerate(data.rows, 1):
        columns = json.loads(found["columns"])
        assert json.dumps(columns[WHOLE_ROW]) == json.dumps(row)  # order of keys, 1.0 and null too
        assert found["place"] == f"{file}:{number}"
        assert json.loads(found["prompt"]) == [USER]
        assert columns["context"] == BESIDE["context"] and "tools" not in columns
    assert data.summary.dropped == {}


def test_where_a_row_stands_is_no_part_of_what_it_says(tmp_path, chatml_renderer):
    digests = []
    for name in ("a", "b"):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps({"responses_create_params": {"input": "Hi"}}) + "\n")
        settings = DataSettings(max_length=64, max_prompt_length=40, cache_dir=tmp_path / name)
        digests.append(load_tokens(str(file), "prompt", chatml_renderer, settings).summary.sha256)
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    "request_, said",
    [
        ("Hi", "key 'responses_create_params': expected an object with 'input', found a string ('Hi')"),
        ({"messages": []}, "key 'responses_create_params': missing key 'input'; found keys messages"),
        ({"input": 3}, "key 'responses_create_params.input': expected a list, found a number (3)"),
        ({"input": ["Hi"]}, "key 'responses_create_params.input[0]': expected an object, found a string ('Hi')"),
        (
            {"input": [USER, {"type": "item_reference", "id": "x"}]},
            "key 'responses_create_params.input[1].type': unknown",
        ),
        ({"input": [{"role": "robot", "content": "x"}]}, "key 'responses_create_params.input[0].role': unknown role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "key 'responses_create_params.input[0].content[0]': a part of type 'input_image'",
        ),
        (
            {"input": "Hi", "tools": [{"type": "web_search"}]},
            "key 'responses_create_params.tools[0]': expected {\"type\":",
        ),
        ({"input": "Hi", "tools": {"name": "x"}}, "key 'responses_create_params.tools': expected a list"),
        (
            {"input": [USER, CALL | {"arguments": "{"}]},
            "key 'responses_create_params.input[1].tool_calls[0].arguments'",
        ),
    ],
    ids=["text", "no_input", "number", "texts", "reference", "role", "image", "search", "object", "arguments"],
)
def test_a_request_that_cannot_be_asked_is_refused_by_its_key(request_, said):
    with pytest.raises(StructuralFault) as fault:
        read_row("nemo_gym", {"responses_create_params": request_}, "file:1", Counter(), "prompt")
    assert str(fault.value).startswith(said)


def test_an_empty_input_asks_nothing():
    with pytest.raises(ContentFault, match="no prompt before the answer"):
        asked([])


def test_a_forced_format_says_what_is_missing():
    with pytest.raises(StructuralFault, match="missing key 'responses_create_params'; found keys prompt"):
        read_row("nemo_gym", {"prompt": "Hi"}, "file:1", Counter(), "prompt")


def test_they_are_no_rows_for_stages_that_learn_answers(tmp_path, chatml_renderer):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"responses_create_params": {"input": "Hi"}}) + "\n")
    settings = DataSettings(max_length=64, max_prompt_length=40, cache_dir=tmp_path / "cache")
    with pytest.raises(InputError, match="format nemo_gym"):
        load_tokens(str(file), "demonstration", chatml_renderer, settings)
