"""easyrlhf generate: what is drawn, what is kept, that the stages read it, and going on after a stop."""

import json
import math
import re
import shlex
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.cli import chat, score
from easyrlhf.cli import generate as command_line
from easyrlhf.cli.main import main
from easyrlhf.cli.stages import dpo_train, sft_train
from easyrlhf.config import GenerateConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import SettingError
from easyrlhf.tools import generate, output
from easyrlhf.tools.answer_rows import GeneratedAnswer, kept, kl_bound

PAGE = Path(__file__).parents[2] / "docs" / "using_models.md"
WORDS = ["red", "blue", "green", "cat", "dog", "owl", "one"]
PROMPTS = [{"prompt": [{"role": "user", "content": f"Say {word}."}], "id": i} for i, word in enumerate(WORDS)]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def model(ending_model) -> str:
    """A model of random weights."""
    return ending_model


@pytest.fixture
def run(model, tmp_path):
    """run(name, *words) -> the command's result and its rows; prompts are PROMPTS unless the words name others."""
    prompts = write(tmp_path / "prompts.jsonl", PROMPTS)

    def call(name: str, *words: str, code: int = 0):
        out = tmp_path / f"{name}.jsonl"
        asked = [] if "--prompts" in words else ["--prompts", prompts]
        given = [*asked, "--output", str(out), "--max_new_tokens", "6", "--devices", "cpu"]
        done = CliRunner().invoke(
            command_line.command, [model, *given, *map(str, words)], prog_name="easyrlhf generate"
        )
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.stderr
        return done, read(out) if code == 0 else []

    return call


@pytest.fixture
def letters(monkeypatch, rm):
    """A reward made by hand, the sum of the tokens modulo 4: ties are many."""

    def reward(scorer, sequences, limit):
        return [float(sum(ids) % 4) for ids in sequences]

    monkeypatch.setattr(generate, "scores_of", reward)
    return ("--reward_model", rm.folder)


def by_prompt(rows: list[dict]) -> list[list[dict]]:
    return [[row for row in rows if row["id"] == i] for i in range(len(PROMPTS))]


def test_greedy_answers_are_those_of_transformers(run, model):
    tokenizer, lm = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    _, rows = run("greedy", "--temperature", 0)
    assert [row["id"] for row in rows] == list(range(7))
    for row, asked in zip(rows, PROMPTS, strict=True):
        ids = tokenizer.apply_chat_template(
            asked["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        new = lm.generate(**ids, do_sample=False, max_new_tokens=6)[0, ids["input_ids"].shape[1] :]
        text = tokenizer.decode(new, skip_special_tokens=True).strip()
        finished = new[-1].item() == tokenizer.eos_token_id
        answer = [{"role": "assistant", "content": text}]
        assert row == {"prompt": asked["prompt"], "completion": answer, "sample": 0, "finished": finished} | {
            "id": asked["id"]
        }


def test_samples_stand_in_the_order_of_the_prompts_whatever_the_batch(run):
    done, rows = run("wide", "--samples", 5)
    assert [(row["id"], row["sample"]) for row in rows] == [(i, k) for i in range(7) for k in range(5)]
    for batch_size in (1, 11):
        assert run(f"narrow{batch_size}", "--samples", 5, "--batch_size", batch_size)[1] == rows
    assert run("few", "--samples", 2)[1] == [row for row in rows if row["sample"] < 2]
    assert run("other", "--samples", 5, "--seed", 1)[1] != rows
    assert len({row["completion"][0]["content"] for row in rows}) > 20
    cut = sum(not row["finished"] for row in rows)
    assert 0 < cut < 35
    assert f"warning: {cut} of the answers written were cut off at --max_new_tokens 6" in done.stdout
    finished, kept = run("finished", "--samples", 5, "--only_finished")
    assert kept == [row for row in rows if row["finished"]]
    assert f"left out: {cut} cut off" in finished.stdout and "were cut off" not in finished.stdout


def test_plain_prompts_give_plain_completions(run, tmp_path):
    write(tmp_path / "plain.jsonl", [{"prompt": "The sky"}, {"prompt": "The grass is"}])
    _, rows = run("out", "--prompts", tmp_path / "plain.jsonl")
    assert [row["prompt"] for row in rows] == ["The sky", "The grass is"]
    assert all(isinstance(row["completion"], str) for row in rows)


def test_best_of_n_takes_the_highest_reward_of_the_same_samples(run, letters):
    everything = by_prompt(run("all", "--samples", 8, *letters)[1])
    done, best = run("best", "--best_of", 8, *letters)
    expected = []
    for rows in everything:
        top = None
        for row in rows:  # the first of equals, and none without a text
            if row["completion"][0]["content"] and (top is None or row["reward"] > top["reward"]):
                top = row
        expected.append(top)
    assert best == expected
    assert len({row["sample"] for row in best}) > 2 and any(row["sample"] for row in best)
    firsts = sum(rows[0]["reward"] for rows in everything) / 7
    tops = sum(row["reward"] for row in expected) / 7
    assert f"mean reward: first answer {firsts:+.4f}, best of 8 {tops:+.4f}" in done.stdout
    assert "KL(best of 8 || model) <= log 8 - 7/8 = 1.2044 nats" in done.stdout  # 2.0794 - 0.875


@pytest.mark.parametrize("n, nats", [(1, 0.0), (2, 0.19315), (4, 0.63629), (16, 1.83509)])
def test_the_bound_on_kl(n, nats):
    assert kl_bound(n) == pytest.approx(nats, abs=1e-5)


@torch.no_grad()
def test_the_bound_holds_exactly_where_no_two_rewards_are_equal():
    """The best of n of m equally likely answers: P(k) = (k/m)^n - ((k-1)/m)^n; its KL tends to the bound from below."""
    n, gaps = 4, []
    for m in (10, 100, 10_000):
        p = [((k + 1) / m) ** n - (k / m) ** n for k in range(m)]
        gaps.append(kl_bound(n) - sum(q * math.log(q * m) for q in p))
    assert all(gap > 0 for gap in gaps) and gaps == sorted(gaps, reverse=True) and gaps[-1] < 1e-3


def test_rejection_sampling_keeps_what_reaches_the_reward(run, letters):
    rows = run("all", "--samples", 8, *letters)[1]
    middle = sorted(row["reward"] for row in rows)[40]
    told = [row for row in rows if row["completion"][0]["content"]]
    done, kept = run("good", "--samples", 8, "--min_reward", middle, *letters)
    assert kept == [row for row in told if row["reward"] >= middle]
    assert 0 < len(kept) < len(told)
    assert f"{len(told) - len(kept)} below --min_reward" in done.stdout
    none, _ = run("none", "--samples", 8, "--min_reward", 1000, *letters, code=1)
    assert "is empty, since no answer could be kept" in none.stderr and "mean reward" in none.stdout


def test_comparisons_are_the_best_against_the_worst_and_no_ties(run, letters):
    everything = by_prompt(run("all", "--samples", 2, *letters)[1])
    expected, ties = [], 0
    for rows in everything:
        told = sorted((row for row in rows if row["completion"][0]["content"]), key=lambda row: row["reward"])
        if len(told) > 1 and told[-1]["reward"] > told[0]["reward"]:
            expected.append((told[0]["id"], told[-1]["reward"], told[0]["reward"]))
        else:
            ties += len(told) > 1
    done, pairs = run("pairs", "--samples", 2, "--to", "comparisons", *letters)
    assert [(row["id"], row["chosen_reward"], row["rejected_reward"]) for row in pairs] == expected
    assert 0 < ties < 7 and f"{ties} comparisons whose rewards are equal" in done.stdout
    texts = {(r["id"], r["completion"][0]["content"]): r["reward"] for rows in everything for r in rows}
    for row in pairs:
        assert texts[row["id"], row["chosen"][0]["content"]] == row["chosen_reward"]
        assert texts[row["id"], row["rejected"][0]["content"]] == row["rejected_reward"]
    wide = sorted(high - low for _, high, low in expected)[-1]
    _, far = run("far", "--samples", 2, "--to", "comparisons", "--min_margin", wide, *letters)
    assert [row["id"] for row in far] == [i for i, high, low in expected if high - low >= wide]
    assert len(far) < len(pairs)


@pytest.mark.parametrize(
    "settings, samples, left",
    [
        ({"samples": 5}, [0, 1, 2, 3, 4], {}),
        ({"samples": 5, "only_finished": True}, [0, 2, 3, 4], {"cut off": 1}),
        ({"best_of": 5}, [1], {"empty": 1, "too long for the reward model": 1}),
        ({"best_of": 5, "only_finished": True}, [2], {"empty": 1, "too long for the reward model": 1, "cut off": 1}),
        ({"samples": 5, "min_reward": 3}, [1, 2], {"below --min_reward": 1}),
        ({"best_of": 5, "min_reward": 6}, [], {"below --min_reward": 1, "empty": 1}),
        ({"samples": 5, "to": "comparisons"}, [(1, 4)], {"empty": 1}),
        ({"samples": 5, "to": "comparisons", "only_finished": True}, [(2, 4)], {"cut off": 1}),
        ({"samples": 5, "to": "comparisons", "min_margin": 4.5}, [], {generate.TIED: 1}),
    ],
)
def test_what_is_kept_of_five_answers(settings, samples, left):
    """An empty one is liked best, the next best was cut off, one is too long for the reward model."""
    five = [("", True, 9.0), ("a", False, 5.0), ("b", True, 3.0), ("c", True, None), ("d", True, 1.0)]
    answers = [GeneratedAnswer(i, text, ended, reward, judged=True) for i, (text, ended, reward) in enumerate(five)]
    config = GenerateConfig(model="m", prompts="p", output="o.jsonl", reward_model="r", **settings)
    tally = Counter()
    rows = kept(config, {"prompt": '"Say"', "columns": '{"id": 7}'}, answers, tally)
    texts = [text for text, _, _ in five]
    found = [
        row.get("sample", (texts.index(row.get("chosen", "")), texts.index(row.get("rejected", "")))) for row in rows
    ]
    assert found == samples
    assert all(row["prompt"] == "Say" and row["id"] == 7 for row in rows)
    assert {reason: tally[reason] for reason in left} == left
    assert (tally["answers"], tally["rows"], tally["without"]) == (5, len(samples), not samples)


def test_answers_too_long_for_the_reward_model_have_no_reward_and_are_never_the_best(run, rm, monkeypatch):
    _, rows = run("plain", "--samples", 4, "--reward_model", rm.folder)
    assert all(row["reward"] is not None for row in rows)
    tokens = load_tokenizer(rm.folder)
    length = {
        id(row): len(tokens.apply_chat_template(row["prompt"] + row["completion"], return_dict=False))
        - 1  # line break
        - (not row["finished"])
        for row in rows
    }
    limit = sorted(length.values())[14]
    monkeypatch.setattr(generate, "positions_of", lambda *_, **__: limit)
    said, null = run("null", "--samples", 4, "--reward_model", rm.folder)
    expected = [row["reward"] if length[id(row)] <= limit else None for row in rows]
    assert [row["reward"] for row in null] == pytest.approx(expected, abs=1e-4)
    count = sum(row["reward"] is None for row in null)
    assert 0 < count < 28 and f"{count} of the answers written have no reward (null)" in said.stdout
    said, best = run("best", "--best_of", 4, "--reward_model", rm.folder)
    assert f"{count} too long for the reward model" in said.stdout
    for row in best:
        usable = [r["reward"] for r in by_prompt(null)[row["id"]] if r["reward"] is not None]
        assert row["reward"] == pytest.approx(max(usable), abs=1e-4)


def test_the_stages_read_what_is_written_and_score_gives_the_same_rewards(run, rm, model, tmp_path):
    renderer = Renderer(load_tokenizer(model))
    settings = DataSettings(max_length=64, max_prompt_length=40, cache_dir=tmp_path)
    _, best = run("best", "--best_of", 4, "--reward_model", rm.folder)
    _, pairs = run("pairs", "--samples", 4, "--to", "comparisons", "--reward_model", rm.folder)
    for name, kind, rows in (("best", "demonstration", best), ("pairs", "comparison", pairs)):
        data = load_tokens(str(tmp_path / f"{name}.jsonl"), kind, renderer, settings)
        assert data.summary.used == len(rows) > 0 and not data.summary.dropped
    data = load_tokens(str(tmp_path / "pairs.jsonl"), "comparison", renderer, settings)
    assert set(data.rows["margin"]) == {0.0}  # rewards are no margins
    sides = {f"{side}_reward": f"{side}_score" for side in ("chosen", "rejected")}
    assert not all(row["rejected_finished"] for row in pairs)
    for name, columns in (("best", {"reward": "score"}), ("pairs", sides)):
        out = tmp_path / f"{name}_scored.jsonl"
        words = ["--data", str(tmp_path / f"{name}.jsonl"), "--output", str(out), "--devices", "cpu"]
        assert CliRunner().invoke(score.command, [rm.folder, *words], prog_name="score").exit_code == 0
        scored = read(out)
        for theirs, ours in columns.items():
            assert [row[theirs] for row in scored] == pytest.approx([row[ours] for row in scored], abs=1e-4)


def test_a_stopped_command_goes_on_to_the_same_bytes(run, rm, tmp_path, monkeypatch):
    words = ("--best_of", 4, "--batch_size", 8, "--reward_model", rm.folder)  # two prompts at a time
    whole, _ = run("whole", *words)
    expected = (tmp_path / "whole.jsonl").read_bytes()

    remember, done = output.Output._remember, []

    def killed(self):
        """The rows of the second chunk are on disk, but not yet known to be."""
        done.append(self.done)
        if len(done) == 3:
            raise KeyboardInterrupt
        remember(self)

    with monkeypatch.context() as patch:
        patch.setattr(output.Output, "_remember", killed)
        run("parts", *words, code=3)
    assert done == [0, 2, 4]
    part = tmp_path / "parts.jsonl.part"
    assert part.read_bytes() == b"".join(expected.splitlines(keepends=True)[:4])
    part.write_bytes(part.read_bytes() + expected[:17])
    assert not (tmp_path / "parts.jsonl").exists()

    numbers, draw = [], generate.draw_answers
    monkeypatch.setattr(generate, "draw_answers", lambda *args: numbers.append(list(args[-1])) or draw(*args))
    again, _ = run("parts", *words)
    assert (tmp_path / "parts.jsonl").read_bytes() == expected
    assert numbers == [[2, 3], [4, 5], [6]] and not part.exists()
    same = [line.replace("whole", "parts") for line in whole.stdout.splitlines()]
    assert again.stdout.splitlines() == same  # counts and means are those of all prompts

    complete, _ = run("parts", *words)
    assert "parts.jsonl: is complete already; nothing to do" in complete.stdout and len(numbers) == 3


def test_a_file_is_only_gone_on_with_when_nothing_has_changed(run, model, tmp_path):
    _, rows = run("out")
    changed, _ = run("out", "--seed", 7, "--temperature", 0.5, code=2)
    assert "seed: 42 → 7" in changed.stderr and "temperature: 1.0 → 0.5" in changed.stderr
    assert read(tmp_path / "out.jsonl") == rows
    assert run("out", "--batch_size", 3)[1] == rows  # decides no answer

    write(tmp_path / "prompts.jsonl", PROMPTS[::-1])
    data, _ = run("out", code=2)
    assert "the data have changed" in data.stderr
    assert [row["id"] for row in run("out", "--overwrite")[1]] == list(range(6, -1, -1))

    (Path(model) / "stage.json").write_text(json.dumps({"status": "complete", "stage": "sft"}))
    try:
        retrained, _ = run("out", code=2)
        assert "stage of model: None → " in retrained.stderr
    finally:
        (Path(model) / "stage.json").unlink()

    write(tmp_path / "mine.jsonl", [{"a": 1}])
    foreign, _ = run("mine", code=2)
    assert "mine.jsonl: exists, and this command did not write it" in foreign.stderr
    assert read(tmp_path / "mine.jsonl") == [{"a": 1}]
    itself, _ = run("prompts", "--overwrite", code=2)
    assert "is also --prompts, which it would replace" in itself.stderr


def test_an_overwritten_file_stays_until_the_new_one_is_complete(run, tmp_path, monkeypatch):
    _, rows = run("out")
    with monkeypatch.context() as patch:
        patch.setattr(generate, "draw_answers", lambda *args: pytest.fail("stopped"))
        with pytest.raises(BaseException, match="stopped"):
            run("out", "--overwrite", "--seed", 3)
    assert read(tmp_path / "out.jsonl") == rows
    assert run("out", "--seed", 3)[1] != rows  # goes on with what --overwrite began


def test_two_commands_do_not_write_one_file(run, tmp_path):
    config = GenerateConfig(model="m", prompts="p", output=str(tmp_path / "out.jsonl"))
    with output.open_output(config):
        done, _ = run("out", code=2)
    assert "another command is writing it" in done.stderr
    run("out")


@pytest.mark.parametrize(
    "words, message",
    [
        (("--best_of", 4), "best_of 4: needs reward_model"),
        (("--min_reward", 1), "min_reward 1.0: needs reward_model"),
        (("--to", "comparisons", "--samples", 4), "to comparisons: needs reward_model"),
        (("--to", "comparisons", "--reward_model", "RM"), "to comparisons: needs two answers or more"),
        (("--to", "comparisons", "--best_of", 4, "--reward_model", "RM"), "give samples instead of best_of"),
        (("--samples", 2, "--best_of", 4, "--reward_model", "RM"), "samples 2: best_of 4 says how many are drawn"),
        (
            ("--to", "comparisons", "--samples", 4, "--min_reward", 1, "--reward_model", "RM"),
            "min_reward 1.0: belongs to demonstrations",
        ),
        (("--min_margin", 1, "--reward_model", "RM"), "min_margin 1.0: belongs to comparisons"),
        (("--samples", 2, "--temperature", 0), "temperature 0.0: draws the same answer every time"),
        (("--output", "out.json"), "output out.json: must end with .jsonl"),
        (("--max_length", 6), "max_new_tokens 6: must be less than max_length 6"),
        (("--max_length", 4096), "was made for 1024 tokens at most"),
        (("--max_new_tokens", 1024), "use --max_new_tokens 512 or less"),
        (("--max_length", 20, "--max_prompt_length", 19), "there is room for 14 tokens"),
        (("--max_prompt_length", 5), "too long for --max_length"),
        (("--model", "RM"), "is a reward model, which scores answers and writes none"),
        (("--adapter", "RM"), "has no adapter_config.json"),
        (("--reward_model", "MODEL"), "has no value_head.safetensors"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(run, rm, model, words, message, monkeypatch):
    monkeypatch.setattr(generate, "load_sampler", lambda *_: pytest.fail("the model was loaded first"))
    names = {"RM": rm.folder, "MODEL": model}
    done, _ = run("out", *(names.get(word, word) for word in words), code=2)
    assert message in done.stderr


def test_columns_that_would_change_how_a_row_reads_are_refused(run, tmp_path):
    write(tmp_path / "labelled.jsonl", [{"prompt": "The sky", "label": True}])
    done, _ = run("out", "--prompts", tmp_path / "labelled.jsonl", code=2)
    assert "with the columns of prompt 1 (label) the new row would be read as unpaired" in done.stderr


def test_no_setting_is_lost_between_python_and_the_command_line():
    with pytest.raises(SettingError, match="best_of 1: must be 2 or more"):
        GenerateConfig(model="m", prompts="p", output="o.jsonl", reward_model="r", best_of=1)


# --- docs/using_models.md


def test_every_command_of_the_page_parses(monkeypatch, tmp_path):
    seen = []
    tools = ("chat.chat", "generate.generate", "score.score", "finish.finish_run", "exporting.export.export_model")
    for target in (*(f"tools.{tool}" for tool in tools), "stages.sft.train_sft", "stages.preference.train_dpo"):
        monkeypatch.setattr(f"easyrlhf.{target}", seen.append)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in "\n".join(blocks).replace("\\\n", " ").splitlines()]
    programs = {"easyrlhf": main, "sft_train": sft_train, "dpo_train": dpo_train}
    for program, *words in filter(None, lines):
        done = CliRunner().invoke(programs[program], words, prog_name=program)
        assert done.exit_code == 0, (words, done.output)
    assert len(seen) == len(list(filter(None, lines))) > 10


@pytest.mark.parametrize("command", [chat.command, command_line.command, score.command])
def test_help_is_narrow_and_its_examples_parse(command, monkeypatch):
    module, function = command.target.split(":")
    seen = []
    monkeypatch.setattr(f"{module}.{function}", seen.append)
    page = CliRunner().invoke(command, ["--help"], prog_name=f"easyrlhf {command.name}").stdout
    assert max(map(len, page.splitlines())) <= 100
    for example in command.page.examples:
        done = CliRunner().invoke(command, shlex.split(example)[2:], prog_name="easyrlhf")
        assert done.exit_code == 0, done.output
    assert len(seen) == len(command.page.examples)


def printed(model: str, *words: str, stdin: str | bytes = "", code: int = 0):
    """What the command prints when its answers go to standard output; without the lines that say what is loaded."""
    given = [model, "--max_new_tokens", "6", "--devices", "cpu", *words]
    done = CliRunner().invoke(command_line.command, given, prog_name="easyrlhf generate", input=stdin)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.stderr
    said = re.sub(r"^(loading|reading) .* …\n", "", done.stderr, flags=re.MULTILINE)
    return SimpleNamespace(stdout=done.stdout, stderr=said)


def test_the_answer_to_a_prompt_is_printed_and_nothing_else(model, run):
    _, rows = run("rows", "--temperature", "0")
    done = printed(model, "--prompt", "Say red.", "--temperature", "0")
    assert done.stdout == output.printable(rows[0]["completion"][0]["content"]) + "\n"
    piped = printed(model, "--prompt", "-", "--temperature", "0", stdin="Say red.\n")
    assert piped.stdout == done.stdout
    assert piped.stderr == ("" if rows[0]["finished"] else "note: 1 of 1 answers were cut off at --max_new_tokens 6\n")


def test_answers_to_several_texts_stand_below_them(model, run, rm):
    _, rows = run("rows", "--samples", "2", "--reward_model", rm.folder)
    done = printed(
        model, "--prompt", "Say red.", "--prompt", "Say blue.", "--samples", "2", "--reward_model", rm.folder
    )
    expected = ""
    for number, word in enumerate(["red", "blue"]):
        expected += f"> Say {word}.\n"
        for sample in range(2):
            row = rows[2 * number + sample]
            said = output.printable(row["completion"][0]["content"])
            expected += f"[answer {sample + 1}, reward {row['reward']:+.4f}]\n{said}\n\n"
    assert done.stdout == expected


def test_rows_go_through_the_command_from_standard_input_to_standard_output(model, run):
    _, rows = run("rows")
    lines = "".join(json.dumps(row) + "\n" for row in PROMPTS)
    done = printed(model, "--prompts", "-", "--output", "-", stdin=lines)
    assert [json.loads(line) for line in done.stdout.splitlines()] == rows
    assert "standard output: 7 rows of 7 prompts and 7 answers" in done.stderr and "next:" not in done.stderr
    done = printed(model, "--prompts", "-", "--output", "-", stdin=json.dumps(PROMPTS))
    assert [json.loads(line) for line in done.stdout.splitlines()] == rows


def test_a_text_may_be_answered_into_a_file_as_a_row(model, run, tmp_path):
    _, rows = run("rows")
    out = tmp_path / "text.jsonl"
    printed(model, "--prompt", "Say red.", "--output", str(out))
    assert read(out) == [{name: value for name, value in rows[0].items() if name != "id"}]


def test_texts_keep_their_commas_and_may_be_called_none():
    for text in ("a, b", "none", " a\\n"):
        assert GenerateConfig(model="m", prompt=text).texts == (text,)
    config = GenerateConfig(model="m", prompt=["a, b", "-"])
    assert config.texts == ("a, b", "-") == GenerateConfig(model="m", prompt=config.prompt).texts


@pytest.mark.parametrize(
    "words, stdin, message",
    [
        (["--prompt", "a", "--prompts", "p"], "", "--prompt: prompts are given as well; give one of the two"),
        ([], "", "prompts: nothing to answer; give a file of prompts, or a text with prompt"),
        (["--prompts", "-"], "", "output: give the file for the answers, such as answers.jsonl, or - for standard out"),
        (["--prompt", " "], "", "--prompt ' ': says nothing; give a text to answer"),
        (["--prompt", "-"], "\n", "--prompt: text 1 says nothing"),
        (["--prompt", "-"], b"\xff", "standard input: not text in UTF-8 (invalid start byte at byte 0); convert it"),
        (
            ["--prompt", "a", "b"],
            "",
            "stray argument b; a text with spaces needs quotes around it, as in --prompt '… b'",
        ),
        (["--prompt", "a", "--field", "x=y"], "", "--field x=y: belongs to prompts; leave it out"),
        (
            ["--prompt", "a", "--prompt", "b " * 2000],
            "",
            "--prompt: text 2 has 4,008 tokens, more than 1,018, wh",
        ),
        (
            ["--prompts", "-", "--output", "-"],
            "Hi, there",
            "standard input: begins with 'Hi, there'; expected one JS",
        ),
        (["--prompts", "-", "--output", "-"], "", "standard input: is empty; pipe rows into the command"),
        (
            ["--prompts", "-", "--output", "-"],
            '{"prompt": "a"}\n{"prompt"',
            "standard input:2: not JSON (Expecting '",
        ),
        (
            ["--prompts", "-", "--output", "-"],
            "[1, 2",
            "standard input: not one JSON list in UTF-8 (Expecting ',' ",
        ),
    ],
)
def test_what_cannot_be_answered_is_said(model, words, stdin, message):
    assert printed(model, *words, stdin=stdin, code=2).stderr.startswith(f"error: {message}")
