"""Recognising formats and reading rows into records; data/README.md holds the samples."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from easyrlhf.data.faults import ContentFault, StructuralFault
from easyrlhf.data.formats import FORMATS, recognise, require_format, variant
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt
from easyrlhf.errors import InputError

README = Path(__file__).parents[2] / "data" / "README.md"
SKY = [{"role": "user", "content": "What colour is the sky?"}]
BRIEF = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def parse(row: dict, name: str | None = None):
    return FORMATS[name or recognise(row)].parse(row, "file:1", Counter())


def samples() -> list[tuple[str, dict]]:
    """(format, row) of every ```json block in data/README.md, by the heading above it."""
    found, heading = [], None
    for line in README.read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(r"### `(\w+)`", line):
            heading = match.group(1)
        elif line.startswith("{"):
            found.append((heading, json.loads(line)))
    return found


def demonstration(prompt, completion) -> Demonstration:
    return Demonstration(prompt, completion, {}, "file:1")


def comparison(prompt, chosen, rejected, margin=None) -> Comparison:
    return Comparison(prompt, chosen, rejected, margin, {}, "file:1")


# what each sample of data/README.md is to become, in the order of that page
RECORDS = [
    demonstration(SKY, [assistant("It is blue.")]),
    demonstration("The sky is", " blue."),
    demonstration([BRIEF, user("Hi")], [assistant("Hello!"), user("Name a colour."), assistant("Blue.")]),
    demonstration([BRIEF, user("Name a colour.")], [assistant("Blue.")]),
    demonstration([user("Translate into French.\ncat")], [assistant("chat")]),
    comparison(SKY, [assistant("It is blue.")], [assistant("It is green.")], 2.0),
    comparison(SKY, [assistant("It is blue.")], [assistant("It is green.")]),
    comparison("The sky is", " blue.", " green."),
    comparison("The sky is", " blue.", " green."),
    comparison([user("Name a colour.")], [assistant("Blue.")], [assistant("No.")]),
    Feedback(SKY, [assistant("It is green.")], False, {}, "file:1"),
    Feedback("The sky is", " blue.", True, {}, "file:1"),
    Prompt([user("What is 2 + 3?")], {"answer": "5"}, "file:1"),
    Prompt("2 + 3 =", {"answer": "5"}, "file:1"),
]


@pytest.mark.parametrize("sample, record", list(zip(samples(), RECORDS, strict=True)))
def test_every_sample_of_the_data_page_becomes_the_record_it_promises(sample, record):
    name, row = sample
    assert recognise(row) == name
    assert parse(row) == record
    assert parse(row, name) == record


def test_every_format_has_a_sample_on_the_data_page():
    assert {name for name, _ in samples()} == set(FORMATS)


def test_other_keys_become_columns():
    row = {"prompt": "a b", "chosen": "c", "rejected": "d", "margin": 1, "source": "x", "id": 7}
    assert parse(row).columns == {"source": "x", "id": 7}


@pytest.mark.parametrize(
    "chosen, rejected, expected",
    [
        ("The cat sat", "The car sat", ("The", " cat sat", " car sat")),  # never inside a word
        ("The sky", "The sky is blue", ("The", " sky", " sky is blue")),
        ("a  b", "a  c", ("a ", " b", " c")),
        ("a b", "ab", None),
    ],
)
def test_an_implicit_text_prompt_ends_before_the_word_where_the_answers_part(chosen, rejected, expected):
    row = {"chosen": chosen, "rejected": rejected}
    if expected is None:
        with pytest.raises(ContentFault, match="no prompt"):
            parse(row)
    else:
        assert parse(row) == comparison(*expected)


def test_turns_after_the_last_answer_are_left_out_and_counted():
    notes = Counter()
    row = {"messages": [user("Hi"), assistant("Hello!"), user("Bye")]}
    record = FORMATS["messages"].parse(row, "file:1", notes)
    assert record.completion == [assistant("Hello!")]
    assert notes == {"rows with turns after the last answer, left out": 1}


@pytest.mark.parametrize(
    "row, prompt",
    [
        ({"messages": [user("1"), assistant("2"), user("3"), assistant("4")]}, "last"),
        ({"prompt": [user("1")], "completion": [assistant("2")]}, "own"),
        ({"prompt": [user("1")], "chosen": [assistant("2")], "rejected": [assistant("3")]}, "own"),
        ({"prompt": [user("1")], "completion": [assistant("2")], "label": True}, "own"),
        ({"prompt": [user("1")]}, "own"),
    ],
)
def test_every_record_yields_its_prompt(row, prompt):
    expected = [user("1")] if prompt == "own" else [user("1"), assistant("2"), user("3")]
    assert parse({**row, "x": 1}).as_prompt() == Prompt(expected, {"x": 1}, "file:1")


STRUCTURAL = [
    ({"prompt": "a", "chosen": "b"}, "missing key 'rejected'; found keys prompt, chosen"),
    ({"prompt": "a", "chosen": "b", "reject": "c"}, "did you mean 'reject' to be 'rejected'?"),
    ({"prompt": "a", "chosen": "b", "rejected": None}, "key 'rejected' is null"),
    (
        {"prompt": "a", "chosen": "b", "rejected": 3},
        "expected a string or messages, found a number",
    ),
    ({"prompt": "a", "chosen": "b", "rejected": [assistant("c")]}, "a string and messages"),
    ({"prompt": SKY, "chosen": "b", "rejected": "c"}, "key 'chosen' is a string but 'prompt' is"),
    ({"prompt": SKY, "completion": "b"}, "key 'completion' is a string but 'prompt' is messages"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "1"}, "key 'margin': expected a nu"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": True}, "found true or false"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": float("nan")}, "a finite number"),
    ({"messages": "Hi"}, "key 'messages': expected a list of messages, found a string ('Hi')"),
    ({"messages": [user("Hi"), "Hello"]}, "key 'messages[1]': expected an object with 'role'"),
    ({"messages": [{"role": "user"}]}, "key 'messages[0]': missing key 'content'; found keys role"),
    (
        {"messages": [{"role": "user", "content": ["Hi"]}]},
        "key 'messages[0].content': expected a s",
    ),
    ({"messages": [{"role": "narrator", "content": "Hi"}]}, "unknown role 'narrator'"),
    ({"conversations": [user("Hi")]}, "key 'conversations[0]': missing key 'from'"),
    ({"instruction": "Hi"}, "missing key 'output'"),
    ({"prompt": [*SKY, assistant("It")]}, "the prompt ends with an assistant turn"),
    ({"prompt": SKY, "completion": [*SKY, assistant("b")]}, "the first turn is the user's"),
]


@pytest.mark.parametrize("row, said", STRUCTURAL)
def test_a_row_with_a_wrong_structure_is_told_key_found_and_expected(row, said):
    with pytest.raises(StructuralFault) as fault:
        parse(row)
    assert said in str(fault.value)


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"prompt": "a", "completion": " \n"}, "empty completion"),
        ({"messages": [user("Hi"), assistant("")]}, "empty completion"),
        ({"messages": [user("Hi")]}, "no assistant turn"),
        ({"messages": []}, "no assistant turn"),
        ({"messages": [assistant("Hi")]}, "no prompt before the answer"),
        ({"prompt": " ", "completion": "b"}, "no prompt before the answer"),
        ({"prompt": []}, "no prompt before the answer"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen equals rejected"),
        ({"chosen": "a b", "rejected": "a b"}, "chosen equals rejected"),
        ({"chosen": [user("Hi")], "rejected": [user("Hi")]}, "no assistant turn"),
        ({"prompt": SKY, "chosen": [user("a")], "rejected": [assistant("b")]}, "no assistant turn"),
        ({"instruction": "", "output": "b"}, "no prompt before the answer"),
        ({"instruction": "a", "output": ""}, "empty completion"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant:"},
            "empty completion",
        ),
    ],
)
def test_a_row_that_teaches_nothing_is_a_content_fault(row, reason):
    with pytest.raises(ContentFault) as fault:
        parse(row)
    assert fault.value.reason == reason


def test_what_is_no_object_or_has_no_known_key_is_not_recognised():
    assert [recognise(row) for row in ([], "a", None, {}, {"text": "a"})] == [None] * 5


def test_a_label_that_is_not_a_boolean_does_not_make_feedback():
    row = {"prompt": "a", "completion": "b", "label": 1}
    assert recognise(row) == "prompt_completion"
    with pytest.raises(StructuralFault, match="key 'label': expected true or false"):
        parse(row, "unpaired")


def test_forms_of_one_format_are_told_apart():
    assert variant("preference", {"prompt": "a", "chosen": "b"}) == "preference, standard"
    assert variant("preference", {"chosen": []}) == "preference, conversational, implicit prompt"
    assert variant("messages", {"messages": []}) == "messages"


def test_an_unknown_format_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown format 'sharegp'.*did you mean 'sharegpt'\?"):
        require_format("sharegp")
