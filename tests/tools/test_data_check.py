"""easyrlhf data check: every finding against hand-counted rows, the thresholds, the exit codes, the page."""

import gzip
import json
import re
from array import array
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from easyrlhf.cli import data_check, data_preview
from easyrlhf.cli.main import main
from easyrlhf.config import CheckConfig
from easyrlhf.data.kinds import STAGE_KINDS
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import InputError
from easyrlhf.tools.checking.page import histogram, limit_rows
from easyrlhf.tools.checking.row_findings import findings, first_of, later_copies, share_in_percent
from easyrlhf.tools.checking.rows import Places, read_split
from easyrlhf.tools.checking.table import CHECKS
from easyrlhf.tools.checking.token_check import TokenCheck

pytestmark = pytest.mark.usefixtures("pictures")

DOCS = (Path(__file__).parents[2] / "docs" / "checking_data.md").read_text()


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def pair(question: str, chosen: str, rejected: str) -> dict:
    return {"prompt": user(question), "chosen": said(chosen), "rejected": said(rejected)}


def good(number: int) -> dict:
    return pair(f"Question {number}?", f"Yes {number}.", f"No, {number}.")


def write(path: Path, rows: list) -> str:
    """One line a row; a row may be bytes, for what is no row."""
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return str(path)


def checked(train: str, valid: str | None = None, stage: str = "rm", **settings) -> dict:
    """(check, split) → finding."""
    config = CheckConfig(train_data=train, valid_data=valid, stage=stage, **settings).with_lengths(None)
    tokens = TokenCheck(config) if config.model else None
    splits = [read_split(name, spec, config, tokens) for name, spec in (("train", train), ("valid", valid)) if spec]
    if tokens:
        tokens.check_template(splits[0])
    found = findings(config, splits[0], splits[1] if valid else None)
    assert len({(one.check, one.split) for one in found}) == len(found)
    return {(one.check, one.split): one for one in found}


def severities(found: dict) -> dict[str, str]:
    return {check: one.severity for (check, _), one in found.items()}


def run(*words: str, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", *words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    err = re.sub(r"\Areading .* …\n", "", err)
    return stop.value.code, out, err


FAULTY = [
    *(good(number) for number in range(1, 21)),  # lines 1 to 20
    b'{"prompt": "caf\xe9", "chosen": "a", "rejected": "b"}',
    b'{"prompt": ',
    b'{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}',
    {"prompt": "strings", "chosen": "a", "rejected": "b"},
    {"prompt": user("no rejected"), "chosen": said("a")},
    pair("An empty answer?", "a", " "),
    {"prompt": [], "chosen": said("a"), "rejected": said("b")},
    pair("Equal?", "a", "a"),
    pair(" Question  1?", "Yes\n1.", "No, 1. "),  # 29 repeats line 1
    pair("Question 2?", "No, 2.", "Yes 2."),  # 30 is line 2 the other way round
    {**good(31), "prompt": [{"role": "system", "content": " "}, *user("Question 31?")]},
    pair("A bell\a?", "Yes.", "No, no."),
    pair("Caf\ufffd?", "Yes.", "No, no."),
    pair("Tokens<|im_end|>?", "Yes.", "No, no."),
    [1, 2],  # 35 is no object
]
EXPECTED = {  # check → (count, first place)
    "not_utf8": (1, "21: not UTF-8 (byte 0xe9"),
    "not_json": (1, "22: not JSON"),
    "half_characters": (1, "23: half a surrogate pair"),
    "mixed_formats": (1, "24: mixed formats"),
    "wrong_structure": (2, "25: missing key 'rejected'"),
    "empty_answer": (1, "26: empty completion"),
    "empty_prompt": (1, "27: no prompt before the answer"),
    "nothing_to_compare": (1, "28: chosen equals rejected"),
    "duplicates": (1, "29 as PATH:1"),
    "contradictions": (1, "30 against PATH:2"),
    "empty_turn": (1, "31: system"),
    "control_characters": (1, "32: \\x07"),
    "replacement_characters": (1, "33"),
    "control_tokens": (1, "34: <|im_end|>"),
}


def test_every_fault_of_the_rows_is_counted_once_with_its_place(tmp_path):
    path = write(tmp_path / "faulty.jsonl", FAULTY)
    found = checked(path)
    stops = {"not_utf8", "not_json", "half_characters", "mixed_formats", "wrong_structure", "dropped_for_content"}
    assert {check for check, _ in found} == {*EXPECTED, "dropped_for_content", "length_bias"}
    for check, (count, place) in EXPECTED.items():
        one = found[check, "train"]
        assert one.count == count, check
        assert one.places[0].startswith(f"{path}:{place.replace('PATH', path)}"), check
        assert one.severity == ("error" if check in stops else "warning"), check
        assert one.total == (26 if check in ("duplicates", "contradictions") else 35), check
    dropped = found["dropped_for_content", "train"]
    assert (dropped.count, dropped.total, dropped.severity) == (3, 35, "error")
    bias = found["length_bias", "train"]  # lines 29 and 32 to 34; "Yes 1." is as long as "No, 1."
    assert (bias.count, bias.total, bias.detail) == (4, 26, ": the shorter")


def test_read_is_usable_plus_dropped(tmp_path, capsys):
    code, out, err = run(write(tmp_path / "x.jsonl", FAULTY), "--stage", "rm", capsys=capsys)
    assert code == 2
    assert "train: 35 rows read = 26 usable + 9 dropped (6 unreadable row, 1 empty completion" in out
    assert "error: train: 1 of 35 rows are not UTF-8 (2.9 %)" in out
    assert "→ Save the file as UTF-8." in out
    assert err.startswith("error: ") and "not fit for rm: not_utf8, not_json" in err and err.count("\n") == 1


def test_with_skip_the_rows_that_a_stage_would_drop_are_warnings(tmp_path, capsys):
    path = write(tmp_path / "x.jsonl", FAULTY)
    code, out, err = run(path, "--stage", "rm", "--on_bad_row", "skip", capsys=capsys)
    assert (code, err) == (0, "")
    assert "warning: train: 1 of 35 rows are not UTF-8" in out and "error:" not in out


def test_what_stands_in_a_row_cannot_write_to_the_terminal(tmp_path, capsys):
    path = write(tmp_path / "x.jsonl", [good(1), b"no \x1b[2J JSON"])
    _, out, _ = run(path, "--stage", "rm", capsys=capsys)
    assert f"    {path}:2: not JSON (Expecting value at column 1): no �[2J JSON; expected" in out


def test_clean_rows_pass(tmp_path, capsys):
    path = write(tmp_path / "x.jsonl", [good(number) for number in range(10)])
    code, out, err = run(path, "--stage", "rm", capsys=capsys)
    assert (code, err) == (0, "")
    assert "10 rows read = 10 usable + 0 dropped" in out and "train: 10 different prompts" in out


def test_plain_texts_have_no_prompt_that_could_be_empty(tmp_path, capsys):
    path = write(tmp_path / "x.jsonl", [{"text": f"A text of number {number}."} for number in range(3)])
    code, out, _ = run(path, "--stage", "sft", capsys=capsys)
    assert code == 0 and "Nothing was found." in out


@pytest.mark.parametrize("faults, severity", [(1, None), (2, "error")])
def test_more_than_one_row_in_a_hundred_dropped_for_its_content_stops_a_stage(
    tmp_path, chatml_renderer, faults, severity
):
    rows = [good(number) for number in range(100 - faults)] + [pair("Empty?", "a", " ")] * faults
    path = write(tmp_path / "x.jsonl", rows)
    assert severities(checked(path)).get("dropped_for_content") == severity
    how = {"max_length": 99, "max_prompt_length": 98, "cache_dir": tmp_path}
    if severity:
        with pytest.raises(InputError, match="more than 1%"):
            load_tokens(path, "comparison", chatml_renderer, DataSettings(**how))
    else:
        assert load_tokens(path, "comparison", chatml_renderer, DataSettings(**how)).summary.used == 99


@pytest.mark.parametrize("copies, severity", [(5, "warning"), (6, "error")])
def test_a_threshold_is_passed_only_above_it(tmp_path, copies, severity):
    rows = [good(number) for number in range(10 - copies)] + [good(0)] * copies
    found = checked(write(tmp_path / "x.jsonl", rows))["duplicates", "train"]
    assert (found.count, found.total, found.severity) == (copies, 10, severity)


def test_pairs_whose_prompts_differ(tmp_path):
    """The second row answers another prompt; the third differs in an earlier turn, and is cut there."""
    talk = [*user("Hello?"), *said("Hello."), *user("How are you?")]
    other = [*user("Hello?"), *said("Hi!"), *user("How are you?")]
    rows = [
        {"chosen": [*talk, *said("Fine.")], "rejected": [*talk, *said("Bad.")]},
        {"chosen": [*user("One?"), *said("Yes.")], "rejected": [*user("Two?"), *said("No.")]},
    ]
    found = checked(write(tmp_path / "x.jsonl", rows))
    one = found["prompts_differ", "train"]
    assert (one.count, one.total) == (1, 2) and one.places[0].startswith(f"{tmp_path}/x.jsonl:2")
    transcripts = [
        {side: "".join(f"\n\n{names[t['role']]}: {t['content']}" for t in turns) for side, turns in row.items()}
        for names in [{"user": "Human", "assistant": "Assistant"}]
        for row in [rows[0], {"chosen": [*talk, *said("Fine.")], "rejected": [*other, *said("Bad.")]}]
    ]
    found = checked(write(tmp_path / "hh.jsonl", transcripts))
    assert (found["histories_differ", "train"].count, found["histories_differ", "train"].total) == (1, 2)


def test_held_out_rows_and_prompts_among_the_training_rows(tmp_path):
    train = write(tmp_path / "train.jsonl", [good(number) for number in range(20)])
    held_out = [good(number) for number in range(100, 117)]
    held_out += [pair("Question  3?", "Yes 3.", "No, 3."), pair("Question 4?", "Perhaps.", "Never.")]
    valid = write(tmp_path / "valid.jsonl", [*held_out, good(117)])
    found = checked(train, valid)
    rows, prompts = found["leaked_rows", "valid"], found["leaked_prompts", "valid"]
    assert (rows.count, rows.total, rows.severity) == (1, 20, "error")
    assert rows.places == (f"{valid}:18 as {train}:4",)
    assert (prompts.count, prompts.total, prompts.severity) == (2, 20, "warning")
    assert prompts.places == (f"{valid}:18 as {train}:4", f"{valid}:19 as {train}:5")
    assert checked(train, write(tmp_path / "v.jsonl", held_out[:17])) == {}


def test_prompts_for_ppo_may_repeat_but_not_leak(tmp_path):
    rows = [{"prompt": user(f"Question {number}?"), "answer": str(number)} for number in (1, 2, 1)]
    train = write(tmp_path / "train.jsonl", rows)
    found = checked(train, write(tmp_path / "valid.jsonl", rows[1:2]), stage="ppo")
    assert {key: (one.count, one.severity) for key, one in found.items()} == {
        ("repeated_prompts", "train"): (1, "note"),
        ("leaked_rows", "valid"): (1, "error"),
    }


@pytest.mark.parametrize(
    "liked, disliked, expected",
    [
        (4, 3, None),
        (5, 3, "label_balance"),
        (3, 4, "label_balance"),
        (4, 0, "one_label"),
        (0, 4, "one_label"),
    ],
)
def test_labels_of_feedback(tmp_path, liked, disliked, expected):
    labels = [True] * liked + [False] * disliked
    rows = [{"prompt": f"Question {n}?", "completion": f"Yes {n}.", "label": label} for n, label in enumerate(labels)]
    found = checked(write(tmp_path / "x.jsonl", rows), stage="kto")
    assert [check for check, _ in found] == ([expected] if expected else [])
    if expected == "label_balance" and liked == 5:  # 3/5 to 3/5 · 4/3
        assert "--desirable_weight 0.6 to 0.8 would fit" in found[expected, "train"].message
    if expected == "one_label":
        assert found[expected, "train"].severity == "error"


def test_the_same_answer_with_both_labels_is_a_contradiction(tmp_path):
    rows = [{"prompt": "Sky?", "completion": "Blue.", "label": label} for label in (True, False, True)]
    found = checked(write(tmp_path / "x.jsonl", rows), stage="kto")
    assert found["contradictions", "train"].count == 1
    assert found["duplicates", "train"].count == 1


@pytest.mark.parametrize("longer, severity", [(7, "note"), (8, "warning")])
def test_pairs_in_which_the_longer_answer_wins(tmp_path, longer, severity):
    rows = [pair(f"Question {n}?", "Yes, it is." if n < longer else "Yes", f"No, {n}") for n in range(10)]
    found = checked(write(tmp_path / "x.jsonl", rows))["length_bias", "train"]
    assert (found.count, found.total, found.severity, found.detail) == (longer, 10, severity, ": the longer")


def test_a_damaged_file_is_an_error_and_the_others_are_read_on(tmp_path, capsys):
    whole = gzip.compress(b"".join(json.dumps(good(number)).encode() + b"\n" for number in range(5000)))
    (tmp_path / "damaged.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "unknown.jsonl").write_text('{"colour": "blue"}\n')
    rest = write(tmp_path / "rest.jsonl", [good(number) for number in range(6000, 6010)])
    words = [str(tmp_path / "damaged.jsonl.gz"), str(tmp_path / "unknown.jsonl"), rest]
    code, out, _ = run(*words, "--stage", "rm", capsys=capsys)
    assert code == 2
    assert "error: train: 2 of 3 files cannot be read to their end" in out
    assert f"    {words[0]}: the compressed file is damaged" in out
    assert f"    {words[1]}:1: no known format; found keys colour" in out
    read = int(re.search(r"train: ([\d,]+) rows read", out)[1].replace(",", ""))
    assert 10 < read < 5010
    assert re.search(rf"{re.escape(rest)} +preference, conversational +10 +0\n", out)


def test_files_without_a_usable_row_are_an_error(tmp_path):
    found = checked(write(tmp_path / "x.jsonl", [pair("Equal?", "a", "a")] * 3))
    assert found["no_row", "train"].severity == "error"


# --- in tokens


@pytest.fixture
def folder(tmp_path, tokenizer) -> str:
    """The ChatML tokenizer: a letter that is in none of its words is a token, each turn has 4 more around it."""
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def digits(prompt: int, chosen: int, rejected: int) -> dict:
    """A pair of so many characters; digits are tokens of their own."""
    return pair(*("7" * count for count in (prompt, chosen, rejected)))


def test_lengths_and_limits_in_tokens(tmp_path, folder, tokenizer):
    sizes = [(10, 1, 2), (20, 3, 1), (30, 5, 50), (40, 60, 70)]
    path = write(tmp_path / "x.jsonl", [digits(*size) for size in sizes])
    plain = len(tokenizer("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
    prompts = [prompt + plain for prompt, _, _ in sizes]
    answers = [max(chosen, rejected) + 1 for _, chosen, rejected in sizes]  # and the end of turn
    totals = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    settings = {"max_length": totals[2], "max_prompt_length": prompts[2]}
    config = CheckConfig(train_data=path, stage="rm", model=folder, **settings)
    split = read_split("train", path, config, TokenCheck(config))
    assert split.lengths.prompt.tolist() == prompts
    assert split.lengths.answer.tolist() == answers
    assert split.lengths.total.tolist() == totals
    assert limit_rows(config, split) == [  # a row as long as the limit fits
        (str(prompts[2]), "2", "50.0 %", "1", "25.0 %"),
        (str(totals[2]), "1", "25.0 %", "0", "0.0 %"),
        ("256", "0", "0.0 %", "0", "0.0 %"),
    ]


@pytest.mark.parametrize("limit, prompt_limit", [(60, 59), (140, 100), (140, 139)])
def test_over_length_is_what_training_drops(tmp_path, folder, limit, prompt_limit):
    rows = [digits(5 + 3 * n, n % 7 + 1, n % 7 + n % 5 + 2) for n in range(40)]
    path = write(tmp_path / "x.jsonl", rows)
    found = checked(path, model=folder, max_length=limit, max_prompt_length=prompt_limit)
    renderer = Renderer(load_tokenizer(folder))
    how = {"max_length": limit, "max_prompt_length": prompt_limit, "cache_dir": tmp_path / "cache"}
    try:
        dropped = load_tokens(path, "comparison", renderer, DataSettings(**how)).summary.dropped["over length"]
    except InputError as error:
        dropped = int(re.search(r"(\d+) of 40 rows", str(error))[1])
    one = found["over_length", "train"]
    assert (one.count, one.severity) == (dropped, "error" if dropped > 4 else "warning")
    advised = re.search(r"--max_length (\d+) --max_prompt_length (\d+) keeps 99 %", one.detail)
    how |= {"max_length": int(advised[1]), "max_prompt_length": int(advised[2])}
    assert load_tokens(path, "comparison", renderer, DataSettings(**how)).summary.used == 40


def with_template(tokenizer_folder: str, template: str, **tokens) -> str:
    """The folder again, with another chat template and special tokens."""
    tokenizer = load_tokenizer(tokenizer_folder)
    tokenizer.add_special_tokens(tokens)
    if tokens.get("bos_token"):
        from tokenizers.processors import TemplateProcessing

        special = [(tokens["bos_token"], tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{tokens['bos_token']} $A", special_tokens=special
        )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(Path(tokenizer_folder).parent / "changed")
    return str(Path(tokenizer_folder).parent / "changed")


CLOSED = "{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"


def test_a_bos_before_every_turn_is_the_templates(tmp_path, folder):
    """SmolLM2: bos_token is <|im_start|>, and ChatML writes it before every turn."""
    changed = with_template(folder, load_tokenizer(folder).chat_template, bos_token="<|im_start|>")
    turns = [{"role": "user", "content": "Say red."}, {"role": "assistant", "content": "red."}]
    path = write(tmp_path / "x.jsonl", [{"messages": turns * 2}, {"messages": turns}])
    assert "double_bos" not in {check for check, _ in checked(path, stage="sft", model=changed)}
    text = "<|im_start|>user\nSay red.<|im_end|>\n<|im_start|>assistant\n"
    path = write(tmp_path / "y.jsonl", [{"prompt": text, "completion": "red."}])
    assert "double_bos" not in {check for check, _ in checked(path, stage="sft", model=changed)}


def test_ends_of_plain_texts(tmp_path, folder):
    changed = with_template(folder, CLOSED, bos_token="<|bos|>")
    rows = [
        {"prompt": "The sky is", "completion": " blue"},
        {"prompt": "<|bos|>The sky is", "completion": " green"},
        {"prompt": "The grass is", "completion": " green<|im_end|> and blue"},
        {"prompt": "The cat is", "completion": "<|bos|> black"},
        {"prompt": "The dog is", "completion": " brown<|im_end|>\n"},
    ]
    texts = write(tmp_path / "texts.jsonl", [{"text": "one<|im_end|> two"}])
    assert {name for name, _ in checked(texts, stage="sft", model=changed)} == {"control_tokens"}
    path = write(tmp_path / "x.jsonl", rows)
    found = checked(path, stage="sft", model=changed)
    assert {check: (one.count, one.places[0].split(":")[1]) for (check, _), one in found.items()} == {
        "double_bos": (1, "4"),
        "own_bos": (1, "2"),
        "cut_at_eos": (1, "3"),
        "control_tokens": (4, "2"),
    }
    assert severities(found) == {
        "double_bos": "error",
        "own_bos": "note",
        "cut_at_eos": "error",
        "control_tokens": "warning",
    }


def test_a_template_without_an_end_of_turn_leaves_inner_answers_open(tmp_path, folder):
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    talk = [*user("Hello?"), *said("Hello.")]
    path = write(tmp_path / "x.jsonl", [{"messages": talk}, {"messages": [*talk, *talk]}])
    found = checked(path, stage="sft", model=with_template(folder, template))
    assert found["missing_eos", "train"].count == 1
    assert found["missing_eos", "train"].places == (f"{path}:2",)
    assert severities(found) == {"missing_eos": "error", "template_without_end": "warning"}


@pytest.mark.parametrize(
    "template, expected",
    [
        ("{{ strftime_now('%d %b') }}" + CLOSED, "template_with_date"),
        ("{{ bos_token + bos_token }}" + CLOSED, "template_with_two_bos"),
        (CLOSED, None),
    ],
)
def test_templates(tmp_path, folder, template, expected):
    path = write(tmp_path / "x.jsonl", [{"messages": [*user("Hello?"), *said("Hello.")]}])
    found = checked(path, stage="sft", model=with_template(folder, template, bos_token="<|bos|>"))
    assert severities(found) == ({expected: "warning"} if expected else {})


def test_rows_that_the_template_refuses_are_dropped_and_counted(tmp_path, folder, capsys):
    template = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    model = with_template(folder, template + "{{ m['content'] + '<|im_end|>' }}{% endfor %}")
    brief = [{"role": "system", "content": "Be brief."}]
    rows = [{**good(n), "prompt": brief * (n == 2) + user("?")} for n in range(5)]
    path = write(tmp_path / "x.jsonl", rows)
    code, out, err = run(path, "--stage", "rm", "--model", model, capsys=capsys)
    assert code == 2 and "not_renderable" in err
    assert "5 rows read = 4 usable + 1 dropped (1 not renderable)" in out
    assert f"{path}:3: the chat template refuses this conversation (no system)" in out


def test_conversations_without_any_template(tmp_path, folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink(missing_ok=True)
    path = write(tmp_path / "x.jsonl", [good(1), good(2)])
    found = checked(path, model=str(tmp_path / "bare"))
    assert found["not_renderable", "train"].count == 2
    assert severities(found) == {"not_renderable": "error", "no_row": "error"}
    assert not {"error"} & set(severities(checked(path, model=str(tmp_path / "bare"), chat_template="chatml")).values())


# --- the parts


def test_repeats_agree_with_looking_at_every_pair():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 40, 60)
    slow = [row for row in range(60) if hashes[row] in hashes[:row]]
    assert later_copies(hashes) == slow
    assert [first_of(hashes, row) for row in slow] == [hashes.tolist().index(hashes[row]) for row in slow]


def test_places_come_back_as_they_were():
    given = ["a.jsonl:1", "a.jsonl:2", "b.parquet:row 7", "b.parquet:row 8", "odd:007", "x:0", "no number", "a.jsonl:3"]
    places = Places()
    for place in given:
        places.append(place)
    assert [places[row] for row in range(len(given))] == given


def test_the_histogram_counts_every_row():
    counts, edges = histogram(array("i", [0, 5, 11, 12, 99, 100, 5000]))
    assert sum(counts) == 7 and len(edges) == len(counts) + 1
    assert counts[0] == sum(value < edges[1] for value in (0, 5, 11, 12, 99, 100, 5000))
    assert histogram(array("i", [3]))[0] == [0, 0, 0, 1]
    counts, edges = histogram(array("i", [*[50] * 200, 5000]))  # one in 201 is longer than the 99th percentile
    assert sum(counts) == 201 and edges[-1] < 100


@pytest.mark.parametrize("stage", STAGE_KINDS)
def test_every_stage_reads_the_kind_of_records_that_it_trains_on(stage, monkeypatch):
    from easyrlhf.stages import kto, online, preference, rm, rrhf, sft

    if stage in ("ppo", "grpo", "ebft"):
        assert "read_sets(run, renderer, STAGES[config.stage].rows)" in Path(online.__file__).read_text()
        assert STAGE_KINDS[stage] == ("demonstration" if stage == "ebft" else "prompt")
        return
    module = {"sft": sft, "rm": rm, "kto": kto, "rrhf": rrhf}.get(stage, preference)
    seen = []
    monkeypatch.setattr(module, "train_offline", lambda config, stage: seen.append(stage.kind))
    getattr(module, f"train_{stage}")(None)
    assert seen == [STAGE_KINDS[stage]]
    assert set(STAGE_KINDS) == set(next(f for f in fields(CheckConfig) if f.name == "stage").metadata["choices"])


# --- the page and the command


def test_the_page_shows_the_findings_and_the_pictures(tmp_path, folder, capsys):
    path = write(tmp_path / "x<y.jsonl", [*FAULTY, digits(60, 30, 40)])
    page = tmp_path / "out.html"
    words = ("--stage", "rm", "--model", folder, "--max_length", "100", "--max_prompt_length", "60")
    code, out, _ = run(path, *words, "--report", str(page), capsys=capsys)
    assert code == 2 and out.splitlines()[-1] == str(page)
    html = page.read_text()
    assert re.findall(r'<svg role="img" aria-label="([^"]+)"', html) == ["Prompt and answer", "Prompts"]
    assert "<script" not in html and "http" not in html.replace("http://www.w3.org", "")
    assert "1 of 36 rows are not UTF-8 (2.8 %)" in html and "Save the file as UTF-8." in html
    assert "1 of 27 rows are too long (3.7 %)" in html
    assert html.count("<strong>alarm</strong>") == 6 and "x&lt;y.jsonl" in html and "x<y.jsonl" not in html
    assert "36 rows read = 27 usable + 9 dropped" in html
    assert [p.name for p in tmp_path.glob("out.html*")] == ["out.html"]


def test_a_page_that_cannot_be_written_is_said_after_the_findings(tmp_path, capsys):
    page = tmp_path / ("x" * 300)
    code, out, err = run(write(tmp_path / "x.jsonl", [good(1)]), "--stage", "rm", "--report", str(page), capsys=capsys)
    assert code == 2 and "1 rows read = 1 usable" in out
    assert err == f"error: --report {page}: cannot be written (File name too long)\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (("--stage", "rm"), "--train_data is required"),
        (("x.jsonl",), "--stage is required"),
        (("x.jsonl", "--stage", "rmm"), "did you mean rm?"),
        (("y.jsonl", "--stage", "rm"), "y.jsonl: no such file or folder; did you mean x.jsonl?"),
        (("x.jsonl", "--stage", "rm", "--valid_data", "y.jsonl"), "y.jsonl: no such file"),
        (("x.jsonl", "--stage", "rm", "--format", "hhh"), "unknown format 'hhh'"),
        (("x.jsonl", "--stage", "rm", "--model", "nowhere/at/all"), "nowhere/at/all: no such folder"),
        (("x.jsonl", "--stage", "rm", "--report", "nowhere/x.html"), "--report nowhere/x.html: there is no folder"),
        (("x.jsonl", "--stage", "rm", "--report", "."), "--report .: is a folder"),
    ],
)
def test_what_cannot_be_checked_is_bad_input(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "x.jsonl", [good(1)])
    code, out, err = run(*words, capsys=capsys)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_the_data_settings_of_a_stage_are_those_of_the_check(tmp_path, capsys):
    """Keys are renamed and rows left out before they are checked; a weight changes nothing."""
    rows = [{"question": f"Question {n}?", "answer": f"Yes {n}." if n else ""} for n in range(10)]
    path = write(tmp_path / "x.jsonl", rows)
    (tmp_path / "own.py").write_text("def keep(row):\n    return row if row['question'][9] not in '67' else None\n")
    words = ("--field", "prompt=question,completion=answer", "--transform", f"{tmp_path}/own.py:keep")
    code, out, _ = run(f"{path}=0.5", "--stage", "sft", *words, "--format", "prompt_completion", capsys=capsys)
    assert code == 2  # one of eight answers is empty
    assert "10 rows read = 7 usable + 3 dropped (2 dropped by --transform, 1 empty completion)" in out
    assert f"{path}:1: empty completion" in out
    assert "note: train: 2 of 10 rows are left out by --transform (20 %)" in out


def test_several_words_are_several_files(tmp_path, capsys):
    paths = [write(tmp_path / name, [good(n)]) for n, name in enumerate(("a.jsonl", "b.jsonl"))]
    code, out, _ = run(*paths, "--stage", "rm", capsys=capsys)
    assert code == 0 and "2 rows read = 2 usable" in out


def test_a_wrong_kind_of_rows_is_one_finding_that_names_the_right_stage(tmp_path, capsys):
    code, out, err = run(write(tmp_path / "x.jsonl", [good(1)]), "--stage", "sft", capsys=capsys)
    assert code == 0, err  # the chosen answers are demonstrations
    path = write(tmp_path / "y.jsonl", [{"prompt": "a", "completion": "b"}])
    code, out, err = run(path, "--stage", "rm", capsys=capsys)
    assert code == 2 and "holds demonstrations" in out and "sft_train" in out


def test_help_teaches(monkeypatch):
    done = CliRunner().invoke(data_check.command, ["--help"], prog_name="easyrlhf data check")
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    seen = []
    monkeypatch.setattr("easyrlhf.tools.checking.check.print_check", seen.append)
    for example in data_check.PAGE.examples:
        assert example in done.stdout
        done_too = CliRunner().invoke(data_check.command, example.split()[3:], prog_name="easyrlhf data check")
        assert done_too.exit_code == 0, done_too.output
    assert len(seen) == len(data_check.PAGE.examples)


def test_every_command_of_the_docs_parses(monkeypatch):
    seen = []
    monkeypatch.setattr("easyrlhf.tools.checking.check.print_check", seen.append)
    monkeypatch.setattr("easyrlhf.tools.checking.preview.preview_rows", seen.append)
    blocks = "".join(re.findall(r"```bash\n(.*?)```", DOCS, flags=re.DOTALL))
    lines = [line.split() for line in blocks.splitlines() if line.startswith("easyrlhf data")]
    commands = {"check": data_check.command, "preview": data_preview.command}
    for _, _, name, *words in lines:
        done = CliRunner().invoke(commands[name], words, prog_name=f"easyrlhf data {name}")
        assert done.exit_code == 0, done.output
    assert len(seen) == len(lines) == 6


def test_soft_labels_and_ties_are_noted_and_a_tie_is_no_contradiction(tmp_path):
    tie, soft, sure = ({"chosen_probability": p} for p in (0.5, 0.75, 1))
    rows = [
        pair("A?", "Yes.", "No, no.") | tie,
        pair("A?", "No, no.", "Yes.") | tie,  # says the same
        pair("B?", "Yes.", "No, no.") | soft,
        pair("C?", "Yes.", "No, no.") | sure,
        pair("C?", "No, no.", "Yes.") | soft,  # says the opposite of a row that is sure
        pair("D?", "Yes, yes.", "No.") | {"chosen_probability": 0.4},
    ]
    path = write(tmp_path / "x.jsonl", rows)
    found = checked(path)
    counts = {check: one.count for (check, _), one in found.items() if check != "wrong_structure"}
    assert counts == {"ties": 2, "soft_labels": 2, "duplicates": 1, "contradictions": 1, "length_bias": 2}
    assert found["wrong_structure", "train"].places[0].startswith(f"{path}:6: key 'chosen_probability': 0.4 is below")
    assert found["contradictions", "train"].places == (f"{path}:5 against {path}:4",)
    severity = severities(found)
    assert (severity["ties"], severity["soft_labels"]) == ("note", "note")
    for stage in ("sft", "kto", "rrhf"):
        split = read_split("train", path, CheckConfig(train_data=path, stage=stage).with_lengths(None))
        assert (split.usable, split.ledger.dropped) == (3, {"unreadable row": 1, "labelled a tie": 2})


def test_the_page_of_the_docs_has_every_check_with_its_threshold():
    rows = {}
    for line in DOCS.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        if re.fullmatch(r"`\w+`", cells[0]) and len(cells) == 4:
            rows[cells[0].strip("`")] = cells[1]
    assert list(rows) == list(CHECKS)
    for name, check in CHECKS.items():
        above = f" above {100 * check.threshold:g} %" if check.threshold else ""
        assert rows[name] == check.severity + above + (", warning with skip" if check.stops else ""), name


@pytest.mark.parametrize(
    "share, says",
    [(1, "100 %"), (0.9999, "99.9 %"), (0.994, "99.4 %"), (0.985, "98 %"), (0.25, "25 %"), (0.00031, "0.031 %")],
)
def test_a_share_is_written_without_powers_of_ten(share, says):
    assert share_in_percent(share) == says
