"""Turns of a conversation in the spellings that people have, and the one form that all of them become."""

import json
from collections import Counter

import pytest

from easyrlhf.data.messages import messages, role_of, unfolded
from easyrlhf.data.read_row import read_row, recognise
from easyrlhf.data.row_errors import ContentFault, StructuralFault

ASKED = {"role": "user", "content": "Weather in Bern?"}
WEATHER = {"type": "function", "function": {"name": "get_weather", "arguments": {"town": "Bern"}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [WEATHER]}
RAIN = {"role": "tool", "content": "rain"}
IT_RAINS = {"role": "assistant", "content": "It rains in Bern."}
ARGUMENTS = '{"town": "Bern"}'


def turn(**fields) -> dict:
    """What one turn becomes."""
    [found] = messages([fields], "messages")
    return found


@pytest.mark.parametrize(
    "spelled, role",
    [
        *[(name, "user") for name in ("user", "human", "Human", "USER", "prompter")],
        *[(name, "assistant") for name in ("assistant", "gpt", "Assistant", "chatgpt", "model", "bot", "GPT")],
        *[
            (name, "tool")
            for name in ("tool", "observation", "tool_response", "function", "ipython", "function_response")
        ],
        ("System", "system"),
        ("developer", "developer"),
    ],
)
@pytest.mark.parametrize(
    "role_key, content_key", [("role", "content"), ("from", "value"), ("from", "content"), ("role", "value")]
)
def test_roles_and_keys_are_mixed_freely(spelled, role, role_key, content_key):
    assert turn(**{role_key: spelled, content_key: "x"}) == {"role": role, "content": "x"}
    assert role_of({role_key: spelled}) == role


@pytest.mark.parametrize(
    "written",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "get_weather", "arguments": ARGUMENTS}}],
        },
        {"role": "assistant", "tool_calls": [{"type": "function", "function": WEATHER["function"]}]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([WEATHER])},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "get_weather", "parameters": {"town": "Bern"}}]},
        {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": ARGUMENTS}},
        {"from": "function_call", "value": '{"name": "get_weather", "arguments": {"town": "Bern"}}'},
        {"role": "tool_call", "content": '[{"name": "get_weather", "arguments": {"town": "Bern"}}]'},
    ],
)
def test_a_call_in_every_spelling_is_the_same_call(written):
    assert messages([written], "messages") == [CALLS]


def test_ids_of_calls_and_their_answers_are_kept():
    call = WEATHER | {"id": "c1"}
    assert turn(role="assistant", content="", tool_calls=[call])["tool_calls"] == [
        {"type": "function", "id": "c1"} | WEATHER
    ]
    answer = {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "get_weather"}
    assert turn(**answer) == answer


def test_calls_that_follow_an_answer_or_each_other_are_one_turn():
    written = [
        {"from": "gpt", "value": "I look."},
        *2 * [{"from": "function_call", "value": json.dumps(WEATHER["function"])}],
    ]
    assert messages(written, "conversations") == [
        {"role": "assistant", "content": "I look.", "tool_calls": 2 * [WEATHER]}
    ]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_thoughts_have_one_name(key):
    assert turn(role="assistant", content="4.", **{key: "Two and two."}) == {
        "role": "assistant",
        "content": "4.",
        "reasoning_content": "Two and two.",
    }


def test_text_parts_are_joined_and_a_thought_among_them_is_one():
    parts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "blue."}]
    assert turn(role="assistant", content=parts) == {"role": "assistant", "content": "It is blue."}
    parts = [{"type": "text", "value": "It is "}, {"text": "blue."}]  # the first as LLaMA-Factory writes it
    assert turn(role="assistant", content=parts) == {"role": "assistant", "content": "It is blue."}
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "output_text", "text": "Blue."}]
    assert turn(role="assistant", content=parts) == {
        "role": "assistant",
        "content": "Blue.",
        "reasoning_content": "Hm.",
    }
    assert turn(role="user", content=["Hi", {"text": "!"}]) == {"role": "user", "content": "Hi!"}


@pytest.mark.parametrize("switch", ["weight", "train", "training", "loss", "learn", "loss_weight", "trainable"])
@pytest.mark.parametrize("off, on", [(0, 1), (False, True), (0.0, 1.0), ("false", "true")])
def test_a_turn_that_is_switched_off_is_marked(switch, off, on):
    assert turn(role="assistant", content="x", **{switch: off}) == {
        "role": "assistant",
        "content": "x",
        "learned": False,
    }
    assert turn(role="assistant", content="x", **{switch: on}) == {"role": "assistant", "content": "x"}
    assert turn(role="user", content="x", **{switch: off}) == {"role": "user", "content": "x"}
    assert turn(role="assistant", content="x", **{switch: None}) == {"role": "assistant", "content": "x"}


@pytest.mark.parametrize(
    "fields, said",
    [
        (
            {"role": "assistant", "content": None},
            "key 'messages[0].content' is null; expected a text: only an assistant's",
        ),
        ({"role": "assistant"}, "key 'messages[0]': missing key 'content'; found keys role"),
        ({"from": "gpt"}, "key 'messages[0]': missing key 'value'; found keys from"),
        ({"content": "x"}, "key 'messages[0]': missing key 'role'; found keys content"),
        ({"role": None, "content": "x"}, "key 'messages[0].role' is null"),
        ({"role": 3, "content": "x"}, "key 'messages[0].role': expected a string, found a number (3)"),
        ({"role": "narrator", "content": "x"}, "unknown role 'narrator'; expected one of system, user, assistant"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
            "'messages[0].content[0]': a part of type 'image_url'",
        ),
        ({"role": "user", "content": [{"type": "image"}]}, "a part of type 'image'"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "expected a string in this part of type 'text'"),
        ({"role": "user", "content": {"a": 1}}, "key 'messages[0].content': expected a string or a list of text parts"),
        ({"role": "user", "content": "x", "images": ["a.png"]}, "key 'messages[0].images': holds a list (['a.png'])"),
        ({"role": "user", "content": "x", "audio": {"data": "…"}}, "key 'messages[0].audio': holds an object"),
        (
            {"role": "assistant", "content": "x", "weight": 0.5},
            "key 'messages[0].weight': expected true or false (or 1, 0)",
        ),
        (
            {"role": "user", "content": "x", "train": True},
            "key 'messages[0].train': asks to learn a turn of the user's",
        ),
        (
            {"role": "assistant", "content": "x", "train_detail": [1]},
            "key 'messages[0].train_detail': is not read; switch whole",
        ),
        ({"role": "assistant", "content": "x", "mask": True}, "key 'messages[0].mask': is not read"),
        (
            {"role": "assistant", "content": None, "refusal": "No."},
            "key 'messages[0].refusal': is not read; write the refusal",
        ),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"arguments": {}}]},
            "'messages[0].tool_calls[0]': expected a call with",
        ),
        (
            {"role": "assistant", "content": "", "tool_calls": "nonsense"},
            "key 'messages[0].tool_calls': expected a call",
        ),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "[1]"}]},
            "key 'messages[0].tool_calls[0].arguments': expected an object or its JSON, found a list",
        ),
        ({"from": "function_call", "value": "I call it"}, "key 'messages[0].value': expected a call"),
        ({"role": "user", "content": "x", "tool_calls": [WEATHER]}, "key 'messages[0]': a user turn with tool calls"),
        (
            {"role": "user", "content": "x", "tools": [WEATHER]},
            "key 'messages[0].tools': tools stand in the row's own key",
        ),
        (
            {"role": "assistant", "content": "x", "thinking": "a", "reasoning": "b"},
            "holds thoughts as reasoning and as thinking",
        ),
        ({"role": "tool", "content": "x", "tool_call_id": 3}, "key 'messages[0].tool_call_id': expected a string"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(fields, said):
    with pytest.raises(StructuralFault) as fault:
        turn(**fields)
    assert said in str(fault.value)


def test_messages_in_a_string_are_read_and_texts_that_only_begin_like_them_stay_texts():
    turns = [ASKED, IT_RAINS]
    assert unfolded(json.dumps(turns)) == unfolded(repr(turns)) == unfolded(f" {json.dumps(turns)}\n") == turns
    for text in (
        "[{",
        "[{'a': 1}]",
        '[{"role": "user"}]',
        "[]",
        "[1]",
        "[{]",
        "a [{",
        '[{"role": "x", "content": "y"}]',
    ):
        assert unfolded(text) == text
    assert unfolded(json.dumps(IT_RAINS)) == unfolded(repr(IT_RAINS)) == IT_RAINS
    for text in ('{"a": 1}', '{"role": "user"}', '{"role": "x", "content": "y"}', "{}", "{ a }"):
        assert unfolded(text) == text
    row = {"prompt": json.dumps([ASKED]), "chosen": repr([IT_RAINS]), "rejected": json.dumps(CALLS)}
    record = read_row(recognise(row), row, "f:1", Counter()).record
    assert (record.prompt, record.chosen, record.rejected) == ([ASKED], [IT_RAINS], [CALLS])


def demonstration(*turns: dict, **columns):
    notes = Counter()
    return read_row("messages", {"messages": list(turns), **columns}, "f:1", notes).record, +notes


def test_a_conversation_with_a_call_is_used_whole():
    record, notes = demonstration(ASKED, {**CALLS, "content": None}, RAIN, IT_RAINS, tools=[WEATHER])
    assert (record.prompt, record.completion, notes) == ([ASKED], [CALLS, RAIN, IT_RAINS], {})
    assert record.columns == {"tools": [WEATHER]}


def test_answers_that_are_switched_off_stay_in_the_completion_as_context():
    user, bad, good = (
        {"role": r, "content": c} for r, c in [("user", "?"), ("assistant", "BAD"), ("assistant", "good")]
    )
    record, _ = demonstration(user, bad | {"weight": 0}, user, good | {"weight": 1})
    assert record.completion == [bad | {"learned": False}, user, good]
    with pytest.raises(ContentFault, match="no turn to learn from"):
        demonstration(user, bad | {"train": False})
    row = {"prompt": [user], "chosen": [good | {"loss": False}], "rejected": [bad]}
    with pytest.raises(StructuralFault, match="key 'loss' switches off a turn of an answer that is judged as a whole"):
        read_row("preference", row, "f:1", Counter())
    row = {"prompt": [user, bad | {"loss": False}, user], "chosen": [good], "rejected": [bad]}
    assert read_row("preference", row, "f:1", Counter()).record.prompt == [user, bad, user]


def test_a_greeting_and_an_empty_answer_between_are_context():
    greets, asks = {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "?"}
    empty, answers = {"role": "assistant", "content": " "}, {"role": "assistant", "content": "4."}
    record, notes = demonstration(greets, asks, answers)
    assert (record.prompt, record.completion) == ([greets, asks], [answers])
    assert notes == {"rows that the assistant opens: its first turn is context": 1}
    record, notes = demonstration(asks, empty, asks, answers)
    assert record.completion == [empty | {"learned": False}, asks, answers]
    assert notes == {"rows with an empty answer before the last, which is context": 1}
    with pytest.raises(ContentFault, match="empty completion"):
        demonstration(asks, answers, asks, empty)


def test_answers_that_differ_in_a_call_or_a_thought_alone_differ():
    other = {"role": "assistant", "content": "", "tool_calls": [{"name": "get_time", "arguments": {}}]}
    thought = IT_RAINS | {"reasoning_content": "The tool said so."}
    for chosen, rejected in ((CALLS, other), (IT_RAINS, thought)):
        row = {"prompt": [ASKED], "chosen": [chosen], "rejected": [rejected]}
        assert read_row("preference", row, "f:1", Counter()).record.chosen == [chosen]
    same = {"prompt": [ASKED], "chosen": [CALLS], "rejected": [{**CALLS, "content": None}]}
    with pytest.raises(ContentFault, match="chosen equals rejected"):
        read_row("preference", same, "f:1", Counter())
