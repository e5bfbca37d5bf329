"""easyrlhf data convert: every format becomes TRL's, nothing is lost on the way, and nothing is overwritten."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from trl.data_utils import is_conversational

from easyrlhf.cli.data_convert import command
from easyrlhf.data.formats import FORMATS
from easyrlhf.data.read_row import read_row, recognise
from easyrlhf.errors import InputError
from easyrlhf.tools.convert import convert_data

README = Path(__file__).parents[2] / "data" / "README.md"
ASKED = [{"role": "user", "content": "Name a colour."}]
BLUE = [{"role": "assistant", "content": "Blue."}]
NO = [{"role": "assistant", "content": "No."}]


def samples() -> list[tuple[str, dict]]:
    """(format, row) of every row of data/README.md."""
    found = re.findall(r"^### `(\w+)`$|^(\{.*\})$", README.read_text(encoding="utf-8"), flags=re.M)
    named, name = [], ""
    for heading, row in found:
        name = heading or name
        named += [(name, json.loads(row))] if row else []
    return named


@pytest.fixture
def write(tmp_path):
    """write(name, *rows) -> path."""

    def _write(name: str, *rows: dict) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return _write


@pytest.fixture
def convert(tmp_path):
    """convert(files, **settings) -> the rows of tmp_path/out.jsonl."""

    def _convert(files: str, name: str = "out.jsonl", **settings) -> list[dict]:
        convert_data(files, tmp_path / name, **settings)
        return [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]

    return _convert


def parse(row: dict, name: str):
    return read_row(name, row, "", Counter()).record


@pytest.mark.parametrize("name, row", samples())
def test_every_format_becomes_a_row_of_trls_with_the_same_record_which_is_converted_into_itself(
    write, convert, tmp_path, name, row
):
    forced = name if FORMATS[name].recognise is None else None
    row = row | {"source": "ü", "n": [1, None]}
    (found,) = convert(write("x.jsonl", row), format=forced)
    ours = recognise(found)
    assert ours in ("prompt_completion", "preference", "ranking", "unpaired", "prompt", "text")
    assert parse(found, ours) == parse(row, name)
    assert found.get("prompt", "") == parse(row, name).prompt  # a string stays one
    assert is_conversational(found) == isinstance(found.get("prompt", ""), list)
    assert (found["source"], found["n"]) == ("ü", [1, None])
    assert convert(str(tmp_path / "out.jsonl"), "again.jsonl") == [found]


def test_the_rows_are_written_by_hand(write, convert):
    pair = {"question": "Name a colour.", "chosen": "Blue.", "rejected": "No.", "margin": 2, "x": 1}
    assert convert(write("a.jsonl", pair)) == [{"prompt": ASKED, "chosen": BLUE, "rejected": NO, "margin": 2.0, "x": 1}]
    ranked = {"prompt": "a", "completions": ["b", "c", "d"], "ranks": [2, 1, 3]}
    assert convert(write("b.jsonl", ranked), "b_out.jsonl") == [
        {"prompt": "a", "completions": ["b", "c", "d"], "scores": [-2.0, -1.0, -3.0]}
    ]


@pytest.mark.parametrize(
    "kind, rows",
    [
        ("demonstration", [{"prompt": ASKED, "completion": BLUE, "x": 1}]),
        ("ranking", [{"prompt": ASKED, "completions": [BLUE, NO], "scores": [1.0, 0.0], "x": 1}]),
        (
            "feedback",
            [
                {"prompt": ASKED, "completion": BLUE, "label": True, "x": 1},
                {"prompt": ASKED, "completion": NO, "label": False, "x": 1},
            ],
        ),
        ("prompt", [{"prompt": ASKED, "x": 1}]),
    ],
)
def test_a_comparison_is_written_as_the_kind_that_is_wanted(write, convert, capsys, kind, rows):
    pair = {"question": "Name a colour.", "chosen": "Blue.", "rejected": "No.", "x": 1}
    assert convert(write("a.jsonl", pair), kind=kind) == rows
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "out.jsonl: 1 rows read = 1 used + 0 dropped · intel"
    assert last.endswith(f"out.jsonl: {len(rows)} {kind}s (format {recognise(rows[0])})")


def test_fields_and_transforms_are_as_in_training_and_dropped_rows_are_kept(write, convert, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def fn(row):\n    return row if row['n'] else None\n")
    rows = [{"q": f"Q{n}", "a": "" if n == 3 else "A", "n": n} for n in range(5)]
    settings = {"field": "prompt=Say: {q},completion=a", "transform": f"{tmp_path}/mine.py:fn", "on_bad_row": "skip"}
    found = convert(write("x.jsonl", *rows), **settings)
    assert [row["prompt"] for row in found] == ["Say: Q1", "Say: Q2", "Say: Q4"]
    balance = "5 rows read = 3 used + 2 dropped (1 dropped by --transform, 1 empty completion)"
    assert capsys.readouterr().out.startswith(f"out.jsonl: {balance}")
    kept = [json.loads(line) for line in (tmp_path / "out.bad_rows.jsonl").read_text().splitlines()]
    assert [(line["reason"], line["place"][-9:]) for line in kept] == [
        ("dropped by --transform", "x.jsonl:1"),
        ("empty completion", "x.jsonl:4"),
    ]


def test_all_that_a_row_says_is_kept_and_the_second_time_gives_the_same_bytes(write, convert, tmp_path):
    call = {"type": "function", "id": "c1", "function": {"name": "get_weather", "arguments": {"town": "Bern"}}}
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "gpt", "value": "I look.", "weight": 0, "thought": "Where?"},
        {"from": "function_call", "value": json.dumps(call | {"id": "c1"}), "weight": 0},
        {"role": "tool", "content": [{"type": "text", "text": "rain"}], "tool_call_id": "c1", "name": "get_weather"},
        {"role": "assistant", "content": "It rains.", "reasoning": "Rain."},
    ]
    more = {"system": "Be brief.", "tools": json.dumps([call["function"]]), "enable_thinking": False, "id": 7}
    (row,) = convert(write("x.jsonl", {"messages": turns, **more}))
    assert row == {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Weather?"}],
        "completion": [
            {
                "role": "assistant",
                "content": "I look.",
                "reasoning_content": "Where?",
                "tool_calls": [call],
                "weight": 0,
            },
            {"role": "tool", "content": "rain", "tool_call_id": "c1", "name": "get_weather"},
            {"role": "assistant", "content": "It rains.", "reasoning_content": "Rain."},
        ],
        "tools": [call["function"]],
        "chat_template_kwargs": {"enable_thinking": False},
        "id": 7,
    }
    convert(str(tmp_path / "out.jsonl"), "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_files_of_several_formats_become_one(write, convert):
    one = write("1.jsonl", {"question": "Name a colour.", "chosen": "Blue.", "rejected": "No."})
    two = write("2.jsonl", {"prompt": "a", "completions": ["b", "c"], "scores": [1, 2]})
    assert [row["chosen"] for row in convert(f"{one},{two}")] == [BLUE, "c"]


@pytest.mark.parametrize(
    "row, format, said",
    [
        ({"instruction": "a", "output": "b", "label": True}, "alpaca", "1: the columns label .* reads as 'unpaired'"),
        ({"messages": [*ASKED, *BLUE], "prompt": "x"}, "messages", "1: the columns prompt .* lose its 'prompt'"),
    ],
)
def test_a_column_that_would_be_lost_or_make_another_format_is_refused(write, tmp_path, row, format, said):
    with pytest.raises(InputError, match=said):
        convert_data(write("x.jsonl", row), tmp_path / "out.jsonl", format=format)
    assert not list(tmp_path.glob("out*"))


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(write, tmp_path):
    good = write("x.jsonl", {"prompt": "a", "completion": "b"})
    output = tmp_path / "out.jsonl"
    convert_data(good, output)
    before = output.read_text()
    with pytest.raises(InputError, match=r"out\.jsonl: is there already; give another file, or --overwrite"):
        convert_data(good, output)
    with pytest.raises(InputError, match=r"out\.jsonl: is one of the inputs"):
        convert_data(f"{good},{output}", output, overwrite=True)
    (tmp_path / "link.jsonl").symlink_to(output)
    with pytest.raises(InputError, match=r"link\.jsonl: is one of the inputs"):
        convert_data(str(output), tmp_path / "link.jsonl", overwrite=True)
    bad = write("bad.jsonl", {"prompt": "a", "completion": "c"}, {"prompt": "a"})
    with pytest.raises(InputError, match=r"bad\.jsonl:2: "):
        convert_data(bad, output, overwrite=True)
    assert output.read_text() == before
    convert_data(write("y.jsonl", {"prompt": "a", "completion": "d"}), output, overwrite=True)
    assert json.loads(output.read_text())["completion"] == "d"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl", "link.jsonl", "out.jsonl", "x.jsonl", "y.jsonl"]


@pytest.mark.parametrize(
    "files, settings, said",
    [
        ("x.jsonl", {"output": "out.json"}, r"--output out\.json: must end with \.jsonl"),
        (
            "x.jsonl",
            {"output": "x.jsonl/out.jsonl"},
            r"--output x\.jsonl/out\.jsonl: cannot be written \(Not a dir|File exists",
        ),
        ("x.jsonl=0.3", {}, r"x\.jsonl=0\.3: every row is converted once"),
        ("x.jsonl", {"kind": "feedback"}, r"x\.jsonl: holds demonstrations .*needs feedbacks"),
        ("x.jsonl", {"format": "hhh"}, "unknown format 'hhh'"),
        ("empty.jsonl", {"on_bad_row": "skip"}, "no usable row"),
    ],
)
def test_what_cannot_be_meant_is_refused(write, monkeypatch, tmp_path, files, settings, said):
    write("x.jsonl", {"prompt": "a", "completion": "b"})
    write("empty.jsonl", {"prompt": "a", "completion": ""})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        convert_data(files, **{"output": "out.jsonl", **settings})
    assert not list(tmp_path.glob("out.json*"))


def test_the_command_takes_several_files_and_hands_its_settings_on(write, tmp_path):
    one = write("1.jsonl", {"prompt": "a", "completion": "b"})
    two = write("2.jsonl", {"question": "c", "completion": "d"})
    words = [one, two, "--output", str(tmp_path / "out.jsonl"), "--on_bad_row", "skip", "--overwrite"]
    command.invoke(command.make_context("convert", words))()
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        {"prompt": "a", "completion": "b"}
    ]
    lacking = command.make_context("convert", [one, "--output", "o.jsonl", "--transform", "nowhere.py:fn"])
    with pytest.raises(InputError, match=r"there is no file nowhere\.py"):
        command.invoke(lacking)()
