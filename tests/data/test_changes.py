"""What --field and --transform make of a row, and what they say when they cannot."""

import re

import pytest

from easyrlhf.data.row_errors import StructuralFault
from easyrlhf.data.row_transform import RowTransform
from easyrlhf.data.sources import open_sources
from easyrlhf.errors import InputError

ROW = {"question": "How?", "good": "So.", "bad": "No.", "n": 3, "two words": "x", "tags": ["a"]}


def named(fields: str) -> dict:
    (row,) = RowTransform.parse(fields).apply(ROW)
    return row


def test_a_key_that_is_named_moves_and_the_others_stay():
    assert named("prompt=question, chosen=good") == {
        "prompt": "How?", "chosen": "So.", "bad": "No.", "n": 3, "two words": "x", "tags": ["a"]
    }  # fmt: skip
    assert named("good=bad,bad=good") == {**ROW, "good": "No.", "bad": "So."}
    assert named("bad=good")["bad"] == "So."


def test_a_text_is_filled_with_keys_that_stay():
    assert named("prompt=[INST] {question}, in {n} words, {two words} [/INST],chosen=good") == {
        "prompt": "[INST] How?, in 3 words, x [/INST]",
        "chosen": "So.",
    } | {key: ROW[key] for key in ("question", "bad", "n", "two words", "tags")}
    assert named("prompt={{{question}}} {{}}")["prompt"] == "{How?} {}"
    assert named("prompt={question}{good}")["prompt"] == "How?So."


NESTED = {"a": {"b": "in", "c.d": "dot"}, "a.b": "literal", "turns": [{"text": "one"}, {"text": "two"}], "n": None}


@pytest.mark.parametrize(
    "field, value",
    [
        ("prompt=a.b", "literal"),
        ("prompt=a.c.d", "dot"),
        ("prompt=turns.0.text", "one"),
        ("prompt=turns.-1.text", "two"),
        ("prompt=turns.1", {"text": "two"}),
        ("prompt={a.b}: {turns.1.text}", "literal: two"),
        ("prompt={n}x", "x"),
        ("prompt=n", None),
    ],
)
def test_a_path_leads_into_a_row_and_a_key_with_a_dot_goes_before_it(field, value):
    (row,) = RowTransform.parse(field).apply(NESTED)
    kept = {key: inside for key, inside in NESTED.items() if key != field.removeprefix("prompt=")}
    assert row == kept | {"prompt": value}


OPENAI = {
    "input": {
        "messages": [{"role": "user", "content": "q"}],
        "tools": [{"type": "function"}],
        "parallel_tool_calls": True,
    },
    "preferred_output": [{"role": "assistant", "content": "a"}],
}


def test_what_stands_beside_a_nested_key_and_says_more_of_the_row_is_not_left_behind():
    lost = "--field prompt=input.messages: 'input.tools' stands beside it and says more of the row; take it along with "
    with pytest.raises(StructuralFault, match=re.escape(lost + "tools=input.tools, or leave it out with input=")):
        RowTransform.parse("prompt=input.messages").apply(OPENAI)
    (row,) = RowTransform.parse("prompt=input.messages,tools=input.tools").apply(OPENAI)
    assert (row["prompt"], row["tools"]) == (OPENAI["input"]["messages"], [{"type": "function"}])
    (row,) = RowTransform.parse("prompt=input.messages,input=").apply(OPENAI)
    assert row == {"prompt": OPENAI["input"]["messages"], "preferred_output": OPENAI["preferred_output"]}
    (row,) = RowTransform.parse("prompt=input.messages").apply({"input": OPENAI["input"] | {"tools": []}})
    assert row["prompt"] == OPENAI["input"]["messages"]
    deep = {"a": {"system": "Be brief.", "b": {"q": "x"}}}
    with pytest.raises(StructuralFault, match=re.escape("'a.system' stands beside it")):
        RowTransform.parse("prompt=a.b.q").apply(deep)
    (row,) = RowTransform.parse("prompt=a.b.q,system=a.system").apply(deep)
    assert (row["prompt"], row["system"]) == ("x", "Be brief.")


@pytest.mark.parametrize("path", ["turns.2.text", "turns.text", "a.b.c", "a.x", ".a", "a.", "turns.9999999999"])
def test_a_path_that_leads_nowhere_is_named(path):
    with pytest.raises(StructuralFault, match=f"the row has no key '{path}'; found keys a, a.b, turns, n"):
        RowTransform.parse(f"prompt={path}").apply(NESTED)


def test_a_key_of_a_text_is_empty_where_it_is_null_or_only_other_rows_have_it(write):
    rows = [{"q": "1"}, {"q": "2", "system": None}, {"q": "3", "system": "S"}]
    (source,) = open_sources(write("x.jsonl", rows), field="prompt={system}|{q}")
    assert [row.value["prompt"] for row in source.read()] == ["|1", "|2", "S|3"]
    (source,) = open_sources(write("x.jsonl", rows), field="prompt={sytem}|{q}")
    assert [row.fault for row in source.read()] == [
        "--field prompt={sytem}|{q}: the row has no key 'sytem'; found keys q",
        *["--field prompt={sytem}|{q}: the row has no key 'sytem'; found keys q, system"] * 2,
    ]


def test_a_key_without_a_value_is_taken_out_once_texts_are_filled():
    (row,) = RowTransform.parse("images=,prompt={system} {q},system=,none=").apply(
        {"q": "a", "system": "S", "images": ["x"]}
    )
    assert row == {"q": "a", "prompt": "S a"}


def test_nothing_is_changed_without_settings():
    assert not RowTransform.parse(None, None)


@pytest.mark.parametrize(
    "fields, said",
    [
        ("prompt=quest", "--field prompt=quest: the row has no key 'quest'; found keys question, good, bad"),
        ("prompt=a {quest}", "--field prompt=a {quest}: the row has no key 'quest'"),
        ("prompt=a {tags}", "key 'tags' holds no text or number (list), so it cannot stand in a text"),
    ],
)
def test_a_row_that_a_field_does_not_fit_is_a_structural_fault(fields, said):
    with pytest.raises(StructuralFault) as fault:
        named(fields)
    assert said in str(fault.value)


@pytest.mark.parametrize(
    "fields, said",
    [
        ("prompt", "--field prompt: expected name=key"),
        ("=question", "--field =question: expected name=key"),
        ("prompt=a {question", "expected '}' before end of string; write {{ and }} for braces that are text"),
        ("prompt=a {}", "braces hold the name of a key"),
        ("prompt={n:>5}", "braces hold the name of a key"),
        ("prompt={n!r}", "braces hold the name of a key"),
        ("prompt=question,prompt=good", "'prompt' is set twice"),
    ],
)
def test_a_field_that_cannot_be_meant_is_refused_before_any_row_is_read(fields, said):
    with pytest.raises(InputError) as error:
        RowTransform.parse(fields)
    assert said in str(error.value)


@pytest.fixture
def transform(tmp_path):
    """transform(body) -> Changes that call `def fn(row): body`."""

    def _transform(body: str, fields: str | None = None) -> RowTransform:
        (tmp_path / "mine.py").write_text(f"def fn(row):\n    {body}\n")
        return RowTransform.parse(fields, f"{tmp_path}/mine.py:fn")

    return _transform


@pytest.mark.parametrize(
    "body, rows",
    [
        ("return {'prompt': row['question']}", [{"prompt": "How?"}]),
        ("return [{'a': n} for n in range(row['n'])]", [{"a": 0}, {"a": 1}, {"a": 2}]),
        ("return None", []),
        ("return []", []),
    ],
)
def test_a_function_gives_a_row_or_several_or_none(transform, body, rows):
    assert transform(body).apply(ROW) == rows


def test_fields_are_named_after_the_function(transform):
    assert transform("return [{'q': 'a'}, {'q': 'b'}]", "prompt=q").apply(ROW) == [{"prompt": "a"}, {"prompt": "b"}]


def test_a_function_may_change_its_row_and_the_row_that_is_kept_stays_as_it_was(transform):
    row = {"tags": ["a"]}
    assert transform("row['tags'].append('b'); return row").apply(row) == [{"tags": ["a", "b"]}]
    assert row == {"tags": ["a"]}


@pytest.mark.parametrize(
    "body, said",
    [
        ("return row['answer']", "mine.py:fn raised KeyError: 'answer' (mine.py:2)"),
        ("return 'a'", "mine.py:fn gave a str; it must give a dict, a list of dicts or None"),
        ("return [row, 3]", "mine.py:fn gave a int"),
    ],
)
def test_what_a_function_does_wrong_is_a_fault_of_the_row(transform, body, said):
    with pytest.raises(StructuralFault) as fault:
        transform(body).apply(ROW)
    assert str(fault.value).startswith("--transform ") and said in str(fault.value)


@pytest.mark.parametrize(
    "spec, said",
    [
        ("nowhere.py:fn", "--transform nowhere.py:fn: there is no file nowhere.py"),
        ("mine.py:other", "mine.py has no function other; it has fn"),
        ("mine.fn", "--transform mine.fn: must look like file.py:function; write mine.py:fn"),
        ("a.mine.fn", "write a/mine.py:fn"),
        ("../mine.fn()", "write ../mine.py:fn"),
        ("mine:fn", "write mine.py:fn"),
        ("mine.py::fn", "write mine.py:fn"),
        ("mine.py.fn", "write mine.py:fn"),
        ("mine.py", "--transform mine.py: must look like file.py:function"),
        ("broken.py:fn", "importing broken.py raised ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_is_not_there_is_refused_before_any_row_is_read(tmp_path, monkeypatch, spec, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def fn(row):\n    return row\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(InputError) as error:
        RowTransform.parse(None, spec)
    assert said in str(error.value)


FACTORY = """
def factory(cfg, *args, **kwargs):
    def transform_fn(row, tokenizer=None):
        return {"prompt": row["question"] + str(cfg.sequence_len), "question": "kept"}
    return GIVES
"""


@pytest.mark.parametrize(
    "gives, row",
    [
        ("transform_fn", {**ROW, "prompt": "How?None", "question": "kept"}),
        (
            'transform_fn, {"remove_columns": ["question", "good", "bad", "n", "two words"]}',
            {"tags": ["a"], "prompt": "How?None", "question": "kept"},
        ),
        ('transform_fn, {"remove_columns": "tags"}', {**ROW, "prompt": "How?None", "question": "kept"}),
        ("lambda row: None", None),
    ],
)
def test_a_factory_of_axolotls_is_called_and_its_function_used(tmp_path, gives, row):
    (tmp_path / "mine.py").write_text(FACTORY.replace("GIVES", gives))
    expected = [] if row is None else [{k: v for k, v in row.items() if "tags" not in gives or k != "tags"}]
    assert RowTransform.parse(None, f"{tmp_path}/mine.py:factory").apply(ROW) == expected


@pytest.mark.parametrize(
    "gives, said",
    [
        ("None", "it gave None; it must give the function of a row, alone or with"),
        ('transform_fn, {"batched": True}', "'batched': True}); it must give"),
        ("1 / 0", "mine.py:factory: raised ZeroDivisionError: division by zero (mine.py:5) when it was called with"),
    ],
)
def test_a_factory_that_makes_no_function_is_refused_before_any_row_is_read(tmp_path, gives, said):
    (tmp_path / "mine.py").write_text(FACTORY.replace("GIVES", gives))
    with pytest.raises(InputError) as error:
        RowTransform.parse(None, f"{tmp_path}/mine.py:factory")
    assert said in str(error.value)


def test_a_function_that_gives_a_function_is_told_the_name_of_the_parameter(transform):
    with pytest.raises(StructuralFault, match=r"gave a function; .* is to be called cfg"):
        transform("return lambda row: row").apply(ROW)
