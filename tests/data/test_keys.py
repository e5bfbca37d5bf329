"""What becomes of every key of a row: used, passed on, refused by name or named; the table of docs/data.md."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from easyrlhf.data.formats import FORMATS
from easyrlhf.data.keys import turns_in
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.messages import MESSAGE_KEYS
from easyrlhf.data.read_row import read_row, recognise, unfolded_row
from easyrlhf.data.reader import read_records
from easyrlhf.data.records import Demonstration, Prompt
from easyrlhf.data.row_errors import ContentFault, StructuralFault
from easyrlhf.data.sources import open_sources
from easyrlhf.errors import InputError

ROOT = Path(__file__).parents[2]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
BRIEF = {"role": "system", "content": "Be brief."}
# A key of each kind, with something in it.
KEYS = {
    "system": "Be brief.",
    "history": [["Hi", "Hello!"]],
    "tools": [TOOL],
    "chat_template_kwargs": {"enable_thinking": False},
    "images": ["a.png"],
    "reasoning": "Because.",
    "source": "x",
}


def samples() -> dict[str, dict]:
    """Format, and its form where it has two → the first sample of it on the data page."""
    found, name = {}, None
    for line in (ROOT / "data" / "README.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"### `(\w+)`", line):
            name = heading[1]
        elif line.startswith("{"):
            row = json.loads(line)
            plain = isinstance(read_row(name, row, "f:1", Counter()).record.prompt, str)
            found.setdefault(f"{name}, strings" if plain and name != "text" else name, row)
    return found


SAMPLES = samples()


def fate(form: str, key: str, kind: str | None) -> str:
    """What becomes of a key beside the texts of a sample; the code is asked."""
    name = form.split(",")[0]
    row = {name: value for name, value in SAMPLES[form].items() if name not in ("system", "history")}
    try:
        return read_row(name, row | {key: KEYS[key]}, "f:1", Counter(), kind).fates[key]
    except StructuralFault as fault:
        assert f"'{key}'" in str(fault)
        return "refused"


def table() -> str:
    """The table of docs/data.md, of what the code does."""
    lines = [f"| format | {' | '.join(f'`{key}`' for key in KEYS)} |", "|---" * (len(KEYS) + 1) + "|"]
    for form in SAMPLES:
        name = form.split(",")[0]
        kinds = ["prompt"] if FORMATS[name].record is Prompt else [None] if name == "text" else [None, "prompt"]
        cells = [" / ".join(dict.fromkeys(fate(form, key, kind) for kind in kinds)) for key in KEYS]
        lines.append(f"| `{name}`{form[len(name) :]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_of_the_docs_is_what_the_code_does():
    assert table() in (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), f"the table is now\n{table()}"


QUESTIONS = ("intel", "icr", "argilla", "prompt_pairs", "query_response", "alpaca", "ultrafeedback")
QUESTIONS += ("argilla_kto", "intel_kto", "prompt_pairs_kto")


@pytest.mark.parametrize("form", SAMPLES)
def test_each_cell_by_rule(form):
    name = form.split(",")[0]
    plain, demonstrates = "strings" in form or name == "text", FORMATS[name].record is Demonstration
    if name == "nemo_gym":  # the verifier's, whatever it is called
        found = {key: {fate(form, key, kind) for kind in (None, "prompt")} for key in KEYS}
        told = ("tools", "chat_template_kwargs")  # as columns they are the request's, for the chat template
        assert found == {key: {"used" if key in told else "passed"} for key in KEYS}
        return
    query = "query" in SAMPLES[form]
    for key in ("system", "tools", "chat_template_kwargs"):
        assert fate(form, key, None) == ("refused" if plain else "used")
    assert fate(form, "images", None) == "refused"
    assert fate(form, "source", None) == "named"
    assert fate(form, "history", None) == ("used" if name in QUESTIONS or query else "refused")
    answered = name in ("alpaca", "argilla_kto", "intel_kto", "prompt_pairs_kto") or query
    assert fate(form, "reasoning", None) == ("used" if answered else "refused" if demonstrates else "named")
    if name != "text":
        assert fate(form, "source", "prompt") == fate(form, "reasoning", "prompt") == "passed"


NO_TURNS = ("text", "nemo_gym")  # formats whose rows have no keys for turns beside their texts


@pytest.mark.parametrize("form", [form for form in SAMPLES if "strings" not in form and form not in NO_TURNS])
def test_a_system_text_tools_and_arguments_reach_every_conversational_format(form):
    name = form.split(",")[0]
    own = [key for key in ("system",) if key in SAMPLES[form]]
    row = {key: value for key, value in SAMPLES[form].items() if key not in own}
    bare = read_row(name, row, "f:1", Counter()).record
    first = bare.prompt[0]
    for key in ("system", "system_prompt", "system_message"):
        notes = Counter()
        record = read_row(name, row | {key: "Be brief."}, "f:1", notes).record
        assert record.prompt == (bare.prompt if first == BRIEF else [BRIEF, *bare.prompt])
        record = read_row(name, row | {key: "Be long."}, "f:1", notes).record
        if first == BRIEF:
            assert record.prompt == bare.prompt
            assert +notes == {"rows with a system key beside a system turn of their own, which is kept": 1}
    more = {"functions": json.dumps([TOOL]), "chat_template_kwargs": '{"a": 1}', "enable_thinking": True}
    for kind in (None, "prompt"):
        columns = read_row(name, row | more, "f:1", Counter(), kind).record.columns
        assert columns["tools"] == [TOOL]
        assert columns["chat_template_kwargs"] == {"a": 1, "enable_thinking": True}
        assert "functions" not in columns


@pytest.mark.parametrize(
    "row, said",
    [
        ({"system": 3}, "key 'system': expected a string or a list of text parts, found a number"),
        ({"system": "a", "system_prompt": "b"}, "keys system and system_prompt: hold two different system texts"),
        ({"tools": "nonsense"}, "key 'tools': expected a list of tools"),
        ({"tools": {"a": 1}}, "key 'tools': expected a list of objects, found an object"),
        ({"chat_template_kwargs": [1]}, "key 'chat_template_kwargs': expected an object of template arguments"),
        ({"enable_thinking": "no"}, "key 'enable_thinking': expected true or false, found a string"),
        ({"video": "a.mp4"}, "key 'video': holds a string ('a.mp4'), but easyrlhf trains on text"),
        ({"history": [["a", "b"]]}, "key 'history': earlier turns stand in the messages themselves"),
    ],
)
def test_a_key_that_changes_what_a_row_says_is_used_or_refused_by_name(row, said):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(StructuralFault) as fault:
        read_row("messages", {"messages": messages} | row, "f:1", Counter())
    assert said in str(fault.value)


def test_earlier_turns_of_a_question_are_in_its_prompt():
    row = {"instruction": "c", "output": "d", "history": [["a", "b"]], "system": "Be brief."}
    record = read_row("alpaca", row, "f:1", Counter()).record
    assert [turn["content"] for turn in record.prompt + record.completion] == ["Be brief.", "a", "b", "c", "d"]
    row = {"question": "c", "chosen": "d", "rejected": "e", "history": [["a", "b"]]}
    record = read_row("intel", row, "f:1", Counter()).record
    assert [turn["content"] for turn in record.prompt] == ["a", "b", "c"]


def test_a_conversation_that_ends_with_the_user_is_a_prompt_and_the_answer_at_the_end_of_another_is_a_column():
    user, bot = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    record = read_row("messages", {"messages": [user, bot, user], "x": 1}, "f:1", Counter(), "prompt").record
    assert record == Prompt([user, bot, user], {"x": 1}, "f:1")
    record = read_row("messages", {"messages": [user, bot, user, bot], "x": 1}, "f:1", Counter(), "prompt").record
    assert record == Prompt([user, bot, user], {"x": 1, "completion": [bot]}, "f:1", ("completion",))


@pytest.mark.parametrize(
    "row, held",
    [
        ({"prompt": "a", "completion": "b"}, {"completion": "b"}),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1}, {"chosen": "b", "rejected": "c", "margin": 1}),
        ({"instruction": "a", "input": "", "output": "b"}, {"output": "b"}),
        ({"query": "a", "response": "b"}, {"response": "b"}),
        ({"prompt": "a", "completion": "b", "label": True}, {"completion": "b", "label": True}),
        ({"prompt": "a", "completions": ["b", "c"], "scores": [1, 2]}, {"completions": ["b", "c"], "scores": [1, 2]}),
    ],
)
def test_the_answers_of_a_row_are_columns_where_prompts_are_read(row, held):
    record = read_row(recognise(row), row | {"x": 1}, "f:1", Counter(), "prompt").record
    assert (record.columns, record.answers) == ({"x": 1} | held, tuple(held))


def test_every_key_of_fuzzed_rows_is_used_passed_refused_or_named():
    random.seed(0)
    names = [*KEYS, "system_prompt", "audio", "id", "weight", "thinking", "template_kwargs", "x y", "messages", "text"]
    values = [*KEYS.values(), None, "", [], {}, 3, True, "a text", {"a": 1}]
    fields = ["id", "timestamp", "reasoning_content", "name", "weight", "images", "cache", "train_detail", "ts"]
    outcomes: Counter = Counter()
    for _ in range(2000):
        form = random.choice(list(SAMPLES))
        name, kind = form.split(",")[0], random.choice([None, "prompt"])
        row = json.loads(json.dumps(SAMPLES[form]))
        row = {key: random.choice(values) for key in random.sample(names, 3) if key not in row} | row
        for turn in [turn for value in row.values() for turn in turns_in(value)]:
            turn.update({key: random.choice(values) for key in random.sample(fields, 1)})
        seen = unfolded_row(row)
        try:
            found = read_row(name, row, "f:1", Counter(), kind)
        except StructuralFault as fault:
            assert re.search(r"keys? '?[\w\[\]. ]+", str(fault)) or "turn" in str(fault), str(fault)
            outcomes["refused"] += 1
            continue
        except ContentFault:
            continue
        assert found.fates.keys() == row.keys()
        outcomes.update(found.fates.values())
        record = found.record
        assert {key for key, what in found.fates.items() if what == "passed"} <= set(record.columns)
        named = {key for key, what in found.fates.items() if what == "named"}
        if not isinstance(record, Prompt):
            assert named == {key for key in found.unused if "[]." not in key}
        strange = {(k, f) for k, v in seen.items() if found.fates[k] == "used" for t in turns_in(v) for f in t}
        strange = {f"{key}[].{field}" for key, field in strange if field not in MESSAGE_KEYS}
        assert strange <= set(found.unused)
    assert min(outcomes[what] for what in ("used", "passed", "refused", "named")) > 100


@pytest.fixture
def read(tmp_path):
    """read(row, kind) -> the records of a file with this row."""

    def _read(row: dict, kind: str = "comparison", **how):
        file = tmp_path / "x.jsonl"
        file.write_text(json.dumps(row) + "\n")
        [source] = open_sources(str(file))
        settings = {"format": None, "on_bad_row": "stop"} | how
        return [r for r, _ in read_records(source, kind, Ledger("train", tmp_path / "bad.jsonl"), **settings)]

    return _read


PAIR = {"chosen": "I like red.", "rejected": "I like blue."}


@pytest.mark.parametrize(
    "key, text", [("query", "Which?"), ("context", "Which?"), ("problem", "2+2"), ("what_was_asked", "Which colour?")]
)
def test_a_prompt_is_not_guessed_from_two_answers_when_a_question_may_stand_elsewhere(read, key, text):
    with pytest.raises(InputError, match=rf"no prompt among the keys .*--field prompt={key}"):
        read({key: text, **PAIR})
    assert read({key: text, **PAIR}, format="preference")[0].prompt == "I like"


def test_keys_about_a_row_hold_no_question(read):
    for more in ({}, {"source": "some forum"}, {"id": "a b"}, {"score": 3}, {"tag": "x"}, {"chosen_model": "a b"}):
        assert read({**more, **PAIR})[0].prompt == "I like"


@pytest.mark.parametrize(
    "row, kind, hint",
    [
        (
            {"question": "Which?", "answer": "The red one."},
            "demonstration",
            "such as --field prompt=question,completion=answer",
        ),
        ({"problem": "2+2", "solution": "It is 4."}, "prompt", "such as --field prompt=problem, or choose"),
        (
            {"prompt": "Which one?", "response_0": "It is red.", "response_1": "It is blue.", "better_response_id": 0},
            "comparison",
            "name them, as in --field chosen=response_0,rejected=response_1",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "label": 2},
            "feedback",
            "x.jsonl:1: key 'label': expected true or false",
        ),
        ({"prompt": "a", "completion": "b", "label": None}, "feedback", "x.jsonl:1: key 'label' is null"),
        ({"text": "The sky is blue."}, "prompt", "holds texts without a prompt .*--field prompt=text"),
    ],
)
def test_rows_that_cannot_be_read_are_answered_with_a_way_out(read, row, kind, hint):
    with pytest.raises(InputError, match=hint):
        read(row, kind)


ASK = {"instruction": "When did it begin?", "output": "1999"}


@pytest.mark.parametrize("word", ["on", "Off", "high", True])
def test_a_word_that_switches_thinking_is_no_thought(read, word):
    for row in (ASK, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}):
        [found] = read({**row, "reasoning": word}, "demonstration")
        assert "reasoning_content" not in found.completion[0] and found.columns["reasoning"] == word


def test_thoughts_of_two_keys_are_one_or_refused(read):
    thoughts = {"reasoning": "Hm.", "thinking": "Hm."}
    assert read({**ASK, **thoughts}, "demonstration")[0].completion[0]["reasoning_content"] == "Hm."
    with pytest.raises(InputError, match="keys reasoning and thinking: hold different thoughts"):
        read({**ASK, **thoughts, "thinking": "Well."}, "demonstration")


def test_what_the_question_may_be_about_is_not_left_out(read):
    row = {**ASK, "context": "It began in Bern."}
    with pytest.raises(
        InputError, match=r"key 'context': its text stands nowhere .*\{context\} \{instruction\},context="
    ):
        read(row, "demonstration")
    [asked] = read({**row, "input": "Think:  It began\nin Bern. So?"}, "demonstration")
    assert asked.columns["context"] == "It began in Bern."
    assert read({**ASK, "context": "history"}, "demonstration")[0].columns["context"] == "history"
    assert read({"prompt": "When?", "context": "It began in Bern."}, "prompt")[0].columns["context"]


@pytest.mark.parametrize(
    "turns, message",
    [
        ([{"speaker": "user", "utterance": "Hi"}], r"\[0\]': missing key 'role'; found keys speaker, utterance"),
        (["Hi", "Hello"], r"\[0\]': expected an object with 'role' and 'content', found a string"),
        ([{"role": "alice", "content": "Hi"}], "unknown role 'alice'"),
    ],
)
def test_a_conversation_of_other_turns_is_answered_with_what_is_wrong_in_it(read, turns, message):
    with pytest.raises(InputError, match=message):
        read({"messages": turns}, "demonstration")


def test_a_message_a_row_is_no_text_to_be_learned(read):
    with pytest.raises(InputError, match="no known format; found keys id, text, role"):
        read({"id": "a", "text": "Who are you?", "role": "prompter"}, "demonstration")


@pytest.mark.parametrize(
    "row, kind, hint",
    [
        (
            {"system_prompt": "Be brief now.", "question": "Which one?", "response": "Red one."},
            "demonstration",
            "--field instruction=question,output=response,",
        ),
        ({"system": "You are it.", "chat": "USER: Hi there"}, "demonstration", r"\(or name the keys with --field, or"),
        ({"system_prompt": "Be brief.", "question": "Which one?", "response": "Red one."}, "comparison", "--field, or"),
        ({"conversation": [{"role": "user", "content": "a"}]}, "demonstration", "--field messages=conversation,"),
        (
            {"system": "Be brief.", "ask_me": "Which one?", "answer_a": "The red.", "answer_b": "The blue."},
            "comparison",
            "--field question=ask_me,chosen=answer_a,rejected=answer_b,",
        ),
    ],
)
def test_no_guess_makes_an_answer_of_a_system_text_or_a_question(read, row, kind, hint):
    with pytest.raises(InputError, match=hint):
        read(row, kind)


def test_what_a_ranked_answer_holds_beside_its_text_and_its_score_is_named():
    answers = [
        {"response": "red", "overall_score": 4.0, "custom_system_prompt": "Be brief.", "critique": "short"},
        {"response": "blue", "overall_score": 2.0, "custom_system_prompt": "Be kind.", "model": "m"},
    ]
    row = {"instruction": "Name a colour.", "completions": answers, "source": "x"}
    named = ["source", "completions[].critique", "completions[].custom_system_prompt", "completions[].model"]
    assert read_row("ultrafeedback", row, "f:1", Counter(), "ranking").unused == named
    assert read_row("ultrafeedback", row, "f:1", Counter(), "prompt").unused == []  # passed on as they are
    nectar = {
        "prompt": "\n\nHuman: q\n\nAssistant: ",
        "answers": [{"answer": a, "rank": r, "model": "m"} for a, r in (("a", 1), ("b", 2))],
    }
    assert read_row("nectar", nectar, "f:1", Counter(), "ranking").unused == ["answers[].model"]
