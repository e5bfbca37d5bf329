"""easyrlhf compare: what is asked and measured, what the numbers say, bad input, and going on after a stop."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM

from easyrlhf.cli import compare as command_line
from easyrlhf.cli import generate as generate_line
from easyrlhf.config import CompareConfig
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.judges import judge_server
from easyrlhf.report.compare_page import pairs_to_read
from easyrlhf.report.comparison import ComparedAnswer, JudgeVerdict, measured, short_names
from easyrlhf.tools.comparing import compare, contestants
from easyrlhf.tools.journal import Journal
from easyrlhf.userfile import load_module

pytestmark = pytest.mark.usefixtures("pictures")

chat = load_module(Path(__file__).parents[1] / "judges" / "chat_server.py")
PAGE = Path(__file__).parents[2] / "docs" / "comparing.md"
KEY = "sk-test-0123456789"
WORDS = ["red", "blue", "green", "cat", "dog", "owl", "one"]
PROMPTS = [{"prompt": [{"role": "user", "content": f"Say {word}."}], "word": word} for word in WORDS]
FUNCTIONS = """
def longer(prompt, answer_a, answer_b, word):
    return "A" if len(answer_a) > len(answer_b) else "B" if len(answer_b) > len(answer_a) else "tie"

def first(prompt, answer_a, answer_b, **columns):
    return "A"

def size(prompts, completions, word, **columns):
    return [len(completion[0]["content"]) for completion in completions]

def sometimes(completions, **columns):
    return [None if len(c[0]["content"]) % 2 else 1.0 for c in completions]

def fails(completions, **columns):
    raise ValueError("not today")
"""


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture(scope="module")
def models(rm, tmp_path_factory):
    """Folders of three random models with one tokenizer; they differ in how soon they end, and end some answers."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = load_tokenizer(str(rm.root / "init"))
    for name, keen in (("soon", 4.0), ("late", 3.0), ("later", 2.0)):
        lm = AutoModelForCausalLM.from_pretrained(rm.root / "init")
        with torch.no_grad():
            lm.get_output_embeddings().weight[tokenizer.eos_token_id] *= keen
        lm.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture
def run(models, tmp_path, monkeypatch):
    """run(*words, models=…, code=0) -> the command's result; `out` is its folder."""
    write(tmp_path / "prompts.jsonl", PROMPTS)
    (tmp_path / "judge.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)

    def call(*words, names=("soon", "late"), code: int = 0):
        asked = [] if "--prompts" in words else ["--prompts", "prompts.jsonl"]
        given = [*(str(models / name) for name in names), *asked, "--max_new_tokens", "6"]
        given += ["--devices", "cpu", "--output_dir", "out", *map(str, words)]
        done = CliRunner().invoke(command_line.command, given, prog_name="easyrlhf compare")
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.stderr
        return done

    return call


def found(folder: Path) -> dict:
    return json.loads((folder / "out" / "compare.json").read_text())


def answers_of(folder: Path, name: str) -> list[dict]:
    return [row for row in read(folder / "out" / "answers.jsonl") if Path(row["model"]).name == name]


# --- what is asked and measured


def test_answers_and_scores_are_those_of_generate(run, rm, models, tmp_path):
    run("--reward_model", rm.folder, "--samples", 3, names=("soon", "late", "later"))
    for name in ("soon", "late", "later"):
        words = [str(models / name), "--prompts", "prompts.jsonl", "--output", f"{name}.jsonl", "--samples", "3"]
        words += ["--reward_model", rm.folder, "--max_new_tokens", "6", "--devices", "cpu"]
        assert CliRunner().invoke(generate_line.command, words, prog_name="easyrlhf generate").exit_code == 0
        theirs, ours = read(tmp_path / f"{name}.jsonl"), answers_of(tmp_path, name)
        same = ("prompt", "completion", "sample", "finished")
        assert [[row[key] for key in same] for row in ours] == [[row[key] for key in same] for row in theirs]
        rewards = [row["reward"] for row in theirs]
        assert [row["scores"]["reward_model"] for row in ours] == pytest.approx(rewards, abs=1e-5)
    assert [entry["model"] for entry in found(tmp_path)["comparisons"]] == ["late", "later"]
    assert [row["columns"] for row in ours] == [{"word": word} for word in WORDS for _ in range(3)]


def test_win_rate_and_differences_are_those_of_the_scores(run, rm, tmp_path):
    run("--reward_model", rm.folder, "--reward_funcs", "judge.py:size")
    by_model, by_size = found(tmp_path)["comparisons"]
    first, other = answers_of(tmp_path, "soon"), answers_of(tmp_path, "late")
    for entry, name in ((by_model, "reward_model"), (by_size, "size")):
        gaps = [b["scores"][name] - a["scores"][name] for a, b in zip(first, other, strict=True)]
        wins, ties = sum(gap > 1e-6 for gap in gaps), sum(abs(gap) <= 1e-6 for gap in gaps)
        assert (entry["wins"], entry["ties"], entry["losses"]) == (wins, ties, 7 - wins - ties)
        assert entry["win_rate"] == pytest.approx((wins + ties / 2) / 7)
        assert entry["difference"]["mean"] == pytest.approx(sum(gaps) / 7, abs=1e-6)
    sizes = [len(row["completion"][0]["content"]) for row in other]
    assert [row["scores"]["size"] for row in other] == sizes
    assert found(tmp_path)["models"][1]["characters"]["mean"] == pytest.approx(sum(sizes) / 7)


def test_kl_is_the_mean_log_ratio_of_the_models_own_answers(run, models, tmp_path, monkeypatch):
    """Against transformers' logits, divided by the temperature, of each sequence alone."""
    monkeypatch.setattr(compare, "remove_parts", lambda folder: None)  # the journal has the token ids
    run("--reward_funcs", "judge.py:size", "--samples", 2, "--temperature", 0.7, "--batch_size", 5)
    tokenizer = load_tokenizer(str(models / "soon"))
    first, other = (AutoModelForCausalLM.from_pretrained(models / name).eval() for name in ("soon", "late"))
    ratios = []
    journal = Journal(tmp_path / "out" / "answers.jsonl.part", compare.ANSWER_KEY)
    for (model, number, _), record in journal.records.items():
        if model == 0:
            continue
        asked = tokenizer.apply_chat_template(PROMPTS[number]["prompt"], add_generation_prompt=True)["input_ids"]
        ids = torch.tensor([asked + record["ids"]])
        sums = []
        for lm in (other, first):
            with torch.no_grad():
                logprobs = (lm(ids).logits[0, len(asked) - 1 : -1] / 0.7).log_softmax(-1)
            sums.append(logprobs.gather(1, ids[0, len(asked) :, None]).sum().item())
        ratios.append(sums[0] - sums[1])
    entry = found(tmp_path)["models"][1]
    assert len(ratios) == 14
    assert entry["kl"]["mean"] == pytest.approx(sum(ratios) / 14, abs=1e-4)
    assert abs(entry["kl"]["mean"]) > 0.01
    assert found(tmp_path)["models"][0]["kl"] is None


def test_answers_do_not_depend_on_the_batch(run, tmp_path):
    run("--reward_funcs", "judge.py:size", "--samples", 2)
    wide = read(tmp_path / "out" / "answers.jsonl")
    run("--reward_funcs", "judge.py:size", "--samples", 2, "--batch_size", 3, "--overwrite")
    narrow = read(tmp_path / "out" / "answers.jsonl")
    assert [row["completion"] for row in narrow] == [row["completion"] for row in wide]


def test_another_tokenizer_is_compared_without_kl(run, model_folder, tmp_path, models):
    other = model_folder("other")
    done = run("--judge", "judge.py:longer", names=("soon", other))
    entry = found(tmp_path)["models"][1]
    assert entry["kl"] is None
    assert "no KL of other: its tokenizer or chat template is another than that of" in done.stdout
    assert found(tmp_path)["comparisons"][0]["n"] == 7


def test_prompts_too_long_for_one_model_are_left_out_for_all(run, model_folder, tmp_path):
    """The other model was made for 40 tokens, of which answers take 6."""
    other = model_folder("small", max_position_embeddings=40)
    rows = [*PROMPTS, {"prompt": [{"role": "user", "content": "red blue green " * 4}], "word": "long"}]
    write(tmp_path / "prompts.jsonl", rows)
    done = run("--reward_funcs", "judge.py:size", names=("soon", other))
    assert f"dropped: 1 prompts of more than 34 tokens for {other}" in done.stdout
    assert found(tmp_path)["prompts"] == 7
    assert {row["columns"]["word"] for row in read(tmp_path / "out" / "answers.jsonl")} == set(WORDS)


def test_at_temperature_0_nothing_is_random_and_no_kl_is_claimed(run):
    done = run("--reward_funcs", "judge.py:size", "--temperature", 0)
    assert "no KL of late: at --temperature 0 nothing is drawn at random" in done.stdout


# --- judges


def test_a_judge_function_sees_every_pair_in_both_orders(run, tmp_path):
    done = run("--judge", "judge.py:longer")
    rows = read(tmp_path / "out" / "judgements.jsonl")
    said = {
        (row["model"], row["number"]): row["completion"][0]["content"] for row in read(tmp_path / "out/answers.jsonl")
    }
    for row in rows:
        gap = len(said[row["a"], row["number"]]) - len(said[row["b"], row["number"]])
        assert row["prefers_a"] == (gap > 0) + 0.5 * (gap == 0)
    pairs = {(row["number"], Path(row["a"]).name) for row in rows}
    assert len(rows) == len(pairs) and {name for _, name in pairs} == {"soon", "late"}
    assert found(tmp_path)["judge"]["agreement"] == 1.0
    assert "its two orders agree in 100.0%" in done.stdout


def test_a_judge_that_looks_at_the_place_alone_tells_nothing(run, tmp_path):
    done = run("--judge", "judge.py:first")
    [entry] = found(tmp_path)["comparisons"]
    assert (entry["wins"], entry["ties"], entry["losses"], entry["win_rate"]) == (0, 7, 0, 0.5)
    assert found(tmp_path)["judge"]["agreement"] == 0.0
    assert "its two orders agree in 0.0%" in done.stdout
    assert "no difference can be told between late and soon by judge with 7 prompts" in done.stdout


def test_a_server_judges_and_its_key_is_nowhere(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", KEY)
    monkeypatch.setattr(judge_server.time, "sleep", lambda seconds: None)
    numbers = iter(range(10_000))

    def answer(request):
        number = next(numbers)
        if number % 5 == 0:
            return 500, f"the key {KEY} is fine, the server is not".encode()
        return chat.reply("no idea" if "Say cat." in request.question else f"A{'.' * (number % 2)}")

    with chat.chat_server(answer) as (url, requests):
        words = ("--judge_url", url, "--judge_model", "big", "--judge_key_env", "MINE", "--judge_workers", 3)
        done = run(*words)
    judge = found(tmp_path)["judge"]
    assert judge["unreadable"] == 1 and judge["agreement"] == 0.0
    assert found(tmp_path)["comparisons"][0]["left_out"] == 1
    assert "1 could not be read" in done.stdout and "1 pairs of late are left out by judge" in done.stdout
    assert {request.key for request in requests} == {f"Bearer {KEY}"}
    written = [path.read_bytes() for path in (tmp_path / "out").iterdir()]
    assert len(written) == 5
    assert not any(KEY.encode() in text for text in written)
    assert KEY not in done.output


def test_a_server_that_refuses_stops_and_the_same_command_asks_only_for_the_rest(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refusing = [True]
    done_questions = []

    def answer(request):
        if refusing[0] and len(done_questions) == 5:
            return 402, f"no credit left on {KEY}".encode()
        done_questions.append(request.question)
        return chat.reply("B")

    with chat.chat_server(answer) as (url, _):
        words = ("--judge_url", url, "--judge_model", "big", "--judge_workers", 1)
        stopped = run(*words, code=1)
        assert "refused a request with HTTP 402" in stopped.stderr and KEY not in stopped.output
        assert "the same command goes on from there" in stopped.stderr
        kept = read(tmp_path / "out" / "judgements.jsonl.part")
        assert len(kept) == 5
        with (tmp_path / "out" / "judgements.jsonl.part").open("a") as part:
            part.write('{"model": 1, "prompt": 5, "sam')  # what a killed process leaves
        refusing[0] = False
        run(*words)
    asked = read(tmp_path / "out" / "judgements.jsonl")
    assert len(done_questions) == len(set(done_questions)) == len(asked)
    assert not list((tmp_path / "out").glob("*.part"))


# --- stopping and going on


def test_a_stopped_command_goes_on_and_writes_the_same(run, rm, tmp_path, monkeypatch):
    words = ("--reward_model", rm.folder, "--judge", "judge.py:longer", "--samples", 2, "--batch_size", 4)
    three = ("soon", "late", "later")
    run(*words, names=three)
    files = ("answers.jsonl", "judgements.jsonl", "compare.json")
    whole = {name: (tmp_path / "out" / name).read_bytes() for name in files}
    (tmp_path / "out").rename(tmp_path / "whole")
    add, calls = Journal.add, []

    def interrupted(journal, rows):
        calls.append(journal.file.name)
        if len(calls) in (3, 9, 15, 25):
            raise KeyboardInterrupt
        add(journal, rows)

    monkeypatch.setattr(Journal, "add", interrupted)
    for _ in range(4):
        run(*words, names=three, code=3)
        with (tmp_path / "out" / calls[-1]).open("a") as part:
            part.write('{"model": 0, "pro')
    run(*words, names=three)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == whole
    assert len(set(calls)) == 2


def test_a_complete_comparison_is_shown_again_without_loading_a_model(run, tmp_path, monkeypatch):
    done = run("--judge", "judge.py:longer")
    monkeypatch.setattr(contestants, "load_sampler", None)
    again = run("--judge", "judge.py:longer")
    assert "out: is complete already; nothing to do" in again.stdout
    assert again.stdout.splitlines()[-8:] == done.stdout.splitlines()[-8:]


def test_other_settings_prompts_and_models_need_overwrite(run, models, tmp_path):
    run("--judge", "judge.py:longer")
    other = run("--judge", "judge.py:longer", "--seed", 7, code=2)
    assert "was begun with other settings:\n  seed: 42 → 7" in other.stderr
    run("--judge", "judge.py:longer", "--batch_size", 2)  # changes no number
    write(tmp_path / "prompts.jsonl", PROMPTS[1:])
    assert "the prompts have changed" in run("--judge", "judge.py:longer", code=2).stderr
    run("--judge", "judge.py:longer", "--overwrite")
    assert found(tmp_path)["prompts"] == 6


def test_a_folder_with_other_files_is_refused_and_they_survive(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    refused = run("--judge", "judge.py:longer", code=2)
    assert "holds files that this command did not write (thesis.tex)" in refused.stderr
    run("--judge", "judge.py:longer", "--overwrite")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "mine"


def test_a_broken_journal_is_named_with_its_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "score_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    run("--judge", "judge.py:longer", code=3)
    part = tmp_path / "out" / "answers.jsonl.part"
    lines = part.read_text().splitlines()
    part.write_text("\n".join([lines[0], "hello", *lines[1:], ""]))
    assert "answers.jsonl.part:2: is not as this command wrote it" in run("--judge", "judge.py:longer", code=2).stderr


# --- bad input, before any model is loaded


@pytest.mark.parametrize(
    "words, message",
    [
        (["A", "--judge", "judge.py:longer"], "error: --models A: a comparison needs two models or more"),
        (["A", "A", "--judge", "judge.py:longer"], "A is there twice"),
        (["A", "B"], "error: judge: nothing judges; give reward_model, reward_funcs, judge, judge_url or judge_dir"),
        (["A", "B", "--judge", "judge.py"], "judge judge.py: must look like file.py:function"),
        (["A", "B", "--judge", "judge.py:nothing"], "judge.py has no function nothing"),
        (["A", "B", "--judge", "no.py:fn"], "there is no file no.py"),
        (
            ["A", "B", "--judge", "judge.py:longer", "--judge_url", "http://h", "--judge_model", "m"],
            "give one of the two",
        ),
        (["A", "B", "--judge_url", "http://h"], "needs judge_model"),
        (["A", "B", "--judge_model", "m", "--judge", "judge.py:longer"], "belongs to judge_url"),
        (["A", "B", "--reward_model", "A"], "--reward_model"),
        (["A", "B", "--reward_model", "./nowhere"], "./nowhere"),
        (["A", "B", "--reward_funcs", "judge.py:nothing"], "has no function nothing"),
        (["A", "B", "--reward_funcs", "judge.py:longer"], "--reward_funcs judge.py:longer: takes no parameter"),
        (["A", "B", "--reward_funcs", "judge.py:size,judge.py:size"], "the name size is taken"),
        (["A", "./nowhere", "--judge", "judge.py:first"], "./nowhere: no such folder"),
        (["A", "RM", "--judge", "judge.py:first"], "is a reward model, which scores answers and writes none"),
        (["A", "B", "--judge", "judge.py:first", "--prompts", "none.jsonl"], "none.jsonl"),
        (["A", "B", "--judge", "judge.py:first", "--prompts", "empty.jsonl"], "empty.jsonl"),
        (
            ["A", "B", "--judge", "judge.py:longer", "--prompts", "bare.jsonl"],
            "needs word, which is no column of --prompts",
        ),
        (
            ["A", "B", "--reward_funcs", "judge.py:size", "--prompts", "bare.jsonl"],
            "needs word, which is no column of --pro",
        ),
        (["A", "B", "--judge", "judge.py:first", "--samples", "2", "--temperature", "0"], "the same answer every time"),
        (["A", "B", "--judge", "judge.py:first", "--max_length", "6"], "must be less than max_length"),
        (["A", "B", "--judge", "judge.py:first", "--max_new_tokens", "100000"], "was made for"),
        (["A", "B", "--judge", "judge.py:first", "--max_prompt_length", "100000"], "lower one of the two"),
        (["A", "B", "--judge", "judge.py:first", "--seed"], "--seed"),
    ],
)
def test_bad_input_is_named_before_any_model_is_loaded(words, message, models, rm, tmp_path, monkeypatch):
    write(tmp_path / "prompts.jsonl", PROMPTS)
    write(tmp_path / "bare.jsonl", [{"prompt": "x"}])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "judge.py").write_text(FUNCTIONS)
    for letter, folder in (("A", models / "soon"), ("B", models / "late"), ("RM", rm.folder)):
        (tmp_path / letter).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    given = words if "--prompts" in words else [*words, "--prompts", "prompts.jsonl"]
    more = [] if "--max_new_tokens" in words else ["--max_new_tokens", "6"]
    done = CliRunner().invoke(command_line.command, [*given[:-2], *more, *given[-2:]], prog_name="easyrlhf compare")
    assert done.exit_code == 2, done.output
    assert "\nerror: " in f"\n{done.stderr}" and message in done.stderr
    assert not (tmp_path / "outputs" / "compare" / "run.json").exists()


def test_a_function_that_raises_ends_the_command_and_answers_are_kept(run, tmp_path):
    done = run("--reward_funcs", "judge.py:fails", code=1)
    assert "reward function fails raised ValueError: not today (judge.py:15)" in done.stderr
    assert len(read(tmp_path / "out" / "answers.jsonl.part")) == 21  # of two models, and log-probabilities of one


def test_pairs_without_a_score_are_left_out_and_counted(run, tmp_path):
    done = run("--reward_funcs", "judge.py:sometimes", "--samples", 4)
    rows = read(tmp_path / "out" / "answers.jsonl")
    without = {(row["number"], row["sample"]) for row in rows if row["scores"]["sometimes"] is None}
    [entry] = found(tmp_path)["comparisons"]
    assert 0 < len(without) < 28
    assert (entry["left_out"], entry["n"]) == (len(without), 28 - len(without))
    assert f"warning: {len(without)} pairs of late are left out by sometimes" in done.stdout


# --- the words and the page


def made(texts: list[str], scores: list[float | None]) -> list[ComparedAnswer]:
    return [
        ComparedAnswer(i, 0, text, True, {"rm": score})
        for i, (text, score) in enumerate(zip(texts, scores, strict=True))
    ]


def test_models_are_called_by_the_end_of_their_path_where_that_tells_them_apart():
    assert short_names(["outputs/sft", "Qwen/Qwen2.5-0.5B"]) == ["sft", "Qwen2.5-0.5B"]
    assert short_names(["a/ppo", "b/ppo"]) == ["a/ppo", "b/ppo"]


def test_the_verdict_says_who_wins_and_what_is_left_at_equal_length():
    texts = [f"{'x' * (5 + i % 3)}" for i in range(40)]
    longer = ["y" * (5 + (i + 1) % 3) for i in range(40)]
    high = measured(["a", "b"], ["rm"], [made(texts, [0.0] * 40), made(longer, [1.0] * 40)], None)
    assert re.fullmatch(
        r"b beats a by rm: 100\.0 % \(91\.2 to 100\.0\) of 40 prompts; at equal length 9\d\.\d % \(.*\)",
        high["verdicts"][0],
    )
    low = measured(["a", "b"], ["rm"], [made(texts, [1.0] * 40), made(longer, [0.0] * 40)], None)
    assert low["verdicts"][0].startswith("a beats b by rm: 100.0 % (91.2 to 100.0) of 40 prompts")
    even = measured(["a", "b"], ["rm"], [made(texts, [0.0, 1.0] * 20), made(longer, [1.0, 0.0] * 20)], None)
    assert even["verdicts"] == [
        "no difference can be told between b and a by rm with 40 prompts: b wins 50.0 % (35.2 to 64.8)"
    ]
    always = measured(["a", "b"], ["rm"], [made(["x"] * 40, [0.0] * 40), made(["yy"] * 40, [1.0] * 40)], None)
    assert always["verdicts"][0].endswith(
        "what it would be at equal length cannot be told, as one model always writes more"
    )
    assert always["comparisons"][0]["length_controlled"] is None


def test_a_win_by_length_alone_is_said_to_be_none():
    gaps = [10, 12, 14, 9, -3, 11, 8, -2, 13, 10, 1, -1] * 10
    texts, others = ["x" * 20] * 120, ["y" * (20 + gap) for gap in gaps]
    numbers = measured(["a", "b"], ["rm"], [made(texts, [0.0] * 120), made(others, [float(gap) for gap in gaps])], None)
    assert numbers["comparisons"][0]["win_rate"] == pytest.approx(0.75)
    assert numbers["verdicts"][0].startswith("b beats a by rm: 75.0 %")
    assert numbers["verdicts"][0].endswith(", where no difference can be told")


def test_the_same_text_is_a_tie_although_rounding_sets_its_scores_apart():
    numbers = measured(["a", "b"], ["rm"], [made(["x", "y"], [1.0, 2.0]), made(["x", "z"], [1.0000001, None])], None)
    [entry] = numbers["comparisons"]
    assert (entry["n"], entry["ties"], entry["left_out"], entry["difference"]["mean"]) == (1, 1, 1, 0.0)


def test_nothing_judged_is_said():
    numbers = measured(["a", "b"], ["rm"], [made(["x"], [None]), made(["z"], [1.0])], None)
    assert numbers["verdicts"] == ["nothing can be said of b by rm: no pair could be judged"]


def test_agreement_counts_the_pairs_that_were_asked_and_understood():
    verdicts = [
        [
            JudgeVerdict(1.0, True),
            JudgeVerdict(0.5, False),
            JudgeVerdict(None),
            JudgeVerdict(0.5),
            JudgeVerdict(0.0, True),
        ]
    ]
    answers = made(list("abcde"), [0.0] * 5)
    numbers = measured(["a", "b"], [], [answers, answers], verdicts)
    assert numbers["judge"] == {
        "pairs": 5,
        "asked": 4,
        "agreement": pytest.approx(2 / 3),
        "unreadable": 1,
        "identical": 1,
    }
    [entry] = numbers["comparisons"]
    assert (entry["wins"], entry["ties"], entry["losses"], entry["left_out"]) == (1, 2, 1, 1)


def test_samples_are_the_largest_gaps_either_way_and_the_smallest():
    first = made(list("abcdefghijkl"), [0.0] * 12)
    gaps = [9.0, -9.0, 8.0, -8.0, 7.0, -7.0, 6.0, -6.0, 0.1, -0.2, 0.3, None]
    other = made([*"ABCDEFGH", "I", "J", "k", "L"], gaps)  # the 11th answer is the same text
    found = pairs_to_read([first, other], None, "rm")
    assert found["better"] == [(1, 0), (1, 2), (1, 4), (1, 6)]
    assert found["worse"] == [(1, 1), (1, 3), (1, 5), (1, 7)]
    assert set(found["alike"]) <= {(1, 8), (1, 9), (1, 10)} and (1, 8) in found["alike"]


def test_the_page_is_one_file_with_the_verdict_the_numbers_and_samples(run, rm, tmp_path):
    run("--reward_model", rm.folder, "--judge", "judge.py:longer", "--prompts", "odd.jsonl", code=2)
    odd = [{"prompt": [{"role": "user", "content": f"<b>Say {word}</b>"}], "word": word} for word in WORDS]
    write(tmp_path / "odd.jsonl", odd)
    run("--reward_model", rm.folder, "--judge", "judge.py:longer", "--prompts", "odd.jsonl")
    page = (tmp_path / "out" / "compare.html").read_text()
    numbers = found(tmp_path)
    assert all(verdict in page for verdict in numbers["verdicts"])
    assert f"{100 * numbers['comparisons'][0]['win_rate']:.1f} %" in page
    assert "<script" not in page and not re.search(r"(?:src|href)=\"http", page)
    assert "&lt;b&gt;Say" in page and "<b>Say" not in page
    assert page.count("<svg") >= 4
    assert "max_new_tokens" in page and "KL of late" in page


def test_help_fits_its_examples_parse_and_nothing_heavy_is_loaded(monkeypatch):
    seen: list[CompareConfig] = []
    monkeypatch.setattr(compare, "compare_models", seen.append)
    shown = CliRunner().invoke(command_line.command, ["--help"], prog_name="easyrlhf compare").stdout
    assert max(map(len, shown.splitlines())) <= 100
    for example in command_line.PAGE.examples:
        done = CliRunner().invoke(command_line.command, shlex.split(example)[2:], prog_name="easyrlhf compare")
        assert done.exit_code == 0, done.output
    assert [len(config.paths) for config in seen] == [2, 3, 2, 2]
    code = "import sys; from easyrlhf.cli.compare import command; print({'torch', 'numpy', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_every_command_of_the_page_of_documentation_parses(monkeypatch):
    seen: list[CompareConfig] = []
    monkeypatch.setattr(compare, "compare_models", seen.append)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [words for line in lines if (words := shlex.split(line, comments=True))]
    for program, *words in commands:
        if program == "export":
            continue
        assert (program, words[0]) == ("easyrlhf", "compare")
        done = CliRunner().invoke(command_line.command, words[1:], prog_name="easyrlhf compare")
        assert done.exit_code == 0, done.output
    assert len(seen) >= 5
    assert seen[0].paths == ("outputs/sft", "outputs/ppo")
