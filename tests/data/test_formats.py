"""Recognising formats and reading rows into records; data/README.md holds the samples."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from easyrlhf.data.axolotl import SPELLINGS
from easyrlhf.data.formats import FORMATS, require_format
from easyrlhf.data.read_row import read_row, recognise, variant
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt, Ranking, answers_of
from easyrlhf.data.row_errors import ContentFault, StructuralFault
from easyrlhf.errors import InputError

README = Path(__file__).parents[2] / "data" / "README.md"
SKY = [{"role": "user", "content": "What colour is the sky?"}]
BRIEF = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def parse(row: dict, name: str | None = None):
    return read_row(name or recognise(row), row, "file:1", Counter()).record


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


def feedback(prompt, completion, label) -> Feedback:
    return Feedback(prompt, completion, label, {}, "file:1")


def ranking(prompt, completions, scores) -> Ranking:
    return Ranking(prompt, completions, scores, {}, "file:1")


@pytest.mark.parametrize(
    "null", ["prompt", "messages", "conversations", "chosen", "rejected", "completion", "question"]
)
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("q"), assistant("a")]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"instruction": "q", "output": "a"},
        {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        {"messages": [user("q")], "chosen": assistant("a"), "rejected": assistant("b")},
        {"conversations": [user("q")], "chosen": json.dumps(assistant("a")), "rejected": repr(assistant("b"))},
        {"instruction": "q", "chosen": "a", "rejected": "b"},
        {"conversations": [user("q"), assistant("a")], "kto_tag": True},
        {"prompt": [user("q")], "completion": [assistant("a")]},
    ],
)
def test_null_keys_of_other_formats_are_no_matter(row, null):
    expected = parse(row)
    assert expected.prompt == [user("q")]
    mixed = {null: None} | row
    for found in (mixed, dict(reversed(mixed.items()))):
        record = parse(found)
        assert (recognise(found), type(record)) == (recognise(row), type(expected))
        assert (record.prompt, answers_of(record)) == (expected.prompt, answers_of(expected))
        assert record.columns in ({}, {null: None})


@pytest.mark.parametrize(
    "row, said",
    [
        ({"prompt": "a", "completion": None, "messages": None}, "key 'completion' is null"),
        ({"prompt": [user("q")], "chosen": None, "rejected": None}, "key 'chosen' is null"),
        ({"prompt": None, "chosen": "It is red.", "rejected": "It is blue."}, "key 'prompt' is null"),
        ({"prompt": None, "completion": "a"}, "key 'prompt' is null"),
    ],
)
def test_a_null_of_its_own_format_is_a_fault_of_the_row(row, said):
    with pytest.raises(StructuralFault, match=said):
        parse(row)


def test_earlier_turns_may_stand_in_a_string():
    row = {"query": "q", "response": "a", "history": json.dumps([["q1", "a1"]])}
    assert parse(row) == demonstration([user("q1")], [assistant("a1"), user("q"), assistant("a")])
    with pytest.raises(StructuralFault, match="key 'history': expected a list"):
        parse(row | {"history": "[WP] A story"})


ASKED = [user("Name a colour.")]
BLUE, NO = [assistant("Blue.")], [assistant("No.")]
EARLIER = [user("Hi"), assistant("Hello!")]


# what each sample of data/README.md is to become, in the order of that page
def gym_prompts() -> list[Prompt]:
    """The records of the rows of NeMo Gym."""
    letter, warm = [row for name, row in samples() if name == "nemo_gym"]
    asked = [{"role": "developer", "content": "Answer with a letter."}, user("2 + 3? A: 5, B: 6")]
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": city}}
    beside = {"agent_ref": {"name": "mcqa_simple_agent"}, "expected_answer": "A", "nemo_gym_row": letter}
    tools = {"expected": 21, "tools": [tool], "nemo_gym_row": warm}
    return [Prompt(asked, beside, "file:1"), Prompt([user("How warm is it in Rome?")], tools, "file:1")]


RECORDS = [
    demonstration(SKY, [assistant("It is blue.")]),
    demonstration("The sky is", " blue."),
    demonstration([BRIEF, user("Hi")], [assistant("Hello!"), user("Name a colour."), assistant("Blue.")]),
    demonstration([BRIEF, user("Name a colour.")], [assistant("Blue.")]),
    demonstration([BRIEF, user("Hi")], [assistant("Hello!"), *ASKED, *BLUE]),
    demonstration([user("Translate into French.\ncat")], [assistant("chat")]),
    demonstration("", "The sky is blue."),
    comparison(SKY, [assistant("It is blue.")], [assistant("It is green.")], 2.0),
    replace(comparison(ASKED, BLUE, [assistant("Red, I think.")]), chosen_probability=0.75),
    comparison(SKY, [assistant("It is blue.")], [assistant("It is green.")]),
    comparison("The sky is", " blue.", " green."),
    comparison("The sky is", " blue.", " green."),
    comparison([user("Name a colour.")], [assistant("Blue.")], [assistant("No.")]),
    comparison(ASKED, BLUE, NO),  # ultra
    comparison([BRIEF, *ASKED], BLUE, NO),  # messages_pairs
    comparison(ASKED, BLUE, NO),
    comparison(ASKED, BLUE, NO, 2.0),  # swift
    comparison(ASKED, BLUE, NO),
    comparison([*EARLIER, *ASKED], BLUE, NO),
    comparison(ASKED, BLUE, NO),  # argilla
    comparison([BRIEF, user("Translate into French.\ncat")], [assistant("chat")], [assistant("chien")]),
    comparison([BRIEF, *ASKED], BLUE, NO),  # icr
    comparison(ASKED, BLUE, NO),  # intel
    comparison([BRIEF, *ASKED], BLUE, NO),  # prompt_pairs
    ranking(SKY, [[assistant("Green.")], [assistant("It is blue.")], [assistant("Red.")]], [1.0, 7.5, 1.0]),
    ranking("The sky is", [" blue.", " green."], [-1.0, -2.0]),
    ranking([user("Name a colour.")], [[assistant("No.")], [assistant("Blue.")]], [-2.0, -1.0]),
    ranking([user("Name a colour.")], [[assistant("Blue.")], [assistant("No.")]], [8.5, 2.0]),
    feedback(SKY, [assistant("It is green.")], False),
    feedback("The sky is", " blue.", True),
    feedback(ASKED, NO, False),  # argilla_kto
    feedback([BRIEF, *ASKED], BLUE, True),  # intel_kto
    feedback(ASKED, BLUE, True),  # argilla_chat_kto
    feedback(ASKED, NO, False),  # prompt_pairs_kto
    feedback(ASKED, NO, False),  # swift_kto
    Prompt([user("What is 2 + 3?")], {"answer": "5"}, "file:1"),
    Prompt("2 + 3 =", {"answer": "5"}, "file:1"),
    Prompt([BRIEF, *ASKED], {"answer": "blue"}, "file:1"),  # messages_prompt
    *gym_prompts(),
]


FORCED = {"prompt_pairs": "preference", "prompt_pairs_kto": "unpaired"}  # and what their rows look like


@pytest.mark.parametrize("sample, record", list(zip(samples(), RECORDS, strict=True)))
def test_every_sample_of_the_data_page_becomes_the_record_it_promises(sample, record):
    name, row = sample
    assert recognise(row) == FORCED.get(name, name)
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
    record = read_row("messages", row, "file:1", notes).record
    assert record.completion == [assistant("Hello!")]
    assert +notes == {"rows with turns after the last answer, left out": 1}


@pytest.mark.parametrize(
    "row, prompt",
    [
        ({"messages": [user("1"), assistant("2"), user("3"), assistant("4")]}, "last"),
        ({"prompt": [user("1")], "completion": [assistant("2")]}, "own"),
        ({"prompt": [user("1")], "chosen": [assistant("2")], "rejected": [assistant("3")]}, "own"),
        ({"prompt": [user("1")], "completion": [assistant("2")], "label": True}, "own"),
        ({"prompt": [user("1")], "completions": [[assistant("2")], [assistant("3")]], "ranks": [1, 2]}, "own"),
        ({"prompt": [user("1")]}, "own"),
    ],
)
def test_every_record_yields_its_prompt(row, prompt):
    expected = [user("1")] if prompt == "own" else [user("1"), assistant("2"), user("3")]
    assert parse({**row, "x": 1}).as_prompt() == Prompt(expected, {"x": 1}, "file:1")


def test_the_other_keys_of_a_ranking_become_columns():
    row = {"prompt": "a", "completions": ["b", "c"], "scores": [1, 2], "source": "x"}
    assert parse(row).columns == {"source": "x"}
    row = {"prompt": "\n\nHuman: a\n\nAssistant:", "answers": [{"answer": "b", "rank": 1}, {"answer": "c", "rank": 2}]}
    assert parse({**row, "turns": 1}).columns == {"turns": 1}
    row = {"instruction": "a", "completions": [{"response": x, "overall_score": ord(x)} for x in "bc"]}
    assert parse({**row, "source": "x"}).columns == {"source": "x"}


def test_a_nectar_prompt_of_several_turns_is_joined_as_in_hh():
    text = "\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nHuman: d\n\nAssistant: "
    row = {"prompt": text, "answers": [{"answer": "e", "rank": 2.0}, {"answer": "f", "rank": 1.0}]}
    notes = Counter()
    record = read_row("nectar", row, "file:1", notes).record
    assert record.prompt == [user("a\n\nb"), assistant("c"), user("d")]
    assert notes == {"rows with consecutive turns of one role joined": 1}


def test_what_only_looks_like_a_ranking_is_a_prompt_with_columns():
    assert recognise({"prompt": "a", "completions": ["b", "c"]}) == "prompt"
    assert recognise({"prompt": "a", "completions": 2, "scores": [1]}) == "prompt"
    assert recognise({"prompt": "a", "answers": ["b", "c"]}) == "prompt"


def test_a_comparison_becomes_two_feedbacks_or_a_ranking_of_two():
    record = parse({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2, "x": 1})
    assert record.as_feedbacks() == [
        Feedback("a", "b", True, {"x": 1}, "file:1"),
        Feedback("a", "c", False, {"x": 1}, "file:1"),
    ]
    assert record.as_ranking() == Ranking("a", ["b", "c"], [1.0, 0.0], {"x": 1}, "file:1")


def test_a_ranking_becomes_all_pairs_that_differ_in_score_and_text_weighing_one_together():
    record = parse({"prompt": "a", "completions": ["b", "c", "d", "c"], "scores": [1, 3, 1, 2], "x": 1})

    def pair(chosen, rejected):
        return Comparison("a", chosen, rejected, None, {"x": 1}, "file:1", 0.25)

    # not b with d (a tie), and not c with c
    assert record.as_comparisons() == [pair("c", "b"), pair("c", "d"), pair("c", "b"), pair("c", "d")]
    assert parse({"prompt": "a", "chosen": "b", "rejected": "c"}).weight == 1.0


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
        {"messages": [{"role": "user", "content": [3]}]},
        "key 'messages[0].content[0]': expected a part such as {'type': 'text', …}, found a number (3)",
    ),
    ({"messages": [{"role": "narrator", "content": "Hi"}]}, "unknown role 'narrator'"),
    ({"conversations": [{"value": "Hi"}]}, "key 'conversations[0]': missing key 'from'; found keys value"),
    ({"instruction": "Hi"}, "missing key 'output'"),
    ({"prompt": [*SKY, assistant("It")], "completion": [assistant("is")]}, "the prompt ends with an assistant turn"),
    ({"prompt": SKY, "completion": [*SKY, assistant("b")]}, "the first turn is the user's"),
    ({"prompt": "a", "completions": ["b", "c"], "scores": [1]}, "one number for each of the 2 completions, found 1"),
    ({"prompt": "a", "completions": ["b", "c"], "scores": 1}, "key 'scores': expected a list, found a number"),
    ({"prompt": "a", "completions": ["b", "c"], "ranks": [1, "2"]}, "key 'ranks[1]': expected a number"),
    ({"prompt": "a", "completions": ["b", "c"], "scores": [1, float("nan")]}, "key 'scores[1]': expected a finite"),
    ({"prompt": "a", "completions": ["b", "c"], "scores": [1, 2], "ranks": [1, 2]}, "both 'scores' and 'ranks'"),
    ({"prompt": "a", "completions": ["b", "c"], "scores": None}, "key 'scores' is null"),
    ({"prompt": "a", "completions": ["b", 3], "scores": [1, 2]}, "key 'completions[1]': expected a string or messag"),
    ({"prompt": "a", "completions": ["b", [assistant("c")]], "scores": [1, 2]}, "key 'completions[1]' is messages but"),
    ({"completions": [], "instruction": 3}, "key 'instruction': expected a string"),
    ({"question": "a", "chosen": "b"}, "missing key 'rejected'; found keys question, chosen"),
    ({"instruction": "a", "chosen_response": "b"}, "missing key 'rejected'"),
    ({"input": "a", "chosen": "b", "rejected": 3}, "key 'rejected': expected a string, found a number"),
    ({"question": "a", "system": 3, "chosen": "b", "rejected": "c"}, "key 'system': expected a string"),
    (
        {"prompt": "a", "chosen": [assistant("b")], "rejected": ["c"]},
        "key 'rejected[0]': expected an object with 'role'",
    ),
    ({"messages": SKY, "chosen": {"role": "assistant"}, "rejected": "c"}, "key 'chosen[0]': missing key 'content'"),
    ({"messages": [*SKY, assistant("b")], "chosen": "b", "rejected": "c"}, "the prompt ends with an assistant turn"),
    ({"messages": [*SKY, assistant("b")], "rejected_response": ["c"]}, "key 'rejected_response[0]': expected an obj"),
    (
        {"query": "a", "response": "b", "history": [["c"]]},
        "key 'history[0]': expected a question and its answer, found 1",
    ),
    ({"query": "a", "response": "b", "history": "c"}, "key 'history': expected a list, found a string"),
    (
        {"prompt": "\n\nHuman: a", "answers": [{"answer": "b", "rank": 1}, {"rank": 2}]},
        "key 'answers[1]': missing key 'answer'; found keys rank",
    ),
    (
        {"prompt": "\n\nHuman: a", "answers": [{"answer": "b", "rank": 1}, "c"]},
        "key 'answers[1]': expected an object with 'answer' and 'rank', found a string ('c')",
    ),
    (
        {"instruction": "a", "completions": [{"response": "b", "overall_score": "8"}]},
        "key 'completions[0].overall_score': expected a number",
    ),
]


@pytest.mark.parametrize("row, said", STRUCTURAL)
def test_a_row_with_a_wrong_structure_is_told_key_found_and_expected(row, said):
    with pytest.raises(StructuralFault) as fault:
        parse(row)
    assert said in str(fault.value)


PROMPTS_DIFFER = "chosen and rejected answer different prompts"


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"prompt": "a", "completion": " \n"}, "empty completion"),
        ({"messages": [user("Hi"), assistant("")]}, "empty completion"),
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
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("b")]}, PROMPTS_DIFFER),
        (
            {"chosen": [BRIEF, user("a"), assistant("b")], "rejected": [BRIEF, user("c"), assistant("d")]},
            PROMPTS_DIFFER,
        ),
        ({"question": "a", "chosen": "b", "rejected": "b"}, "chosen equals rejected"),
        ({"question": " ", "chosen": "b", "rejected": "c"}, "no prompt before the answer"),
        ({"input": "a", "chosen": "b", "rejected": ""}, "empty completion"),
        ({"messages": SKY, "rejected_response": "b"}, "no assistant turn"),
        ({"messages": [*SKY, assistant("b"), user("c")], "rejected_response": "b"}, "no assistant turn at the end"),
        ({"messages": [*SKY, assistant("b")], "rejected_messages": [user("?"), assistant("c")]}, PROMPTS_DIFFER),
        ({"messages": SKY, "label": True}, "no assistant turn"),
        ({"completion": [assistant("b")], "label": True}, "no prompt before the answer"),
        ({"prompt": "a", "completions": ["b"], "scores": [1]}, "fewer than two completions"),
        ({"prompt": "a", "completions": [], "scores": []}, "fewer than two completions"),
        ({"instruction": "a", "completions": []}, "fewer than two completions"),
        ({"prompt": "a", "completions": ["b", "c", "d"], "ranks": [2, 2, 2]}, "all ties"),
        ({"prompt": "a", "completions": ["b", "b"], "ranks": [1, 2]}, "all completions equal"),
        ({"prompt": "a", "completions": ["b", " "], "ranks": [1, 2]}, "empty completion"),
        ({"prompt": " ", "completions": ["b", "c"], "ranks": [1, 2]}, "no prompt before the answer"),
    ],
)
def test_a_row_that_teaches_nothing_is_a_content_fault(row, reason):
    with pytest.raises(ContentFault) as fault:
        parse(row)
    assert fault.value.reason == reason


def test_what_is_no_object_or_has_no_known_key_is_not_recognised():
    assert [recognise(row) for row in ([], "a", None, {}, {"texts": "a"})] == [None] * 5


@pytest.mark.parametrize(
    "said, liked", [(1, True), (0, False), (1.0, True), ("true", True), ("False", False), (" 0", False)]
)
@pytest.mark.parametrize("key", ["label", "kto_tag"])
def test_a_label_may_be_written_as_a_number_or_a_text(said, liked, key):
    row = {"prompt": "a", "completion": "b", key: said}
    assert parse(row) == feedback("a", "b", liked)


@pytest.mark.parametrize("said", [2, -1, 0.5, "good", ["true"]])
def test_any_other_label_is_no_label(said):
    row = {"prompt": "a", "completion": "b", "label": said}
    assert recognise(row) == "prompt_completion"
    with pytest.raises(StructuralFault, match=r"key 'label': expected true or false \(or 1, 0\), found "):
        parse(row, "unpaired")
    with pytest.raises(StructuralFault, match="key 'kto_tag': expected true or false"):
        parse({"prompt": "a", "completion": "b", "kto_tag": said})


def test_forms_of_one_format_are_told_apart():
    assert variant("preference", {"prompt": "a", "chosen": "b"}) == "preference, standard"
    assert variant("preference", {"chosen": []}) == "preference, conversational, implicit prompt"
    assert variant("ranking", {"prompt": [], "completions": []}) == "ranking, conversational"
    assert variant("messages", {"messages": []}) == "messages"


def test_whole_conversations_keep_their_earlier_turns_and_get_the_rows_system_text():
    history = [*EARLIER, *ASKED]
    row = {"prompt": "Hi", "system": "Be brief.", "chosen": history + BLUE, "rejected": history + NO}
    assert recognise(row) == "ultra"
    assert parse(row) == comparison([BRIEF, *history], BLUE, NO)
    single = {"prompt": "In one word?", "chosen": ASKED + BLUE, "rejected": ASKED + NO}
    assert parse(single).prompt == [user("In one word?")]
    assert parse({**single, "chosen": BLUE, "rejected": NO}) == comparison([user("In one word?")], BLUE, NO)
    assert parse({key: row[key] for key in ("chosen", "rejected")}, "ultra") == comparison(history, BLUE, NO)


def test_of_answers_that_are_lists_of_turns_the_last_counts_when_the_format_is_forced():
    row = {"messages": "Name a colour.", "chosen": ASKED + BLUE, "rejected": ASKED + NO}
    assert recognise(row) == "preference"
    assert parse(row, "messages_pairs") == comparison(ASKED, BLUE, NO)


def test_a_conversation_that_waits_for_an_answer_is_a_prompt_when_the_format_is_forced():
    row = {"messages": [*EARLIER, *ASKED]}
    assert recognise(row) == "messages"
    assert parse(row, "messages_prompt") == Prompt([*EARLIER, *ASKED], {}, "file:1")


@pytest.mark.parametrize(
    "more, name",
    [
        ({}, "preference"),
        ({"question": "a"}, "intel"),
        ({"input": "a"}, "icr"),
        ({"instruction": "a"}, "argilla"),
        ({"instruction": "a", "input": "b"}, "argilla"),
        ({"question": "a", "input": "b"}, "intel"),
        ({"messages": SKY}, "messages_pairs"),
        ({"prompt": "a", "question": "b", "messages": SKY, "instruction": "c"}, "preference"),
        ({"question": "a", "chosen": "\n\nHuman: a\n\nAssistant: b"}, "hh"),
        ({"question": "a", "chosen": [assistant("b")]}, "preference"),
    ],
)
def test_the_same_answers_are_told_apart_by_where_the_question_is(more, name):
    assert recognise({"chosen": "b", "rejected": "c", **more}) == name


@pytest.mark.parametrize(
    "theirs, paired, unpaired",
    [
        ("chatml.argilla", "argilla", "argilla_kto"),
        ("llama3.argilla_chat", "preference", "argilla_chat_kto"),
        ("chat_template.argilla_chat", "preference", "argilla_chat_kto"),
        ("llama3.icr", "icr", "icr"),
        ("chatml.intel", "intel", "intel_kto"),
        ("llama3.prompt_pairs", "prompt_pairs", "prompt_pairs_kto"),
        ("llama3.ultra", "ultra", "prompt_pairs_kto"),
        ("zephyr.nectar", "nectar", "nectar"),
        ("chat_template.default", "messages_pairs", "messages_pairs"),
        ("chat_template.argilla", "ultra", "ultra"),
        ("user_defined.default", None, None),
        ("hh", "hh", "hh"),
    ],
)
def test_axolotls_names_are_ours(theirs, paired, unpaired):
    assert require_format(theirs, "comparison") == require_format(theirs) == paired
    assert require_format(theirs, "feedback") == unpaired


def test_every_name_of_axolotls_leads_to_a_format():
    assert {name for pair in SPELLINGS.values() for name in pair} <= {*FORMATS, None}


def test_an_unknown_format_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown format 'sharegp'.*did you mean 'sharegpt'\?"):
        require_format("sharegp")
