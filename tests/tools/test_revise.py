"""easyrlhf revise: what is asked by which principle, the rows that come of it, and going on after a stop."""

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from easyrlhf.cli import generate as generate_line
from easyrlhf.cli import revise as command_line
from easyrlhf.data.read_row import recognise
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.judges import judge_server
from easyrlhf.userfile import load_module

chat = load_module(Path(__file__).parents[1] / "judges" / "chat_server.py")
WORDS = ["red", "blue", "green", "cat", "dog", "owl", "one"]
PROMPTS = [{"prompt": [{"role": "user", "content": f"Say {word}."}], "word": word} for word in WORDS]
CONSTITUTION = """
- {name: short, critique: "Is it long?", revise: Make it short., compare: the shorter one}
- {name: kind, critique: "Is it kind?", revise: Make it kind., compare: the kinder one}
"""


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def asked_about(request) -> str:
    """The answer that a critique or a revision is about."""
    first = next(turn["content"] for turn in request.body["messages"] if turn["role"] == "user")
    return re.search(r"# Answer\n(.*)\n\n# What to look at", first, re.DOTALL)[1]


def kinder(request) -> tuple[int, bytes]:
    """Says something of an answer, then puts a word before it."""
    words = request.question
    if "# What to do" in words:
        return chat.reply(f"{'Kindly' if 'Make it kind.' in words else 'Shortly'}: {asked_about(request)}")
    return chat.reply("critique of " + asked_about(request))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(judge_server.time, "sleep", lambda seconds: None)


@pytest.fixture
def run(rm, tmp_path, monkeypatch):
    """run(*words, code=0) -> the command's result; the output is out.jsonl."""
    write(tmp_path / "prompts.jsonl", PROMPTS)
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    monkeypatch.chdir(tmp_path)

    def call(*words, code: int = 0):
        given = ["--prompts", "prompts.jsonl", "--constitution", "constitution.yaml", "--output", "out.jsonl"]
        given += ["--max_new_tokens", "6", "--devices", "cpu", *map(str, words)]
        done = CliRunner().invoke(command_line.command, given, prog_name="easyrlhf revise")
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.stderr
        return done

    return call


def test_answers_are_criticised_and_revised_by_drawn_principles(run, rm, tmp_path):
    model = str(rm.root / "init")
    with chat.chat_server(kinder) as (url, requests):
        done = run("--model", model, "--judge_url", url, "--judge_model", "m", "--revisions", 3)
    words = [model, "--prompts", "prompts.jsonl", "--output", "first.jsonl", "--max_new_tokens", "6"]
    words += ["--devices", "cpu"]
    assert CliRunner().invoke(generate_line.command, words, prog_name="easyrlhf generate").exit_code == 0
    rows, first = read(tmp_path / "out.jsonl"), read(tmp_path / "first.jsonl")
    assert [row["first_answer"] for row in rows] == [row["completion"][0]["content"] for row in first]
    assert [row["word"] for row in rows] == WORDS and all(recognise(row) == "prompt_completion" for row in rows)
    for row in rows:
        answer = row["first_answer"]
        assert len(row["steps"]) == 3
        for step in row["steps"]:
            assert step["critique"] == f"critique of {answer}".strip()
            answer = f"{'Kindly' if step['principle'] == 'kind' else 'Shortly'}: {answer}".strip()
            assert step["revision"] == answer
        assert row["completion"] == [{"role": "assistant", "content": answer}]
    drawn = {tuple(step["principle"] for step in row["steps"]) for row in rows}
    assert len(drawn) > 2  # each row draws by itself
    assert len(requests) == 7 * 3 * 2
    assert "7 rows of 7 prompts, from 21 revisions" in done.stdout
    assert "next: sft_train --model" in done.stdout
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith("out")}
    assert left == {"out.jsonl", "out.jsonl.run.json"}


def test_comparisons_prefer_the_last_revision_to_the_first_answer(run, rm, tmp_path):
    with chat.chat_server(kinder) as (url, _):
        run("--model", rm.root / "init", "--judge_url", url, "--judge_model", "m", "--to", "comparisons")
    for row in read(tmp_path / "out.jsonl"):
        assert recognise(row) == "preference"
        assert row["chosen"][0]["content"] == row["steps"][-1]["revision"]
        assert row["rejected"][0]["content"] == row["first_answer"].strip()


def test_without_a_model_the_server_answers_first(run, tmp_path):
    def answer(request):
        return kinder(request) if "#" in request.body["messages"][0]["content"] else chat.reply("No.")

    with chat.chat_server(answer) as (url, requests):
        run("--judge_url", url, "--judge_model", "m", "--revisions", 1)
    rows = read(tmp_path / "out.jsonl")
    assert {row["first_answer"] for row in rows} == {"No."}
    assert {row["completion"][0]["content"] for row in rows} == {"Kindly: No.", "Shortly: No."}
    assert sum(request.body["messages"] == PROMPTS[0]["prompt"] for request in requests) == 1


def test_unchanged_and_empty_revisions_are_left_out_and_counted_by_principle(run, tmp_path):
    """Kindness changes nothing and shortness leaves nothing, but for the owl, who becomes kind."""

    def answer(request):
        said = request.body["messages"][0]["content"]
        if "#" not in said:
            return chat.reply("Go.")
        if "# What to do" not in request.question:
            return chat.reply("critique")
        if "Make it short." in request.question:
            return chat.reply(" ")
        return chat.reply("Go, please." if "owl" in said else "Go.")

    with chat.chat_server(answer) as (url, _):
        done = run("--judge_url", url, "--judge_model", "m", "--revisions", 4)
    [row] = read(tmp_path / "out.jsonl")
    assert row["word"] == "owl" and row["completion"][0]["content"] == "Go, please."
    found = dict(re.findall(r"left out, (\w+): \w+ (\d+)", done.stdout))
    empty, unchanged = int(found["empty"]), int(found["unchanged"])
    assert empty + unchanged + len(row["steps"]) == 7 * 4 and len(row["steps"]) == 1
    assert "left out, empty: short" in done.stdout and "left out, unchanged: kind" in done.stdout


def test_a_stopped_command_goes_on_to_the_same_bytes_and_asks_nothing_twice(run, rm, tmp_path):
    settings = ("--model", rm.root / "init", "--judge_model", "m", "--judge_workers", 1)
    with chat.chat_server(kinder) as (url, requests):
        run(*settings, "--judge_url", url)
        whole = (tmp_path / "out.jsonl").read_bytes()
        wanted = [request.body for request in requests]
    seen, stops = [], iter([4, 5, 9])

    def failing(request):
        seen.append(request.body)
        if len(seen) - failing.since > failing.limit:
            seen.pop()
            return 400, b"enough"
        return kinder(request)

    run_again = ("--overwrite",)
    for limit in stops:
        failing.since, failing.limit = len(seen), limit
        with chat.chat_server(failing) as (url, _):
            done = run(*settings, "--judge_url", url, *run_again, code=1)
        assert "the same command goes on from there" in done.stderr
        run_again = ()
    failing.since, failing.limit = len(seen), 10**6
    with chat.chat_server(failing) as (url, _):
        run(*settings, "--judge_url", url)
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert sorted(map(str, seen)) == sorted(map(str, wanted))
    with chat.chat_server(failing) as (url, requests):
        assert "is complete already" in run(*settings, "--judge_url", url).stdout
    assert requests == []


def test_the_budget_stops_with_exit_code_3_and_a_larger_one_goes_on(run, tmp_path):
    def counted(request):
        status, body = chat.reply(f"{request.question[-20:]} again")
        return status, json.dumps(json.loads(body) | {"usage": {"total_tokens": 10}}).encode()

    with chat.chat_server(counted) as (url, requests):
        settings = ("--judge_url", url, "--judge_model", "m", "--judge_workers", 1, "--revisions", 1)
        done = run(*settings, "--judge_budget", 100, code=3)
        assert len(requests) == 10 and "100 tokens are used, and --judge_budget is 100" in done.stderr
        done = run(*settings, "--judge_budget", 1000)
    assert len(requests) == 7 * 3
    assert "tokens read and written by critic and reviser: 210" in done.stdout


def test_a_model_revises_its_own_answers_the_same_in_any_batch(run, rm, tmp_path):
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(rm.root / "init"), load_tokenizer(str(rm.root / "init"))
    with torch.no_grad():  # so that some answers of a random model end
        lm.get_output_embeddings().weight[tokenizer.eos_token_id] *= 4
    lm.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = ("--model", "model", "--temperature", 1, "--judge_temperature", 1)
    run(*settings)
    whole = read(tmp_path / "out.jsonl")
    assert len(whole) > 2 and len({step["revision"] for row in whole for step in row["steps"]}) > 2
    run(*settings, "--batch_size", 3, "--overwrite")
    assert read(tmp_path / "out.jsonl") == whole
    run(*settings, "--judge_dir", "model", "--overwrite")
    assert read(tmp_path / "out.jsonl") == whole


@pytest.mark.parametrize(
    "text, words",
    [
        ("- {name: a, critique: b, revise: c}\n- {name: a, critique: d, revise: e}", "c.yaml:2: a principle is called"),
        ("- {name: a, critique: b}", "c.yaml:1: this principle has no 'revise'"),
        ("- name: a\n  critique: b\n  revice: c", "c.yaml:3: unknown key 'revice': did you mean 'revise'?"),
        ("- name: a\n  critique: no\n  revise: c", "c.yaml:2: 'critique' must be a text"),
        ("- name: a\n  critique: ' '\n  revise: c", "c.yaml:2: 'critique' must be a text"),
        ("- name: a\n  name: b", "c.yaml:2: 'name' is there twice"),
        ("\n- harmless", "c.yaml:2: a principle must be lines"),
        ("name: a", "c.yaml:1: must be a list of principles"),
        ("", "c.yaml:1: must be a list of principles"),
        ("- {", "c.yaml:"),
    ],
)
def test_a_fault_of_a_constitution_is_named_by_its_line(run, tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    done = run("--judge_url", "http://127.0.0.1:9", "--judge_model", "m", "--constitution", "c.yaml", code=2)
    assert words in done.stderr


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "give one of model, judge_url, judge_dir"),
        (("--judge_url", "http://h", "--judge_model", "m", "--judge_dir", "d"), "judges already; give one of the two"),
        (("--judge_url", "http://127.0.0.1:9", "--judge_model", "m"), "no server answers there"),
        (("--judge_dir", "nowhere"), "nowhere"),
        (("--model", "nowhere", "--output", "out.json"), "must end with .jsonl"),
    ],
)
def test_what_cannot_work_is_bad_input(run, words, message):
    assert message in run(*words, code=2).stderr


def test_columns_that_would_change_what_a_row_is_are_found_before_anything_is_asked(run, tmp_path):
    write(tmp_path / "prompts.jsonl", [PROMPTS[0] | {"label": True}])
    with chat.chat_server(kinder) as (url, requests):
        done = run("--judge_url", url, "--judge_model", "m", code=2)
    assert "prompts.jsonl:1: with its columns (word, label) the new row would be read as unpaired" in done.stderr
    assert requests == []
