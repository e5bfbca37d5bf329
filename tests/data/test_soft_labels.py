"""`chosen_probability` in files: read in every format of comparisons, refused by name, kept or left out by readers."""

import hashlib
import json
import re
import struct
from collections import Counter

import pytest

from easyrlhf.data.formats import FORMATS
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.read_row import read_row, recognise
from easyrlhf.data.reader import RowSettings
from easyrlhf.data.records import Comparison
from easyrlhf.data.splitting import hold_out
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import InputError
from easyrlhf.tools.convert import convert_data

SKY = [{"role": "user", "content": "The sky?"}]
BLUE, RED = ([{"role": "assistant", "content": text}] for text in ("Blue.", "Red."))
TEXTS = {"chosen": "Blue.", "rejected": "Red."}
ROWS = {
    "hh": {key: f"\n\nHuman: The sky?\n\nAssistant: {text}" for key, text in TEXTS.items()},
    "ultra": {"prompt": "The sky?", "chosen": SKY + BLUE, "rejected": SKY + RED},
    "messages_pairs": {"messages": SKY, **TEXTS},
    "swift": {"messages": SKY + BLUE, "rejected_response": "Red."},
    "intel": {"question": "The sky?", **TEXTS},
    "argilla": {"instruction": "The sky?", "chosen_response": "Blue.", "rejected_response": "Red."},
    "icr": {"input": "The sky?", **TEXTS},
    "preference": {"prompt": SKY, "chosen": BLUE, "rejected": RED},
    "prompt_pairs": {"prompt": "The sky?", **TEXTS},
}


def pair(number: int, **other) -> dict:
    answers = {"chosen": f" yes {number}", "rejected": f" no {number}"}
    return {"prompt": f"Question {number}?", **answers, **other}


VOTES = [pair(1), pair(2, chosen_probability=0.75), pair(3, chosen_probability=0.5), pair(4, chosen_probability=1)]


@pytest.fixture
def load(renderer, tmp_path):
    """load(path, kind, **settings) with long limits."""

    def _load(path: str, kind: str, **settings):
        limits = {"max_length": 512, "max_prompt_length": 256}
        return load_tokens(path, kind, renderer, DataSettings(cache_dir=tmp_path / "cache", **limits | settings))

    return _load


def records(path: str, kind: str = "comparison", **settings) -> list:
    reading = RowSettings(**settings)
    return [record for source in reading.open(path) for record, _ in reading.records(source, kind, Ledger("x", None))]


def test_there_is_a_row_for_every_format_of_comparisons():
    assert list(ROWS) == [name for name, form in FORMATS.items() if form.record is Comparison]


@pytest.mark.parametrize("name", ROWS)
def test_every_format_of_comparisons_reads_it(name):
    row = ROWS[name] | {"chosen_probability": 0.75}
    if FORMATS[name].recognise:
        assert recognise(row) == name
    found = read_row(name, row, "x:1", Counter())
    assert (found.record.prompt, found.record.chosen, found.record.rejected) == (SKY, BLUE, RED)
    assert (found.record.chosen_probability, found.record.margin, found.unused) == (0.75, None, [])
    assert read_row(name, ROWS[name], "x:1", Counter()).record.chosen_probability is None
    nothing = row | {"chosen_probability": None, "margin": 2}
    assert read_row(name, nothing, "x:1", Counter()).record.margin == 2


@pytest.mark.parametrize(
    "value, says",
    [
        (0.3, "0.3 is below 0.5, so the pair is the wrong way round; swap chosen and rejected, and write 0.7"),
        (0, "0 is below 0.5, so the pair is the wrong way round; swap chosen and rejected, and write 1"),
        (-0.1, "expected a probability from 0.5 (a tie) to 1, found -0.1"),
        (70, "expected a probability from 0.5 (a tie) to 1, found 70"),
        ("0.7", "expected a number, found a string ('0.7')"),
        (True, "expected a number, found true or false"),
        ([0.7], "expected a number, found a list"),
        (float("nan"), "expected a finite number, found nan"),
    ],
)
@pytest.mark.parametrize("name", ROWS)
def test_what_is_no_probability_of_the_chosen_answer_is_named_with_its_line(write, name, value, says):
    path = write("x.jsonl", [ROWS[name], ROWS[name] | {"chosen_probability": value}])
    with pytest.raises(InputError, match=re.escape(f"x.jsonl:2: key 'chosen_probability': {says}")):
        records(path, format=name)


@pytest.mark.parametrize("name", ROWS)
def test_by_how_much_and_how_surely_are_not_both_said(write, name):
    path = write("x.jsonl", [ROWS[name] | {"chosen_probability": 0.75, "margin": 0}])
    with pytest.raises(InputError, match=r"x.jsonl:1: keys 'margin' and 'chosen_probability': say by how much or how"):
        records(path, format=name)
    assert records(path, format=name, field="margin=")[0].chosen_probability == 0.75
    assert records(path, format=name, field="chosen_probability=")[0].margin == 0


def test_field_maps_it_and_takes_it_along_with_the_answers(write, tmp_path):
    path = write("x.jsonl", [pair(1, sure=0.75)])
    assert records(path, field="chosen_probability=sure")[0].chosen_probability == 0.75
    nested = {"question": "Q", "said": {"good": " a", "bad": " b", "chosen_probability": 0.75}}
    path = write("y.jsonl", [nested])
    named = "prompt=question,chosen=said.good,rejected=said.bad"
    with pytest.raises(
        InputError, match=r"y.jsonl:1: --field chosen=said.good: 'said.chosen_probability' stands besid"
    ):
        records(path, field=named)
    assert records(path, field=f"{named},chosen_probability=said.chosen_probability")[0].chosen_probability == 0.75
    assert records(path, field=f"{named},said=")[0].chosen_probability is None
    assert records(path, "prompt", field="prompt=question")[0].prompt == "Q"
    (tmp_path / "z.csv").write_text("prompt,chosen,rejected,chosen_probability\nQ,a,b,0.75\nQ,a,c,\n")
    assert [record.chosen_probability for record in records(str(tmp_path / "z.csv"))] == [0.75, None]


def test_rows_for_prompts_keep_it_for_reward_functions(write):
    [record] = records(write("x.jsonl", [pair(1, chosen_probability=0.75)]), "prompt")
    assert record.columns["chosen_probability"] == 0.75 and "chosen_probability" in record.answers


def test_token_rows_hold_it_and_sure_ones_are_the_rows_that_they_were(load, write):
    data = load(write("x.jsonl", VOTES), "comparison")
    assert data.rows["chosen_probability"][:] == [1.0, 0.75, 0.5, 1.0]
    assert (data.summary.used, data.summary.notes) == (4, {})
    plain = [pair(number) for number in (1, 2)]
    found = load(write("a.jsonl", plain), "comparison")
    sure = load(write("b.jsonl", [{**row, "chosen_probability": 1} for row in plain]), "comparison")
    soft = load(write("c.jsonl", [plain[0], VOTES[1]]), "comparison")
    assert soft.summary.sha256 != sure.summary.sha256 == found.summary.sha256 == digest(found.rows)


def digest(rows) -> str:
    """The hash of rows before there were soft labels: runs begun then find their data as they left them."""
    found = hashlib.sha256()
    for row in rows:
        ids = [struct.pack(f"<{len(row[key])}i", *row[key]) for key in ("prompt_ids", "chosen_ids", "rejected_ids")]
        for data in (*ids, b"0.0", b"1.0", str(row["length"]).encode()):
            found.update(struct.pack("<q", len(data)) + data)
    return found.hexdigest()


@pytest.mark.parametrize("kind, rows", [("demonstration", 3), ("ranking", 3), ("feedback", 6)])
def test_ties_are_left_out_where_one_answer_must_be_the_better_one(load, write, tmp_path, kind, rows):
    summary = load(write("x.jsonl", VOTES), kind).summary
    assert (summary.read, summary.used, summary.rows) == (4, 3, rows)
    assert summary.dropped == {"labelled a tie": 1}
    assert summary.notes["rows of whose chosen_probability only the winner is used"] == 1
    assert not (tmp_path / "cache" / "bad_rows.jsonl").exists()  # nothing is wrong with it
    assert "4 rows read = 3 used + 1 dropped (1 labelled a tie)" in summary.lines()[0]


def test_files_of_ties_alone_are_named(load, write):
    path = write("x.jsonl", [VOTES[2]] * 2)
    with pytest.raises(InputError, match=r"x.jsonl: no usable row: all 2 pairs are labelled a tie"):
        load(path, "demonstration")
    assert len(load(path, "comparison").rows) == 2


def test_ties_are_no_part_of_what_is_too_long(load, write):
    rows = [pair(i, chosen_probability=0.5) for i in range(8)] + [pair(8), pair(9, chosen=" yes" * 600)]
    with pytest.raises(InputError, match=r"1 of 2 rows"):
        load(write("x.jsonl", rows), "demonstration")


def test_rows_are_held_out_of_those_that_are_used(write):
    rows = [pair(i, chosen_probability=0.5) for i in range(60)] + [pair(i) for i in range(60, 64)]
    reading = RowSettings()
    path = write("x.jsonl", rows)
    assert len(hold_out(reading.open(path), "demonstration", 0.25, 0, reading).keys) == 1  # of 4
    assert len(hold_out(reading.open(path), "comparison", 0.25, 0, reading).keys) == 16


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("comparison", VOTES),
        ("demonstration", [{"prompt": f"Question {i}?", "completion": f" yes {i}"} for i in (1, 2, 4)]),
        (
            "feedback",
            [
                {"prompt": f"Question {i}?", "completion": f" {word} {i}", "label": word == "yes"}
                for i in (1, 2, 4)
                for word in ("yes", "no")
            ],
        ),
        (
            "ranking",
            [
                {"prompt": f"Question {i}?", "completions": [f" yes {i}", f" no {i}"], "scores": [1.0, 0.0]}
                for i in (1, 2, 4)
            ],
        ),
        ("prompt", [{"prompt": f"Question {i}?"} for i in (1, 2, 3, 4)]),
    ],
)
def test_convert_keeps_it_or_takes_the_winner(write, tmp_path, kind, expected):
    summary = convert_data(write("x.jsonl", VOTES), tmp_path / "out.jsonl", kind=kind)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == expected
    assert summary.read == summary.used + sum(summary.dropped.values())
    assert (summary.dropped, len(summary.notes) > 0) == (
        ({}, False) if kind in ("comparison", "prompt") else ({"labelled a tie": 1}, True)
    )


def test_convert_of_ties_alone_is_named(write, tmp_path):
    with pytest.raises(InputError, match=r"all 1 pairs are labelled a tie"):
        convert_data(write("x.jsonl", [VOTES[2]]), tmp_path / "out.jsonl", kind="feedback")
    assert not (tmp_path / "out.jsonl").exists()
